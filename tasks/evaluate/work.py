"""One method's evaluation: each benchmark a sealed folder of its own, all published together."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from configs.settings import Settings
from storage.files import folder_aside, read_jsonl, write_json
from storage.seals import SEAL, read_seal, seal
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.evaluate.results import (
    BASE,
    FORGETTING,
    MEASURE_SPEED,
    SPEED,
    evaluation_parts,
    part_folder,
    write_benchmark,
)
from tasks.models import model_source
from tasks.process import ModelPool
from tasks.provenance import provenance
from tasks.stages import Stage

MEASUREMENTS = ("*.seconds.json", SPEED)


class MethodWork:
    """A model to evaluate: its process, and where its answers lie meanwhile."""

    def __init__(self, settings: Settings, workspace: Workspace, stage: Stage, revision: str | None) -> None:
        """Nothing is loaded until the first benchmark that is not on disk."""
        self.name = stage.name.removeprefix("evaluate-")
        self._settings, self._workspace, self._stage = settings, workspace, stage
        self._key = stage.require_key()
        adapter = None if stage.method == BASE else str(workspace.adapter(stage.method, stage.seed))
        self._pool = ModelPool(
            "tasks.evaluate.harness:Evaluator",
            {
                "base": model_source(settings.models.base, workspace),
                "revision": revision,
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
        with publishing(self._stage.folder, self._key, provenance(self._settings), MEASUREMENTS, failures) as folder:
            for part in self.parts:
                if part not in failures:
                    shutil.copytree(self._folder(part), folder, ignore=shutil.ignore_patterns(SEAL), dirs_exist_ok=True)

    def _folder(self, part: str) -> Path:
        return part_folder(self._workspace, self._key, part)

    def _run_benchmark(self, name: str, folder: Path) -> dict[str, Any]:
        evaluation = self._settings.evaluation
        benchmark = evaluation.benchmarks[name] if name != FORGETTING else evaluation.forgetting
        assert benchmark is not None  # else it is no part
        with benchmark_tasks(self._settings, self._workspace) as known:
            answer = self._pool.call(
                "evaluate", task=benchmark.task, **known, limit=evaluation.limit, seed=self._settings.seed
            )
        return write_benchmark(folder, name, answer)

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
    if not settings.world:
        yield {"task_folders": own, "stock": True}
        return

    from tasks.demo.benchmarks import write_tasks

    # a temporary folder: the YAMLs hold absolute paths, which nothing published may
    with TemporaryDirectory(prefix="tasks-") as folder:
        write_tasks(workspace.world, Path(folder))
        # lm-eval's own take seconds to find, and only a task of one's own can ask for them
        yield {"task_folders": [folder, *own], "stock": bool(own)}


def evaluate_benchmark(work: MethodWork, part: str) -> dict[str, Any]:
    """One benchmark of one model, as a task."""
    return work.evaluate(part)
