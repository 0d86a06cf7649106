"""A published adapter: plain PEFT files, its tokenizer, figures and a model card, the same bytes for the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from storage.files import read_json, write_json, write_text
from tasks.engines.templates import template_to_publish
from tasks.tune import Job
from tasks.tune.methods import METHODS
from tasks.tune.rows import PLAIN_TEMPLATE, end_token

CHAT_TEMPLATE = "chat_template.jinja"
CONFIG = "adapter_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "adapter_model.safetensors"

EXAMPLE = "Name three birds that sing at night."

# PEFT keeps these as sets, and writes them in an order that differs from process to process
_SETS = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save", "target_parameters")

# How transformers came by the tokenizer
_WHERE_IT_LAY = ("is_local", "local_files_only", "name_or_path", "cache_dir")


def save_adapter(model: Any, folder: Path, base_name: str, base_revision: str | None) -> None:
    """Save the adapter `default` of a PEFT model: safetensors and JSON, nothing else."""
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    config = read_json(folder / CONFIG)
    write_json(folder / CONFIG, normal_config(config, base_name, base_revision))


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save the tokenizer and the chat template that the adapter was trained with, as transformers loads them."""
    if tokenizer.is_fast:  # what the last call asked for is saved with it
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    write_text(folder / CHAT_TEMPLATE, template_to_publish(tokenizer))
    config = read_json(folder / TOKENIZER_CONFIG)
    told = {key: value for key, value in config.items() if key not in _WHERE_IT_LAY}
    if told["tokenizer_class"] == "TokenizersBackend":  # the name that versions of transformers before 5 know, too
        told["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(folder / TOKENIZER_CONFIG, told)


def normal_config(config: dict[str, Any], base_name: str, base_revision: str | None) -> dict[str, Any]:
    """An adapter's configuration without what differs between equal runs: sets are sorted, the base has its name."""
    ordered = {
        key: sorted(value) if key in _SETS and isinstance(value, list) else value for key, value in config.items()
    }
    return ordered | {"base_model_name_or_path": base_name, "revision": base_revision}


def model_card(job: Job, metrics: dict[str, Any], tokenizer: Any) -> str:
    """The README of an adapter: base, prompt, data, settings, figures; no clock time, no path."""
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
        *_how_to_prompt(job, tokenizer),
        "",
        "The loss curve is in `metrics.json`; costs, which are measured and so differ from run to run, in `cost.json`.",
    ]
    for title, value in (("Data", job["stage_data"]), ("Settings", job["settings"]), ("Metrics", figures)):
        sections += ["", f"## {title}", "", "```json", json.dumps(value, indent=2, sort_keys=True), "```"]
    return "\n".join(sections) + "\n"


def _how_to_prompt(job: Job, tokenizer: Any) -> list[str]:
    template, end = template_to_publish(tokenizer), end_token(tokenizer)
    plain = "a plain text format, since the base model has no chat template of its own"
    kind = plain if template == PLAIN_TEMPLATE else "the base model's own chat template"
    revision = f', revision="{job["base_revision"]}"' if job["base_revision"] else ""
    base = f'"{job["base_name"]}"{revision}'
    chat = [{"role": "user", "content": EXAMPLE}]
    prompt = tokenizer.apply_chat_template(chat, chat_template=template, add_generation_prompt=True, tokenize=False)
    return [
        "## How to prompt it",
        "",
        f"It was trained on {kind}, with one instruction as the user's turn and no system prompt. The template is in "
        f"`{CHAT_TEMPLATE}`, and the tokenizer beside it applies it:",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({base})",
        'model = PeftModel.from_pretrained(base, "this folder")',
        'tokenizer = AutoTokenizer.from_pretrained("this folder")',
        f"chat = {json.dumps(chat)}",
        "prompt = tokenizer.apply_chat_template(",
        '    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
        f"print(tokenizer.decode(model.generate(**prompt, max_new_tokens=256, eos_token_id={end})[0]))",
        "```",
        "",
        "The prompt is then",
        "",
        "```text",
        *prompt.split("\n"),
        "```",
        "",
        f"and the answer follows at once. `{tokenizer.convert_ids_to_tokens(end)}` (token {end}) ends it. A special "
        "token's text inside an instruction or an answer was trained on as text; `apply_chat_template` makes a control "
        "token of it. The study's benchmarks do not prompt it so: they use lm-evaluation-harness's own text.",
    ]


def write_figures(folder: Path, job: Job, metrics: dict[str, Any], cost: dict[str, Any], tokenizer: Any) -> None:
    """Write metrics, costs and the model card beside the weights."""
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "cost.json", cost)
    write_text(folder / "README.md", model_card(job, metrics, tokenizer))
