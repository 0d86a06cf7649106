"""What a published stage tells about how it was made: the whole settings, package versions, the machine's kind."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path
from typing import Any

from configs.settings import Settings
from storage.workspace import Workspace
from tasks.hub import commits

PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "lm-eval",
    "numpy",
    "pandas",
    "peft",
    "prefect",
    "torch",
    "transformers",
    "trl",
    "vllm",
)


def provenance(settings: Settings, workspace: Workspace) -> dict[str, Any]:
    """Seed, resolved settings, the hub's commits, versions and hardware; no clock time and no host name."""
    return {
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "hardware": hardware(),
        "hub": commits(workspace),
    }


def hardware() -> dict[str, Any]:
    """Processor and accelerators."""
    return {"processor": _processor(), "system": platform.system(), "accelerators": _accelerators()}


def gpus() -> int:
    """GPUs that a child process may use, told without touching them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(_accelerators())
    if visible is None:
        return found
    named = takewhile(lambda name: name.strip() not in ("", "-1"), visible.split(","))  # as CUDA reads it
    return min(found, len(list(named)))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


def _accelerators() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
