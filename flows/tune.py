"""LoRA, prompt tuning and DPO on one base model, each run in a fresh process that resumes where it was killed (2.4).

Run alone: `python -m flows.tune --profile demo`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow

from configs.settings import Settings
from flows.batches import Unit, at_once, run_units
from flows.cli import run
from storage.workspace import Workspace
from tasks.models import resolve_revision
from tasks.stages import study_stages
from tasks.tune.work import TrainingWork, train_method


@flow(name="tune", flow_run_name="tune-{settings.profile}-{settings.seed}", persist_result=False)
def tune(settings: Settings, workspace: Path) -> None:
    """Train LoRA and prompt tuning on the filtered rows, then DPO on the LoRA adapter and the preference pairs."""
    resolve_revision(settings.models.base, Workspace(workspace))
    workers = at_once(settings.hardware.workers)
    train = train_methods.with_options(task_runner=workers)
    train(settings, workspace, ["sft", "prompt_tuning"])
    train(settings, workspace, ["dpo"])


@flow(name="train", flow_run_name="train-{settings.profile}-{settings.seed}", persist_result=False)
def train_methods(settings: Settings, workspace: Path, methods: list[str]) -> None:
    """Train the methods that are not published yet."""
    place = Workspace(workspace)
    stages = [study_stages(settings, place)[f"tune-{method}"] for method in methods]
    works = [TrainingWork(settings, place, stage) for stage in stages if not stage.state().done]
    units = [
        Unit(
            f"train-{work.method}-seed-{settings.seed}", work.key, {"work": work}, work.done, work.steps, work.progress
        )
        for work in works
    ]
    run_units(train_method, units, place.state / "prefect", f"train {' and '.join(methods)}", "step")


if __name__ == "__main__":
    sys.exit(run(tune, "tune", ["tune"]))
