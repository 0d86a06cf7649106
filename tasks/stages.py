"""The study's stages: where each is published, what it reads, whether it holds. Told from the disk, without torch."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.settings import BenchmarkSettings, ModelSettings, Settings
from storage.files import fingerprint, sha256_file
from storage.stages import StageKey, StageState, doubts, read_manifest, result_digest, stage_state
from storage.workspace import Workspace
from tasks.evaluate.results import (
    BASE,
    answers_folder,
    data_of,
    results_folder,
    study_methods,
    study_runs,
    study_seeds,
)
from tasks.evaluate.task_folders import task_folders_identity
from tasks.hub import data_set_commits, repository
from tasks.models import model_identity, world_benchmarks_identity
from tasks.tune.plan import MEMORY_SETTINGS
from tasks.tune.rates import chosen_rate

# Raise a stage's version when its code gives other results for the same inputs.
VERSIONS = {
    "world": 1,
    "generate": 2,
    "filter": 3,
    "prefer": 3,
    "search": 1,
    "tune": 2,
    "evaluate": 3,
    "judge": 2,
    "report": 6,
}


@dataclass(frozen=True)
class Stage:
    """One published folder of the study."""

    name: str
    kind: str
    folder: Path
    settings: dict[str, Any]
    inputs: Callable[[], dict[str, str | None]]
    method: str = ""
    """What is trained or evaluated, where that is what the stage does."""
    seed: int = 0
    """The seed of that training."""

    def key(self) -> StageKey | None:
        """What the stage reads now, or None while an input is missing."""
        read = self.inputs()
        inputs = {name: digest for name, digest in read.items() if digest is not None}
        return StageKey(self.name, VERSIONS[self.kind], self.settings, inputs) if len(inputs) == len(read) else None

    def require_key(self) -> StageKey:
        """What the stage reads.

        Raises:
            MissingInputError: a stage before it is not published.
        """
        key = self.key()
        if key is None:
            raise MissingInputError(
                f"{self.name} needs {' and '.join(self.missing_inputs())}, which {NOT_THERE}; "
                "run the stage that makes it, or `python -m flows.full_pipeline`, with the same profile and workspace"
            )
        return key

    def missing_inputs(self) -> list[str]:
        """Inputs that are not published yet."""
        return [name for name, digest in self.inputs().items() if digest is None]

    def state(self) -> StageState:
        """Whether the published folder holds for today's settings and inputs."""
        key = self.key()
        if key is None:
            published = read_manifest(self.folder) is not None
            return StageState(False, [f"input {name} is missing" for name in self.missing_inputs()] * published)
        return stage_state(self.folder, key)


NOT_THERE = "is not published in this workspace"


class MissingInputError(RuntimeError):
    """A stage cannot run because one before it has not; the message names it."""


def study_stages(settings: Settings, workspace: Workspace) -> dict[str, Stage]:
    """Every stage of a study by name, in the order in which they run."""
    seed = settings.seed
    models = settings.models
    stages: list[Stage] = []

    def model(spec: ModelSettings) -> str | None:
        return model_identity(spec, workspace)

    if settings.world:
        stages.append(Stage("world", "world", workspace.world, _dump(settings.world) | {"seed": seed}, dict))
    stages.append(
        Stage(
            "generate",
            "generate",
            workspace.raw,
            settings.generation.model_dump(mode="json", exclude={"rows_per_shard", "batches_in_flight"})
            | {"seed": seed, "teacher": models.teacher.name},
            lambda: {"the teacher": model(models.teacher)},
        )
    )
    stages.append(
        Stage(
            "filter",
            "filter",
            workspace.filtered,
            _dump(settings.filter)
            | {"seed": seed, "benchmarks": [benchmark.task for benchmark in settings.evaluation.benchmarks.values()]},
            lambda: (
                {"data/raw": result_digest(workspace.raw)}
                | _benchmarks(settings, workspace, settings.evaluation.benchmarks.values())
            ),
        )
    )
    stages.append(
        Stage(
            "prefer",
            "prefer",
            workspace.preference,
            settings.preference.model_dump(mode="json", exclude={"score_batch"})
            | {"seed": seed, "responders": [spec.name for spec in models.responders]},
            lambda: {
                "data/filtered": result_digest(workspace.filtered),
                "the reward model": model(models.reward),
                **{f"responder {repository(spec).asked}": model(spec) for spec in models.responders},
            },
        )
    )
    for method in study_methods(settings):
        if settings.tuning.methods[method].search_rates:
            stages.append(_search_stage(method, settings, workspace))
        stages += [_tune_stage(method, one, settings, workspace) for one in study_seeds(settings)]
    stages += [_evaluate_stage(method, one, settings, workspace) for method, one in study_runs(settings)]
    stages += [_judge_stage(method, one, settings, workspace) for method, one in study_runs(settings)]
    stages.append(
        Stage(
            "report",
            "report",
            workspace.evaluation,
            {
                "targets": _dump(settings.targets),
                "profile": settings.profile,
                "hardware": settings.hardware.model_dump(include={"gpu", "memory_gb"}),
                **settings.evaluation.model_dump(
                    include={"benchmarks", "forgetting", "permutations", "alpha", "power"}
                ),
            },
            lambda: (
                _whatever_is_published([stage for stage in stages if stage.kind not in ("world", "report")], workspace)
                | {
                    "evaluation/human": _given(workspace.evaluation / "human", "ratings*.json"),
                    "evaluation/attached": _given(workspace.evaluation / "attached", "*.json"),
                }
            ),
        )
    )
    return {stage.name: stage for stage in stages}


