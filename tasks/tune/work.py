"""One training as a task: a job for a fresh process, then the published adapter."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from configs.settings import Settings, TrainingSettings
from storage.files import read_json
from storage.stages import publishing, result_digest
from storage.workspace import Workspace
from tasks.models import model_source, revision_on_record
from tasks.process import ChildOutOfMemoryError, run_in_child
from tasks.provenance import gpus, provenance
from tasks.stages import Stage
from tasks.tune import Job, accelerate_launch
from tasks.tune.plan import Plan, current_plan, plans, smaller_plan, told
from tasks.tune.rates import chosen_rate

MEASUREMENTS = ("cost.json",)


@dataclass(frozen=True)
class TrainingRun:
    """One run of a trainer in a process of its own: what it reads, and where its state lies."""

    settings: Settings
    workspace: Workspace
    method: str
    seed: int
    key: str
    """Names the run; ends with the fingerprint of what it reads."""
    section: TrainingSettings
    """The method's settings with the learning rate and the epochs of this run."""
    title: str
    """What tells it apart from the runs beside it."""

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints lie."""
        return self.workspace.state / "checkpoints" / self.key

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return training_steps(self.method, self.section, self.settings)

    def progress(self) -> float:
        """Share of the steps done, as the child tells while it runs."""
        told = self._told()
        return float(told["step"] / told["total"]) if told and told["total"] else 0.0

    def note(self) -> str:
        """The loss of the newest step told, as "sft loss 1.832"; empty before the first."""
        told = self._told()
        return f"{self.title} loss {told['loss']:.3f}" if told else ""

    def _told(self) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = read_json(self._progress_file)
        except (OSError, ValueError):
            return None
        return told if {"step", "total", "loss"} <= told.keys() else None

    def in_child(self, target: str, out: Path) -> dict[str, Any]:
        """Call a function with the run's job in fresh processes; it goes on from the newest valid checkpoint.

        Raises:
            NothingFitsError: no plan fits the memory.
            ChildError: the training failed otherwise, or its process died.
        """
        hardware = self.settings.hardware
        processes = hardware.gpus or max(1, gpus())
        possible = plans(self.section.model_dump(mode="json"), processes)
        return in_smaller_plans(
            target, self.checkpoints, possible, self.method, lambda plan: self.job(out, plan), hardware.threads
        )

    @property
    def _progress_file(self) -> Path:
        return Path(tempfile.gettempdir()) / f"{self.key}-{os.getpid()}.json"

    def job(self, out: Path, plan: Plan) -> Job:
        """What the child process is told."""
        settings, place = self.settings, self.workspace
        base = settings.models.base
        data = place.preference if self.method == "dpo" else place.filtered
        return Job(
            method=self.method,
            seed=self.seed,
            settings=self.section.model_dump(mode="json", exclude={"search_rates"}),
            plan=plan,
            fused_kernels=settings.tuning.fused_kernels,
            memory_gb=None,
            checkpoint_steps=settings.tuning.checkpoint_steps,
            checkpoints_kept=settings.tuning.checkpoints_kept,
            base=model_source(base, place),
            base_revision=revision_on_record(base, place),
            base_precision=base.precision,
            base_name=place.relative(place.models / base.name) if base.name.startswith("world/") else base.name,
            train=str(data / "train.jsonl"),
            val=str(data / "val.jsonl"),
            test=str(data / "test.jsonl"),
            sft_adapter=str(place.adapter("sft", self.seed)) if self.method == "dpo" else None,
            checkpoints=str(self.checkpoints),
            out=str(out),
            progress=str(self._progress_file),
            stage_data={"fingerprint": self.key.rpartition("-")[2], "data": result_digest(data)},
        )


@dataclass(frozen=True)
class TrainingWork:
    """A method to train with one seed."""

    settings: Settings
    workspace: Workspace
    stage: Stage

    @cached_property
    def run(self) -> TrainingRun:
        """The training, at the learning rate that was searched for, or the required one."""
        stage, section = self.stage, self.settings.tuning.methods[self.stage.method]
        if section.search_rates:
            section = section.model_copy(update={"learning_rate": chosen_rate(self.workspace.search(stage.method))})
        key = f"{stage.name}-{stage.require_key().fingerprint}"
        title = f"{stage.method} seed {stage.seed}" if self.settings.tuning.seeds > 1 else stage.method
        return TrainingRun(self.settings, self.workspace, stage.method, stage.seed, key, section, title)

    def done(self) -> bool | None:
        """True where the adapter is published and whole."""
        return self.stage.state().done or None


def trainings_at_once(settings: Settings) -> int:
    """Trainings that run at once: one where there are GPUs, since each fills their memory and is timed on them."""
    return 1 if gpus() else settings.hardware.workers


def training_steps(method: str, section: TrainingSettings, settings: Settings) -> int:
    """Optimizer steps of a training."""
    rows = settings.preference.train_pairs if method == "dpo" else settings.filter.train_rows
    return max(1, -(-round(section.epochs * rows) // section.batch_size))


def train_method(work: TrainingWork) -> dict[str, Any]:
    """Train in a fresh process, going on from the newest valid checkpoint, and publish the adapter."""
    if not work.done():
        with tempfile.TemporaryDirectory(prefix="train-") as local:
            out = Path(local) / "adapter"
            work.run.in_child("tasks.tune.train:train", out)
            key = work.stage.require_key()
            with publishing(work.stage.folder, key, provenance(work.settings, work.workspace), MEASUREMENTS) as folder:
                shutil.copytree(out, folder, dirs_exist_ok=True)
        shutil.rmtree(work.run.checkpoints, ignore_errors=True)
    return {"method": work.stage.method, "seed": work.stage.seed}


def in_smaller_plans(
    target: str,
    checkpoints: Path,
    possible: list[Plan],
    method: str,
    job: Callable[[Plan], Job],
    threads: int,
) -> dict[str, Any]:
    """Call a function with a job, and again with a smaller plan whenever the memory did not hold the one before.

    Args:
        target: the function, such as `tasks.tune.train:train`.
        checkpoints: folder of the run's checkpoints, where the plan is kept too.
        possible: plans, fastest first.
        method: the method's name.
        job: what a process is told about a plan.
        threads: CPU threads of each process.

    Returns:
        What the function returned in the first process.

    Raises:
        NothingFitsError: no plan fits.
        ChildError: the call failed otherwise, or its process died.
    """
    plan = current_plan(checkpoints, possible)
    while True:
        try:
            result = run_in_child(
                target,
                {"job": job(plan)},
                threads=threads,
                launcher=accelerate_launch(plan["processes"]),
                processes=plan["processes"],
            )
        except ChildOutOfMemoryError:
            plan, tried = smaller_plan(checkpoints, possible, method), plan
            tqdm.write(f"{method}: out of memory with {told(tried)}; going on with {told(plan)}", file=sys.stderr)
        else:
            tqdm.write(f"{method}: trained with {told(plan)}", file=sys.stderr)
            return result
