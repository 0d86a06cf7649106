"""Adapting the base model: LoRA, prompt tuning, DPO and more, each run in a fresh child process that can be killed.

    run_in_child("tasks.tune.train:train", {"job": job}, threads=1, launcher=accelerate_launch(1))

`Job` says what a run reads and where it writes; `tasks.tune.methods.METHODS` says what a method is. This module is
light: a flow may import it.
"""

from __future__ import annotations

import os
import sys
from typing import Any, TypedDict

from tasks.process import free_port
from tasks.tune.plan import Plan


def accelerate_launch(processes: int) -> list[str]:
    """The command that starts `tasks.child` once, or once for each of so many GPUs."""
    # what `accelerate launch` calls, started three times as fast (2 s against 6 s)
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if processes > 1:
        command += ["--multi_gpu", "--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    command += ["--num_processes", str(processes), "--num_machines", "1", "--gpu_ids", gpu_ids(processes)]
    # precision is the job's, and the child sets its own threads
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    return [*command, "-m", "tasks.child"]


def gpu_ids(processes: int) -> str:
    """The first so many GPUs in sight; with more of them, `Trainer` would spread one process's batches over all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip():
        return "all"  # they are hidden, and a number would bring one back into sight
    names = visible.split(",") if visible else [str(number) for number in range(processes)]
    return ",".join(names[:processes])


class Job(TypedDict):
    """One training run, JSON-shaped."""

    method: str
    """A name of `METHODS`."""
    seed: int
    """Seed of the adapter's initialisation, the data order and dropout."""
    settings: dict[str, Any]
    """The method's section of `TuningSettings`, dumped, with the learning rate and the epochs of this run."""
    plan: Plan
    """How the run fits the memory."""
    fused_kernels: bool | None
    """Whether Liger's kernels run; none decides by the GPU."""
    memory_gb: float | None
    """Cap on the memory of each GPU [GB]; none takes what there is."""
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
