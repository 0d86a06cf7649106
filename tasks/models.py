"""Which model exactly, and how it is loaded: one place for every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.settings import ModelSettings
from storage.files import fingerprint, read_json, sha256_file, write_json
from storage.stages import read_manifest
from storage.workspace import Workspace

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
    elif Path(model.name).is_dir():
        content = {path.name: sha256_file(path) for path in sorted(Path(model.name).iterdir()) if path.is_file()}
    else:
        record = _revision_file(model, workspace)
        content = {"commit": read_json(record)["commit"]} if record.is_file() else None
    return fingerprint({"content": content, "precision": model.precision}) if content else None


def world_benchmarks_identity(workspace: Workspace) -> str | None:
    """Hash of the world's benchmark questions."""
    content = _world_files(workspace, "benchmarks/")
    return fingerprint(content) if content else None


def resolve_revision(model: ModelSettings, workspace: Workspace) -> str | None:
    """The hub commit a study uses, looked up once and then kept in the workspace; None for a local model.

    Raises:
        ModelError: the hub does not know the model, needs a token, or cannot be reached.
    """
    if model.name.startswith(WORLD) or Path(model.name).is_dir():
        return None
    record = _revision_file(model, workspace)
    if not record.is_file():
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

        try:
            commit = HfApi().model_info(model.name, revision=model.revision).sha
        except GatedRepoError:
            raise ModelError(
                f"{model.name} is gated: accept its licence on its hub page, then log in with `hf auth login`"
            ) from None
        except RepositoryNotFoundError:
            raise ModelError(f"{model.name} is neither a folder here nor a model on the hub") from None
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
            raise ModelError(
                f"the hub could not be asked about {model.name} ({type(error).__name__}); connect to the internet, "
                "or give a local folder as the model's name"
            ) from None
        write_json(record, {"name": model.name, "asked": model.revision, "commit": commit})
    commit_on_record: str = read_json(record)["commit"]
    return commit_on_record


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


def _revision_file(model: ModelSettings, workspace: Workspace) -> Path:
    return workspace.state / "revisions" / f"{fingerprint([model.name, model.revision])}.json"


def _world_files(workspace: Workspace, prefix: str) -> dict[str, str] | None:
    manifest = read_manifest(workspace.world)
    if manifest is None:
        return None
    return {name: entry["sha256"] for name, entry in manifest["outputs"].items() if name.startswith(prefix)}
