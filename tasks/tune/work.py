"""One method's training as a task: a job for a fresh process, then the published adapter."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from configs.settings import HardwareSettings, Settings
from storage.files import read_json
from storage.stages import publishing, result_digest
from storage.workspace import Workspace
from tasks.models import model_source, resolve_revision
from tasks.process import ChildOutOfMemoryError, run_in_child
from tasks.progress import tune_steps
from tasks.provenance import gpus, provenance
from tasks.stages import Stage
from tasks.tune import Job, accelerate_launch
from tasks.tune.plan import Plan, current_plan, plans, smaller_plan, told

log = logging.getLogger(__name__)

MEASUREMENTS = ("cost.json",)


@dataclass(frozen=True)
class TrainingWork:
    """A method to train: what it reads, and where its state lies."""

    settings: Settings
    workspace: Workspace
    stage: Stage

    @property
    def method(self) -> str:
        """The method's name."""
        return self.stage.name.removeprefix("tune-")

    @property
    def key(self) -> str:
        """Names the run."""
        return f"{self.stage.name}-{self.stage.require_key().fingerprint}"

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints lie."""
        return self.workspace.state / "checkpoints" / self.key

    def done(self) -> bool | None:
        """True where the adapter is published and whole."""
        return self.stage.state().done or None

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return tune_steps(self.method, self.settings)

    def progress(self) -> float:
        """Share of the steps done, as the child tells while it runs."""
        try:
            told = read_json(self._progress_file)
            return float(told["step"] / told["total"])
        except (OSError, ValueError, KeyError, ZeroDivisionError):
            return 0.0

    @property
    def _progress_file(self) -> Path:
        return Path(tempfile.gettempdir()) / f"{self.key}-{os.getpid()}.json"

    def plans(self) -> list[Plan]:
        """Ways to fit the memory, fastest first."""
        processes = self.settings.hardware.gpus or max(1, gpus())
        return plans(getattr(self.settings.tuning, self.method).model_dump(mode="json"), processes)

    def job(self, out: Path, plan: Plan) -> Job:
        """What the child process is told."""
        settings, place = self.settings, self.workspace
        base, seed = settings.models.base, settings.seed
        data = place.preference if self.method == "dpo" else place.filtered
        return Job(
            method=self.method,
            seed=seed,
            settings=getattr(settings.tuning, self.method).model_dump(mode="json"),
            plan=plan,
            fused_kernels=settings.tuning.fused_kernels,
            memory_gb=None,
            checkpoint_steps=settings.tuning.checkpoint_steps,
            checkpoints_kept=settings.tuning.checkpoints_kept,
            base=model_source(base, place),
            base_revision=resolve_revision(base, place),
            base_precision=base.precision,
            base_name=place.relative(place.models / base.name) if base.name.startswith("world/") else base.name,
            train=str(data / "train.jsonl"),
            val=str(data / "val.jsonl"),
            test=str(data / "test.jsonl"),
            sft_adapter=str(place.adapter("sft", seed)) if self.method == "dpo" else None,
            checkpoints=str(self.checkpoints),
            out=str(out),
            progress=str(self._progress_file),
            stage_data={"fingerprint": self.stage.require_key().fingerprint, "data": result_digest(data)},
        )


def train_method(work: TrainingWork) -> dict[str, Any]:
    """Train in a fresh process, going on from the newest valid checkpoint, and publish the adapter."""
    if work.done():
        return {"method": work.method}
    with tempfile.TemporaryDirectory(prefix="train-") as local:
        out = Path(local) / "adapter"
        train_in_child(work.checkpoints, work.plans(), work.method, partial(work.job, out), work.settings.hardware)
        with publishing(work.stage.folder, work.stage.require_key(), provenance(work.settings), MEASUREMENTS) as folder:
            shutil.copytree(out, folder, dirs_exist_ok=True)
    shutil.rmtree(work.checkpoints, ignore_errors=True)
    return {"method": work.method}


def train_in_child(
    checkpoints: Path, possible: list[Plan], method: str, job: Callable[[Plan], Job], hardware: HardwareSettings
) -> dict[str, Any]:
    """Train in a fresh process, and again with a smaller plan whenever the memory did not hold the one before.

    Args:
        checkpoints: folder of the run's checkpoints, where the plan is kept too.
        possible: plans, fastest first.
        method: the method's name.
        job: what a process is told about a plan.
        hardware: threads of each process.

    Returns:
        What `tasks.tune.train.train` returned.

    Raises:
        NothingFitsError: no plan fits.
        ChildError: the training failed otherwise, or its process died.
    """
    plan = current_plan(checkpoints, possible)
    while True:
        try:
            return run_in_child(
                "tasks.tune.train:train",
                {"job": job(plan)},
                threads=hardware.threads,
                launcher=accelerate_launch(plan["processes"]),
                processes=plan["processes"],
            )
        except ChildOutOfMemoryError:
            plan, tried = smaller_plan(checkpoints, possible, method), plan
            log.warning("%s: out of memory with %s; going on with %s", method, told(tried), told(plan))
