"""Adapting the base model: LoRA, prompt tuning, DPO and more, each run in a fresh child process that can be killed.

    run_in_child("tasks.tune.train:train", {"job": job}, threads=1, launcher=ACCELERATE)

`Job` says what a run reads and where it writes; `tasks.tune.methods.METHODS` says what a method is. This module is
light: a flow may import it.
"""

from __future__ import annotations

import sys
from typing import Any, TypedDict

# `accelerate.commands.launch` is what `accelerate launch` calls, started three times as fast (2 s against 6 s).
# The child sets its own threads; precision is the job's.
ACCELERATE = (
    *(sys.executable, "-m", "accelerate.commands.launch"),
    *("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--num_cpu_threads_per_process", "1", "-m", "tasks.child"),
)


class Job(TypedDict):
    """One training run, JSON-shaped."""

    method: str
    """A name of `METHODS`."""
    seed: int
    """Seed of the adapter's initialisation, the data order and dropout."""
    settings: dict[str, Any]
    """The method's section of `TuningSettings`, dumped, with the learning rate and the epochs of this run."""
    checkpoint_steps: int
    """Optimizer steps between checkpoints [steps]."""
    checkpoints_kept: int
    """Sealed checkpoints kept."""
    base: str
    """Folder or hub id of the base model."""
    base_revision: str | None
    """Hub commit."""
    base_precision: str
    """`fp32`, `fp16`, `bf16` or `nf4`."""
    base_name: str
    """Portable name of the base model, written into `adapter_config.json`."""
    train: str
    """JSON lines: `{"instruction", "output"}`, for DPO `{"prompt", "chosen", "rejected"}`."""
    val: str
    test: str
    sft_adapter: str | None
    """Folder of the adapter that DPO starts from."""
    checkpoints: str
    """Folder of the sealed checkpoints."""
    out: str
    """Folder of the published adapter."""
    progress: str | None
    """A small local file, rewritten about twice a second: `{"step", "total", "loss"}`."""
    stage_data: dict[str, Any]
    """What else the model card tells, such as the data's fingerprint."""
