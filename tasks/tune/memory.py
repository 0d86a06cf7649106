"""Peak memory of training: read from CUDA's allocator, or accounted for on a CPU."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CUDA_METHOD = (
    "torch.cuda.max_memory_allocated and max_memory_reserved over all training steps, reset after loading; process: "
    "NVML memory of the process after training"
)
CPU_METHOD = (
    "allocated: bytes of all resident tensors (weights, buffers, gradient, optimizer state) plus the largest sum of "
    "live allocations that torch.profiler records in one forward and backward pass over the micro-batch with the "
    "longest row; process: largest resident set of the process; reserved: not defined on a CPU"
)


def reset_cuda_peaks() -> None:
    """Forget what loading took."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def cuda_peaks() -> dict[str, int | None] | None:
    """Peaks since the reset [bytes], or None without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return None
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "process": _nvml_bytes(),
    }


def cpu_peaks(model: Any, optimizer: Any, gradient: Any, step: Callable[[], Any]) -> dict[str, int | None]:
    """Memory that a training step takes on a CPU [bytes], as `CPU_METHOD` says.

    Args:
        model: the model.
        optimizer: the optimizer after training.
        gradient: the tensor that holds the gradient of all trained parameters.
        step: runs one forward and backward pass.
    """
    states = [value for state in optimizer.state.values() for value in state.values()]
    resident = tensor_bytes([*model.parameters(), *model.buffers(), *states, gradient])
    transient = peak_allocations(step)
    return {
        "allocated": None if transient is None else resident + transient,
        "reserved": None,
        "process": _largest_resident_set(),
    }


def tensor_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the distinct storages behind tensors; what is not a tensor counts nothing."""
    import torch

    storages = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peak_allocations(work: Callable[[], Any]) -> int | None:
    """Largest sum of CPU tensor memory allocated in `work` and still live [bytes]; None if nothing was recorded."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak or None


def _largest_resident_set() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # bytes on macOS, KiB on Linux


def _nvml_bytes() -> int | None:
    try:
        import pynvml
    except ImportError:
        return None
    import torch

    try:
        pynvml.nvmlInit()
        used = torch.cuda.get_device_properties(torch.cuda.current_device())
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{used.uuid}")
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return None
    return next((process.usedGpuMemory for process in processes if process.pid == os.getpid()), None)
