"""What a process computes on: asked of torch, which may not use a GPU that is there. For child processes."""

from __future__ import annotations

from typing import Any


def computing_device() -> dict[str, Any]:
    """`device`, a GPU's name or "cpu", and `device_memory_gb`, that GPU's memory [GB], None on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return {"device": "cpu", "device_memory_gb": None}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {"device": properties.name, "device_memory_gb": round(properties.total_memory / 1e9, 1)}
