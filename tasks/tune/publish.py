"""A published adapter: plain PEFT files, figures and a model card, the same bytes for the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from storage.files import read_json, write_json, write_text
from tasks.tune import Job
from tasks.tune.methods import METHODS

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# PEFT keeps these as sets, and writes them in an order that differs from process to process
_SETS = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save", "target_parameters")


def save_adapter(model: Any, folder: Path, base_name: str, base_revision: str | None) -> None:
    """Save the adapter `default` of a PEFT model: safetensors and JSON, nothing else."""
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    config = read_json(folder / CONFIG)
    write_json(folder / CONFIG, normal_config(config, base_name, base_revision))


def normal_config(config: dict[str, Any], base_name: str, base_revision: str | None) -> dict[str, Any]:
    """An adapter's configuration without what differs between equal runs: sets are sorted, the base has its name."""
    ordered = {
        key: sorted(value) if key in _SETS and isinstance(value, list) else value for key, value in config.items()
    }
    return ordered | {"base_model_name_or_path": base_name, "revision": base_revision}


def model_card(job: Job, metrics: dict[str, Any]) -> str:
    """The README of an adapter: base, data, settings, figures; no clock time, no path."""
    method = METHODS[job["method"]]
    front = ["---", f"base_model: {job['base_name']}", "library_name: peft", "pipeline_tag: text-generation", "---"]
    revision = f" at revision `{job['base_revision']}`" if job["base_revision"] else ""
    figures = {key: value for key, value in metrics.items() if key != "loss_curve"}
    sections = [
        *front,
        "",
        f"# {method.title}, seed {job['seed']}",
        "",
        f"A PEFT adapter for `{job['base_name']}`{revision}, loaded in {job['base_precision']}.",
        "",
        "```python",
        "from peft import PeftModel",
        "",
        'model = PeftModel.from_pretrained(base_model, "this folder")',
        "```",
        "",
        "The loss curve is in `metrics.json`; costs, which are measured and so differ from run to run, in `cost.json`.",
    ]
    for title, value in (("Data", job["stage_data"]), ("Settings", job["settings"]), ("Metrics", figures)):
        sections += ["", f"## {title}", "", "```json", json.dumps(value, indent=2, sort_keys=True), "```"]
    return "\n".join(sections) + "\n"


def write_figures(folder: Path, job: Job, metrics: dict[str, Any], cost: dict[str, Any]) -> None:
    """Write metrics, costs and the model card beside the weights."""
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "cost.json", cost)
    write_text(folder / "README.md", model_card(job, metrics))