def _benchmarks(
    settings: Settings, workspace: Workspace, benchmarks: Iterable[BenchmarkSettings]
) -> dict[str, str | None]:
    """What questions are read from: the world's files, or lm-eval's tasks and the commits of the hub's data sets."""
    read: dict[str, str | None] = {}
    if folders := settings.evaluation.task_folders:
        read["evaluation.task_folders"] = task_folders_identity([Path(folder) for folder in folders])
    if settings.world:
        return read | {"the benchmarks": world_benchmarks_identity(workspace)}
    read["the benchmarks"] = importlib.metadata.version("lm-eval")
    for task in sorted({benchmark.task for benchmark in benchmarks}):
        commits = data_set_commits(task, workspace)
        read[data_of(task)] = None if commits is None else fingerprint(commits)
    return read


def _search_stage(method: str, settings: Settings, workspace: Workspace) -> Stage:
    section = settings.tuning.methods[method]
    own = section.model_dump(exclude={*MEMORY_SETTINGS, "learning_rate", "epochs"}) | {
        "search_rates": sorted(section.search_rates),
        "search_epochs": settings.tuning.search_epochs,
        "seed": settings.seed,
    }
    return Stage(
        f"search-{method}",
        "search",
        workspace.search(method),
        own,
        lambda: _training_inputs(method, settings.seed, settings, workspace),
        method,
        settings.seed,
    )


def _tune_stage(method: str, seed: int, settings: Settings, workspace: Workspace) -> Stage:
    section = settings.tuning.methods[method]
    search = workspace.search(method)
    own = section.model_dump(exclude={*MEMORY_SETTINGS, "search_rates"}) | {"seed": seed}
    if section.search_rates:
        del own["learning_rate"]  # the search's takes its place

    def inputs() -> dict[str, str | None]:
        read = _training_inputs(method, seed, settings, workspace)
        if section.search_rates:
            rate = chosen_rate(search)
            read[workspace.relative(search)] = result_digest(search)
            read["the learning rate"] = None if rate is None else f"{rate!r}"
        return read

    name = _with_seed(f"tune-{method}", seed, settings)
    return Stage(name, "tune", workspace.adapter(method, seed), own, inputs, method, seed)


def _training_inputs(method: str, seed: int, settings: Settings, workspace: Workspace) -> dict[str, str | None]:
    data = workspace.preference if method == "dpo" else workspace.filtered
    read = {
        "the base model": model_identity(settings.models.base, workspace),
        workspace.relative(data): _files(data, "train.jsonl", "val.jsonl", "test.jsonl"),
    }
    if method == "dpo":
        read["models/sft"] = result_digest(workspace.adapter("sft", seed))
    return read


def _evaluate_stage(method: str, seed: int, settings: Settings, workspace: Workspace) -> Stage:
    def inputs() -> dict[str, str | None]:
        read: dict[str, str | None] = {"the base model": model_identity(settings.models.base, workspace)}
        read |= _benchmarks(settings, workspace, settings.evaluation.asked.values())
        if method != BASE:
            read[f"models/{method}"] = result_digest(workspace.adapter(method, seed))
        return read

    elsewhere = {"permutations", "alpha", "power", "answer_rows", "answer_max_new_tokens", "human_pairs"}
    elsewhere.add("task_folders")  # among the inputs, by what lies in them
    own = settings.evaluation.model_dump(mode="json", exclude=elsewhere) | {
        "seed": settings.seed,  # of the questions drawn: the same for every model
        "reserved_tokens": settings.tuning.longest_soft_prompt,
    }
    name = _with_seed(f"evaluate-{method}", seed, settings)
    return Stage(name, "evaluate", results_folder(workspace, method, seed), own, inputs, method, seed)


def _judge_stage(method: str, seed: int, settings: Settings, workspace: Workspace) -> Stage:
    def inputs() -> dict[str, str | None]:
        read: dict[str, str | None] = {
            "the base model": model_identity(settings.models.base, workspace),
            "the reward model": model_identity(settings.models.reward, workspace),
            workspace.relative(workspace.filtered): _files(workspace.filtered, "test.jsonl"),
        }
        if method != BASE:
            read[f"models/{method}"] = result_digest(workspace.adapter(method, seed))
        return read

    own = settings.evaluation.model_dump(mode="json", include={"answer_rows", "answer_max_new_tokens", "batch_size"})
    name = _with_seed(f"judge-{method}", seed, settings)
    return Stage(name, "judge", answers_folder(workspace, method, seed), own, inputs, method, seed)


def _with_seed(name: str, seed: int, settings: Settings) -> str:
    return name if seed == settings.seed else f"{name}-seed-{seed}"


def _files(folder: Path, *names: str) -> str | None:
    manifest = read_manifest(folder)
    if manifest is None or any(name not in manifest["outputs"] for name in names):
        return None
    return fingerprint({name: manifest["outputs"][name]["sha256"] for name in names})


def _content(stage: Stage) -> str | None:
    """Results and measurements, which the report shows, and what keeps it from showing them."""
    manifest = read_manifest(stage.folder)
    if manifest is None:
        return None
    listed = manifest["outputs"] | manifest["measurements"]
    gone = [name for name in listed if not (stage.folder / name).is_file()]
    return fingerprint([listed, manifest.get("failures"), gone, doubts(stage.folder, stage.key())])


def _whatever_is_published(stages: list[Stage], workspace: Workspace) -> dict[str, str | None]:
    """A report shows what is there, and the rest as missing; nothing at all is no study."""
    content = {workspace.relative(stage.folder): _content(stage) for stage in stages}
    if any(content.values()):
        return {name: digest or NOT_THERE for name, digest in content.items()}
    return content


def _given(folder: Path, pattern: str) -> str:
    """Ratings and results that a person may put there at any time."""
    return fingerprint({path.name: sha256_file(path) for path in folder.glob(pattern) if path.is_file()})


def _dump(section: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = section.model_dump(mode="json")
    return dumped
