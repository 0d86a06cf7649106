"""One training as a task: a job for a fresh process, then the published adapter."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.settings import Settings, TrainingSettings
from storage.files import read_json
from storage.stages import publishing, result_digest
from storage.workspace import Workspace
from tasks.models import model_source, resolve_revision
from tasks.process import run_in_child
from tasks.provenance import provenance
from tasks.stages import Stage
from tasks.tune import ACCELERATE, Job
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
        try:
            told = read_json(self._progress_file)
            return float(told["step"] / told["total"])
        except (OSError, ValueError, KeyError, ZeroDivisionError):
            return 0.0

    def in_child(self, target: str, out: Path) -> dict[str, Any]:
        """Call a function with the run's job in a fresh process; it goes on from the newest valid checkpoint."""
        threads = self.settings.hardware.threads
        return run_in_child(target, {"job": self.job(out)}, threads=threads, launcher=ACCELERATE)

    @property
    def _progress_file(self) -> Path:
        return Path(tempfile.gettempdir()) / f"{self.key}-{os.getpid()}.json"

    def job(self, out: Path) -> Job:
        """What the child process is told."""
        settings, place = self.settings, self.workspace
        base = settings.models.base
        data = place.preference if self.method == "dpo" else place.filtered
        return Job(
            method=self.method,
            seed=self.seed,
            settings=self.section.model_dump(mode="json", exclude={"search_rates"}),
            checkpoint_steps=settings.tuning.checkpoint_steps,
            checkpoints_kept=settings.tuning.checkpoints_kept,
            base=model_source(base, place),
            base_revision=resolve_revision(base, place),
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
        return TrainingRun(self.settings, self.workspace, stage.method, stage.seed, key, section)

    def done(self) -> bool | None:
        """True where the adapter is published and whole."""
        return self.stage.state().done or None


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
            with publishing(work.stage.folder, key, provenance(work.settings), MEASUREMENTS) as folder:
                shutil.copytree(out, folder, dirs_exist_ok=True)
        shutil.rmtree(work.run.checkpoints, ignore_errors=True)
    return {"method": work.stage.method, "seed": work.stage.seed}
