"""One method's evaluation: each benchmark a sealed folder of its own, all published together."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from configs.settings import Settings
from storage.files import fingerprint, folder_aside, read_jsonl, write_json
from storage.seals import SEAL, read_seal, seal
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.evaluate.results import (
    BASE,
    MEASURE_SPEED,
    SPEED,
    evaluation_parts,
    part_folder,
    write_benchmark,
)
from tasks.evaluate.task_folders import task_folders_identity
from tasks.hub import commits, data_set_commits, data_sets_folder, pin_data_sets
from tasks.models import model_source, revision_on_record
from tasks.process import ModelPool, run_in_child
from tasks.provenance import provenance
from tasks.stages import Stage

MEASUREMENTS = ("*.seconds.json", SPEED)


class MethodWork:
    """A model to evaluate: its process, and where its answers lie meanwhile."""

    def __init__(self, settings: Settings, workspace: Workspace, stage: Stage) -> None:
        """Nothing is loaded until the first benchmark that is not on disk."""
        self.name = stage.name.removeprefix("evaluate-")
        self._settings, self._workspace, self._stage = settings, workspace, stage
        self._key = stage.require_key()
        adapter = None if stage.method == BASE else str(workspace.adapter(stage.method, stage.seed))
        self._pool = ModelPool(
            "tasks.evaluate.harness:Evaluator",
            {
                "base": model_source(settings.models.base, workspace),
                "revision": revision_on_record(settings.models.base, workspace),
                "precision": settings.models.base.precision,
                "batch_size": settings.evaluation.batch_size,
                "adapter": adapter,
                "reserved_tokens": settings.tuning.longest_soft_prompt,
            },
            threads=settings.hardware.threads,
        )

    @property
    def parts(self) -> list[str]:
        """What is asked of the model."""
        return evaluation_parts(self._settings)

    def part_key(self, part: str) -> str:
        """Names one part's work."""
        return f"{self.name}-{part}-{self._folder(part).name}"

    def check(self, part: str) -> Callable[[], Any]:
        """Tells whether the part is whole on disk."""
        return lambda: read_seal(self._folder(part))

    def evaluate(self, part: str) -> dict[str, Any]:
        """Run one benchmark, or the speed measurement, and persist it; what is on disk is returned as it is."""
        if (note := self.check(part)()) is not None:
            return dict(note)
        with folder_aside(self._folder(part)) as aside:
            note = self._measure_speed(aside) if part == MEASURE_SPEED else self._run_benchmark(part, aside)
            seal(aside, note)
        return note

    def close(self) -> None:
        """End the process."""
        self._pool.close()

    def publish(self, failures: Mapping[str, str]) -> None:
        """Publish every part together as `evaluation/results/<method>`, without those that failed, and say why."""
        described = provenance(self._settings, self._workspace)
        with publishing(self._stage.folder, self._key, described, MEASUREMENTS, failures) as folder:
            for part in self.parts:
                if part not in failures:
                    shutil.copytree(self._folder(part), folder, ignore=shutil.ignore_patterns(SEAL), dirs_exist_ok=True)

    def _folder(self, part: str) -> Path:
        return part_folder(self._workspace, self._key, part)

    def _run_benchmark(self, name: str, folder: Path) -> dict[str, Any]:
        evaluation = self._settings.evaluation
        task = evaluation.asked[name].task
        with benchmark_tasks(self._settings, self._workspace) as known:
            answer = self._pool.call("evaluate", task=task, **known, limit=evaluation.limit, seed=self._settings.seed)
        return write_benchmark(folder, name, answer, self._pool.device)

    def _measure_speed(self, folder: Path) -> dict[str, Any]:
        evaluation = self._settings.evaluation
        rows = read_jsonl(self._workspace.filtered / "test.jsonl")[: evaluation.speed_rows]
        speed = self._pool.call(
            "measure_speed",
            prompts=[row["instruction"] for row in rows],
            new_tokens=evaluation.speed_new_tokens,
            repeats=evaluation.speed_repeats,
        )
        write_json(folder / SPEED, speed)
        return {"rows": len(rows)}


@contextmanager
def benchmark_tasks(settings: Settings, workspace: Workspace) -> Iterator[dict[str, Any]]:
    """Yield where the study's tasks are found, as `load_tasks` takes it: one's own, and the world's or lm-eval's."""
    own = [str(Path(folder).resolve()) for folder in settings.evaluation.task_folders]
    pinned = commits(workspace)["dataset"]
    if not settings.world:
        yield {"task_folders": own, "stock": True, "revisions": pinned}
        return

    from tasks.demo.benchmarks import write_tasks

    # a temporary folder: the YAMLs hold absolute paths, which nothing published may
    with TemporaryDirectory(prefix="tasks-") as folder:
        write_tasks(workspace.world, Path(folder))
        # lm-eval's own take seconds to find, and only a task of one's own can ask for them
        yield {"task_folders": [folder, *own], "stock": bool(own), "revisions": pinned}


def fetch_benchmarks(settings: Settings, workspace: Workspace) -> None:
    """Pin the hub's data sets that the benchmarks read, and bring their rows here: whoever reads them asks nobody.

    Raises:
        HubError: a data set cannot be had.
        ChildError: lm-eval cannot read one.
    """
    tasks = study_tasks(settings)
    threads = settings.hardware.threads
    with benchmark_tasks(settings, workspace) as known:
        if any(data_set_commits(task, workspace) is None for task in tasks):
            told = run_in_child("tasks.evaluate.tasks:hub_data_sets", {"names": tasks, **known}, threads=threads)
            pin_data_sets(told, workspace)
    read = {task: data_set_commits(task, workspace) for task in tasks}
    # of a task that names no data set only its Python code knows what it reads; the world's read the world's files
    wanted = {task: read[task] for task in tasks if read[task] or not settings.world}
    own = task_folders_identity([Path(folder) for folder in settings.evaluation.task_folders])
    mark = fingerprint([wanted, own, importlib.metadata.version("lm-eval")])
    fetched = data_sets_folder() / f"fetched-{mark}.json"
    if not wanted or fetched.is_file():
        return
    tqdm.write(f"fetching the data of {', '.join(wanted)}", file=sys.stderr)
    with benchmark_tasks(settings, workspace) as known:
        arguments = {"names": list(wanted), **known}
        run_in_child("tasks.evaluate.tasks:fetch_data", arguments, threads=threads, online=True)
    write_json(fetched, wanted)


def study_tasks(settings: Settings) -> list[str]:
    """Every lm-eval task that a study asks, that of forgetting included."""
    return sorted({benchmark.task for benchmark in settings.evaluation.asked.values()})


def evaluate_benchmark(work: MethodWork, part: str) -> dict[str, Any]:
    """One benchmark of one model, as a task."""
    return work.evaluate(part)
