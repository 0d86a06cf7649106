"""What watches a run: a ledger that survives kills, sealed checkpoints, progress, and the guards of the first rank.

Imported by the training child only: it needs transformers at import.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from storage.checkpoints import newest_checkpoint, seal_checkpoint
from storage.files import read_json, write_json
from tasks.tune.memory import cuda_peaks, reset_cuda_peaks

LEDGER = "ledger.json"
WARM_UP_STEPS = 2
PROGRESS_SECONDS = 0.5

# A checkpoint is what `Trainer` needs to go on. The tokenizer is the base model's, the arguments are the job's, and
# DPO's reference is the SFT adapter; with its folder there, `Trainer` would load it *instead of* the policy.
NOT_KEPT = ("README.md", "training_args.bin", "tokenizer*", "special_tokens*", "chat_template*", "ref")


class TrainingError(RuntimeError):
    """A run that must not be published; the message says what is wrong."""


class DivergedError(TrainingError):
    """The loss is not finite: the learning rate is too high."""

    def __init__(self, message: str, seconds: float, tokens: int) -> None:
        """Keep what the run cost until then [s], [tokens]."""
        super().__init__(message)
        self.seconds, self.tokens = seconds, tokens


class Watch(TrainerCallback):
    """Counts time and tokens of the steps that made the adapter, and keeps the checkpoints."""

    def __init__(
        self,
        checkpoints: Path,
        keep: int,
        key: str,
        progress: Path | None,
        first_loss: float | None,
        step_tokens: Sequence[int],
    ) -> None:
        """Go on from the newest valid checkpoint of the same job, if there is one.

        Args:
            checkpoints: folder of the sealed checkpoints.
            keep: checkpoints kept.
            key: fingerprint of the job; checkpoints of another job are passed over, and go as this one's come.
            progress: file that tells how far the run is.
            first_loss: what the first step's loss must be, within 1e-3.
            step_tokens: tokens that each optimizer step reads, without padding.
        """
        self.checkpoints, self.keep, self.progress, self.first_loss = checkpoints, keep, progress, first_loss
        self.step_tokens = step_tokens
        self.before_steps: Callable[[], None] | None = None
        self.ledger: dict[str, Any] = {
            "key": key,
            "seconds": 0.0,
            "tokens": 0,
            "warm_seconds": 0.0,
            "warm_tokens": 0,
            "segments": 0,
            "skipped_steps": 0,
            "peak_memory_bytes": None,
        }
        self.resume_from = newest_checkpoint(checkpoints)
        if self.resume_from:
            ledger = read_json(self.resume_from / LEDGER)
            if ledger["key"] == key:
                self.ledger = ledger
            else:  # not deleted here: another process of the launch may be reading them, and the plan lies there too
                self.resume_from = None
        self._started = self._told = 0.0
        self._steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A segment starts."""
        self.ledger["segments"] += 1
        reset_cuda_peaks()
        if self.before_steps:
            self.before_steps()
        self._lap()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step is done: rows, passes, optimizer, and the log of the step before; checkpoints are not counted."""
        seconds, tokens = self._lap(), self.step_tokens[state.global_step - 1]
        self.ledger["seconds"] += seconds
        self.ledger["tokens"] += tokens
        self._steps += 1
        if self._steps > WARM_UP_STEPS:
            self.ledger["warm_seconds"] += seconds
            self.ledger["warm_tokens"] += tokens
        self.ledger["skipped_steps"] += bool(getattr(kwargs.get("optimizer"), "step_was_skipped", False))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Check the step's loss, and tell how far the run is.

        Raises:
            DivergedError: the loss is not finite.
            TrainingError: the first is not what it must be.
        """
        if not logs or "loss" not in logs:
            return
        loss, step = float(logs["loss"]), state.global_step
        if not math.isfinite(loss):
            told = f"the loss of step {step} is {loss}: nothing is published (try a lower learning rate)"
            raise DivergedError(told, self.ledger["seconds"], self.ledger["tokens"])
        if step == 1 and self.first_loss is not None and abs(loss - self.first_loss) >= 1e-3:
            raise TrainingError(
                f"the first loss is {loss:.6f} and must be {self.first_loss:.6f}: policy and reference differ"
            )
        now = time.perf_counter()
        if (
            self.progress
            and state.is_world_process_zero
            and (now - self._told > PROGRESS_SECONDS or step == state.max_steps)
        ):
            self._told = now
            write_json(self.progress, {"step": step, "total": state.max_steps, "loss": loss})

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seal the trainer's checkpoint in the workspace; the local copy goes."""
        local = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.record_peaks()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # each process has written the state of its random numbers
        if state.is_world_process_zero:
            self._seal(local, state.global_step)
        self._lap()

    def _seal(self, local: Path, step: int) -> None:
        write_json(local / LEDGER, self.ledger)
        for pattern in NOT_KEPT:
            for path in local.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        seal_checkpoint(local, self.checkpoints, step, self.keep)
        shutil.rmtree(local)

    def _lap(self) -> float:
        """Seconds since the last call, the GPU's work included."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        before, self._started = self._started, time.perf_counter()
        return self._started - before

    def record_peaks(self) -> None:
        """Keep the largest CUDA peaks of all segments; on a CPU there are none to read."""
        peaks = cuda_peaks()
        if peaks:
            before = self.ledger["peak_memory_bytes"] or {}
            self.ledger["peak_memory_bytes"] = {
                name: max((value for value in (bytes_, before.get(name)) if value is not None), default=None)
                for name, bytes_ in peaks.items()
            }
