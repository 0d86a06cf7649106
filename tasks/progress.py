"""How far a stage is: units that lie whole on disk out of those wanted."""

from __future__ import annotations

from configs.settings import Settings
from storage.checkpoints import checkpoint_step, newest_checkpoint
from storage.seals import read_seal
from storage.workspace import Workspace
from tasks.evaluate.answers import answer_store, held_out_instructions
from tasks.evaluate.results import part_folder
from tasks.generate import rows as magpie
from tasks.models import model_identity
from tasks.stages import Stage
from tasks.tune.search import candidates
from tasks.tune.work import TrainingWork, training_steps

Progress = tuple[int, int, str]


def stage_progress(stage: Stage, settings: Settings, workspace: Workspace, done: bool) -> Progress:
    """(done, total, unit) of a stage."""
    total, unit = _total(stage, settings, workspace)
    if done:
        return total, total, unit
    counted = {
        "generate": _raw_rows,
        "prefer": _preference_rows,
        "search": _candidates,
        "tune": _steps,
        "evaluate": _benchmarks,
        "judge": _answers,
    }.get(stage.kind)
    return (min(counted(stage, settings, workspace), total) if counted else 0), total, unit


def _total(stage: Stage, settings: Settings, workspace: Workspace) -> tuple[int, str]:
    match stage.kind:
        case "generate":
            return settings.generation.rows, "rows drawn"
        case "prefer":
            return settings.preference.pairs, "instructions answered by every responder"
        case "search":
            return len(settings.tuning.methods[stage.method].search_rates), "learning rates tried"
        case "tune":
            return training_steps(stage.method, settings.tuning.methods[stage.method], settings), "optimizer steps kept"
        case "evaluate":
            return len(settings.evaluation.benchmarks), "benchmarks"
        case "judge":
            asked = _asked(settings, workspace)
            wanted = settings.evaluation.answer_rows if asked is None else len(asked)
            return wanted, "held-out instructions answered"
        case _:
            return 1, "stage"


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


def _candidates(stage: Stage, settings: Settings, workspace: Workspace) -> int:
    if stage.key() is None:
        return 0
    return sum(one.outcome() is not None for one in candidates(settings, workspace, stage))


def _steps(stage: Stage, settings: Settings, workspace: Workspace) -> int:
    if stage.key() is None:
        return 0
    newest = newest_checkpoint(TrainingWork(settings, workspace, stage).run.checkpoints)
    return checkpoint_step(newest) if newest else 0


def _benchmarks(stage: Stage, settings: Settings, workspace: Workspace) -> int:
    key = stage.key()
    if key is None:
        return 0
    return sum(
        read_seal(part_folder(workspace, key, benchmark)) is not None for benchmark in settings.evaluation.benchmarks
    )


def _answers(stage: Stage, settings: Settings, workspace: Workspace) -> int:
    if stage.key() is None:
        return 0
    return len(answer_store(settings, workspace, stage).rows().keys() & (_asked(settings, workspace) or {}).keys())


def _asked(settings: Settings, workspace: Workspace) -> dict[str, str] | None:
    """The held-out instructions, which may be fewer than wanted; None while they are not known."""
    try:
        return held_out_instructions(settings, workspace)
    except (OSError, ValueError, KeyError, TypeError):
        return None
