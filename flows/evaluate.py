"""Every method on every benchmark, with lm-evaluation-harness; the zero-shot base model first (2.5.1).

Run alone: `python -m flows.evaluate --profile demo`.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

from prefect import flow

from configs.settings import Settings
from flows.batches import Unit, at_once, run_units
from flows.cli import run
from storage.workspace import Workspace
from tasks.evaluate.results import MEASURE_SPEED, evaluation_parts
from tasks.evaluate.work import MethodWork, evaluate_benchmark, fetch_benchmarks
from tasks.models import fetch_models
from tasks.stages import study_stages


class IncompleteEvaluationError(RuntimeError):
    """Some benchmarks failed; all others are published, and the report shows these as missing."""


@flow(
    name="evaluate",
    flow_run_name="evaluate-{settings.profile}-{settings.seed}",
    persist_result=False,
    task_runner=at_once(64),
)
def evaluate(settings: Settings, workspace: Path) -> None:
    """Score the base model and each adapter; a model is loaded once, in a process of its own, for all benchmarks."""
    place = Workspace(workspace)
    stages = study_stages(settings, place).values()
    waiting = [stage for stage in stages if stage.kind == "evaluate" and not stage.state().done]
    if waiting:
        fetch_models([settings.models.base], place)
        fetch_benchmarks(settings, place)
    size = settings.hardware.workers
    failures: dict[str, str] = {}
    for group in [waiting[i : i + size] for i in range(0, len(waiting), size)]:
        works = [MethodWork(settings, place, stage) for stage in group]
        try:
            units: list[Unit] = []
            for part, work in product(evaluation_parts(settings), works):
                # the speeds after all else and one after the other: what computes beside them would slow them down
                before = tuple(unit.name for unit in units) if part == MEASURE_SPEED else ()
                arguments = {"work": work, "part": part}
                units.append(
                    Unit(f"{work.name}-{part}", work.part_key(part), arguments, work.check(part), after=before)
                )
            label = "evaluate " + " and ".join(work.name for work in works)
            run_units(evaluate_benchmark, units, place.state / "prefect", label, "benchmark", failures=failures)
        finally:
            for work in works:
                work.close()
        for work in works:
            own = {part: failures[f"{work.name}-{part}"] for part in work.parts if f"{work.name}-{part}" in failures}
            work.publish(own)
    if failures:
        told = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        raise IncompleteEvaluationError(f"{len(failures)} failed, and are shown as missing until they succeed:\n{told}")


if __name__ == "__main__":
    sys.exit(run(evaluate, "evaluate", ["evaluate"]))
