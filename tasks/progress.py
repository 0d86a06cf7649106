"""How far a stage is: units that lie whole on disk out of those wanted."""

from __future__ import annotations

from configs.settings import Settings
from storage.checkpoints import checkpoint_step, newest_checkpoint
from storage.seals import read_seal
from storage.workspace import Workspace
from tasks.evaluate.results import unpublished_results
from tasks.generate import rows as magpie
from tasks.models import model_identity
from tasks.stages import Stage

Progress = tuple[int, int, str]


def stage_progress(stage: Stage, settings: Settings, workspace: Workspace, done: bool) -> Progress:
    """(done, total, unit) of a stage."""
    total, unit = _total(stage, settings)
    if done:
        return total, total, unit
    counted = {
        "generate": _raw_rows,
        "prefer": _preference_rows,
        "tune": _steps,
        "evaluate": _benchmarks,
    }.get(stage.kind)
    return (min(counted(stage, settings, workspace), total) if counted else 0), total, unit


def _total(stage: Stage, settings: Settings) -> tuple[int, str]:
    match stage.kind:
        case "generate":
            return settings.generation.rows, "rows drawn"
        case "prefer":
            return settings.preference.pairs, "instructions answered by every responder"
        case "tune":
            return tune_steps(stage.name.removeprefix("tune-"), settings), "optimizer steps kept"
        case "evaluate":
            return len(settings.evaluation.benchmarks), "benchmarks"
        case _:
            return 1, "stage"


def tune_steps(method: str, settings: Settings) -> int:
    """Optimizer steps of a training run."""
    section = getattr(settings.tuning, method)
    rows = settings.preference.train_pairs if method == "dpo" else settings.filter.train_rows
    return int(section.epochs * -(-rows // section.batch_size))


def _raw_rows(stage: Stage, settings: Settings, workspace: Workspace) -> int:
    identity = model_identity(settings.models.teacher, workspace)
    if identity is None:
        return 0
    return magpie.settled_rows(*magpie.row_stores(settings, workspace, identity), settings.generation)


def _preference_rows(stage: Stage, settings: Settings, workspace: Workspace) -> int:
    counts = []
    for responder in settings.models.responders:
        identity = model_identity(responder, workspace) or ""
        store = magpie.response_store(workspace, settings.preference.sampling, settings.seed, identity)
        counts.append(len(store.rows()))
    return min(counts)


def _steps(stage: Stage, settings: Settings, workspace: Workspace) -> int:
    key = stage.key()
    newest = newest_checkpoint(workspace.state / "checkpoints" / f"{stage.name}-{key.fingerprint}") if key else None
    return checkpoint_step(newest) if newest else 0


def _benchmarks(stage: Stage, settings: Settings, workspace: Workspace) -> int:
    key = stage.key()
    if key is None:
        return 0
    folder = unpublished_results(workspace, key)
    return sum(read_seal(folder / benchmark) is not None for benchmark in settings.evaluation.benchmarks)
