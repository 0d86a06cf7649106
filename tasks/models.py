"""Which model exactly, and how it is loaded: one place for every stage."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from configs.settings import ModelSettings
from storage.digests import local_digests
from storage.files import fingerprint
from storage.stages import read_manifest
from storage.workspace import Workspace
from tasks.hub import commit_on_record, fetch, repository, resolve

WORLD = "world/"


class ModelError(RuntimeError):
    """A model cannot be found or loaded; the message names it and what to do."""


def model_source(model: ModelSettings, workspace: Workspace) -> str:
    """What `from_pretrained` takes: a folder of the world, a local folder, or a hub id."""
    return str(workspace.models / model.name) if model.name.startswith(WORLD) else model.name


def model_identity(model: ModelSettings, workspace: Workspace) -> str | None:
    """What a model is, wherever it lies: the hash of its files, or the hub's commit; None where not yet known."""
    if model.name.startswith(WORLD):
        content = _world_files(workspace, model.name.removeprefix(WORLD) + "/")
    elif not on_the_hub(model):
        digests = local_digests(path for path in sorted(Path(model.name).iterdir()) if path.is_file())
        content = {path.name: digest for path, digest in digests.items()}
    else:
        commit = commit_on_record(repository(model), workspace)
        content = {"commit": commit} if commit else None
    return fingerprint({"content": content, "precision": model.precision}) if content else None


def world_benchmarks_identity(workspace: Workspace) -> str | None:
    """Hash of the world's benchmark questions."""
    content = _world_files(workspace, "benchmarks/")
    return fingerprint(content) if content else None


def on_the_hub(model: ModelSettings) -> bool:
    """Whether a model is neither the world's nor a local folder's."""
    # not `Path.is_dir`, which raises on a dead mount
    return not model.name.startswith(WORLD) and not os.path.isdir(model.name)


def revision_on_record(model: ModelSettings, workspace: Workspace) -> str | None:
    """What `from_pretrained` takes as the revision: the commit that `fetch_models` pinned; None for a local model."""
    return commit_on_record(repository(model), workspace) if on_the_hub(model) else None


def fetch_models(models: Iterable[ModelSettings], workspace: Workspace) -> None:
    """Pin the commit of each model of the hub and bring its files here: the processes that load it ask nobody.

    Raises:
        HubError: a model cannot be had; the message says what to do.
    """
    for wanted in dict.fromkeys(repository(model) for model in models if on_the_hub(model)):
        fetch(wanted, resolve(wanted, workspace))


def load_arguments(precision: str) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` for a precision: on the accelerator where there is one, else the CPU."""
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.current_device() if cuda else "cpu"
    arguments: dict[str, Any] = {"device_map": {"": device}, "attn_implementation": "sdpa"}
    if precision == "nf4":
        from transformers import BitsAndBytesConfig

        # a T4 only emulates bf16, and slowly: its compute capability is below 8
        compute = torch.bfloat16 if cuda and torch.cuda.get_device_capability() >= (8, 0) else torch.float16
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
        return arguments | {"dtype": compute}
    return arguments | {"dtype": {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]}


def odd_attention(config: Any) -> str | None:
    """What a model's attention has beyond looking back at everything, such as a sliding window; None for nothing."""
    text = config.get_text_config()
    for odd in ("attn_logit_softcapping", "sliding_window", "layer_types"):
        value = getattr(text, odd, None)
        if odd == "sliding_window" and not getattr(text, "use_sliding_window", True):
            continue
        if value and set(value if odd == "layer_types" else [odd]) != {"full_attention"}:
            return odd
    return None


def _world_files(workspace: Workspace, prefix: str) -> dict[str, str] | None:
    manifest = read_manifest(workspace.world)
    if manifest is None:
        return None
    return {name: entry["sha256"] for name, entry in manifest["outputs"].items() if name.startswith(prefix)}
