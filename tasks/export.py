"""The study's data in the formats that other trainers and `datasets.load_dataset` read, with a dataset card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # documented, not listed

from configs.settings import Settings
from storage.files import folder_aside, read_json, read_jsonl, write_jsonl, write_text
from storage.workspace import Workspace
from tasks.stages import study_stages

Row = Mapping[str, Any]

READ_STAGES = ("generate", "filter", "prefer")
SPLITS = {"train": "train", "val": "validation", "test": "test"}  # the study's names, and those of `datasets`


class ExportError(RuntimeError):
    """The data cannot be exported or pushed; the message says why and what to do."""


def sharegpt(row: Row) -> dict[str, Any]:
    """A row as ShareGPT has it."""
    turns = [{"from": "human", "value": row["instruction"]}, {"from": "gpt", "value": row["output"]}]
    return {"id": row["id"], "conversations": turns}


def alpaca(row: Row) -> dict[str, Any]:
    """A row as Alpaca has it."""
    return {"id": row["id"], "instruction": row["instruction"], "input": "", "output": row["output"]}


def conversational(row: Row) -> dict[str, Any]:
    """A row as TRL's SFTTrainer takes it."""
    return {"id": row["id"], "messages": [_turn("user", row["instruction"]), _turn("assistant", row["output"])]}


def preference(pair: Row) -> dict[str, Any]:
    """A pair as TRL's DPOTrainer takes it."""
    return {
        "id": pair["id"],
        "prompt": [_turn("user", pair["prompt"])],
        "chosen": [_turn("assistant", pair["chosen"])],
        "rejected": [_turn("assistant", pair["rejected"])],
        "margin": pair["margin"],
    }


FORMATS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "conversational": conversational,
}
COLUMNS = ["id", "domain", "instruction", "output", "quality"]


def export_data(settings: Settings, workspace: Workspace) -> Path:
    """Write the kept rows and the pairs, split by split, in every format; an earlier export is replaced whole.

    Returns:
        The folder `export` of the workspace: `parquet`, `sharegpt`, `alpaca`, `conversational`, `preference` and the
        dataset card.

    Raises:
        ExportError: a stage whose data are exported is not there or stale.
        OSError: no space or no permission; an earlier export is still there.
    """
    _require_stages(settings, workspace)
    rows = read_jsonl(workspace.filtered / "filtered.jsonl")
    pairs = read_jsonl(workspace.preference / "pairs.jsonl")
    folder = workspace.root / "export"
    with folder_aside(folder) as aside:
        (aside / "parquet").mkdir()
        for split, name in SPLITS.items():
            ours = [row for row in rows if row["split"] == split]
            pd.DataFrame(ours, columns=COLUMNS).to_parquet(aside / "parquet" / f"{name}.parquet", index=False)
            for form, shaped in FORMATS.items():
                write_jsonl(aside / form / f"{name}.jsonl", map(shaped, ours))
            write_jsonl(
                aside / "preference" / f"{name}.jsonl", (preference(pair) for pair in pairs if pair["split"] == split)
            )
        card = dataset_card(
            settings, read_json(workspace.filtered / "stats.json"), read_json(workspace.preference / "stats.json")
        )
        write_text(aside / "README.md", card)
    return folder


def dataset_card(settings: Settings, filtered: Row, preferred: Row) -> str:
    """The card; its front matter names the JSON-lines formats only, since `datasets` takes one file type a card.

    Args:
        settings: the study's.
        filtered: statistics of the filter stage.
        preferred: statistics of the preference stage.
    """
    data = DatasetCardData(
        language=settings.filter.language,
        license="other",
        pretty_name="Synthetic instructions",
        size_categories=_size_category(filtered["kept"]),
        task_categories=["text-generation"],
        tags=["synthetic", "magpie", "instruction-tuning", "preference"],
        configs=[
            {"config_name": form, "data_files": [{"split": s, "path": f"{form}/{s}.jsonl"} for s in SPLITS.values()]}
            | ({"default": True} if form == "conversational" else {})
            for form in (*FORMATS, "preference")
        ],
    )
    teacher, reward = settings.models.teacher.name, settings.models.reward.name
    responders = ", ".join(f"`{model.name}`" for model in settings.models.responders)
    steps = "\n".join(
        f"| {step['rule']} | {step['in']} | {step['dropped']} | {step['out']} |" for step in filtered["waterfall"]
    )
    sizes = filtered["splits"]["sizes"]
    pair_sizes = preferred["splits"]
    splits = "\n".join(f"| {name} | {sizes.get(s, 0)} | {pair_sizes.get(s, 0)} |" for s, name in SPLITS.items())
    domains = "\n".join(f"| {domain} | {count} |" for domain, count in filtered["domains"]["kept"].items())
    card = f"""---
{data.to_yaml()}
---

# Synthetic instructions of {teacher}

`{teacher}` wrote both the instructions and the responses (Magpie: the model is given only the opening of a user's
turn). {filtered["raw"]} rows were drawn with seed {settings.seed}; {filtered["kept"]} are here.

| config | for | fields |
|---|---|---|
| `conversational` (default) | TRL's SFTTrainer | `id`, `messages` |
| `sharegpt` | Axolotl, LLaMA-Factory | `id`, `conversations` |
| `alpaca` | Alpaca-style trainers | `id`, `instruction`, `input`, `output` |
| `preference` | TRL's DPOTrainer | `id`, `prompt`, `chosen`, `rejected`, `margin` |

`parquet/` holds the rows in columns, with domain and quality: {", ".join(f"`{column}`" for column in COLUMNS)}.

## How rows were chosen

| rule | in | dropped | out |
|---|---|---|---|
{steps}

The quality score, a sum of documented parts, has a mean of {filtered["quality"]["mean"]:.3f} (standard deviation
{filtered["quality"]["sd"]:.3f}). Responses have {filtered["output_words"]["kept"]:.0f} words on average, instructions
{filtered["instruction_words"]["kept"]:.0f}.

## Splits

Near-duplicate instructions (Jaccard {settings.filter.group_similarity} or more) are of one split where the sizes allow
it ({filtered["splits"]["straddling_pairs"]} linked pairs straddle two); the pairs inherit their instruction's split.

| split | rows | preference pairs |
|---|---|---|
{splits}

| domain | rows |
|---|---|
{domains}

## Preference pairs

Responses of {responders}, scored once each by `{reward}`: the best against the worst. The mean margin
is {preferred["mean_margin"]:.3f} on the reward model's scale, {preferred["mean_margin_standardized"]:.3f} in standard
deviations of its scores. In {preferred["length"]["longer_chosen_share"]:.0%} of the pairs the chosen response is the
longer one.

## Limits

Everything here was written by models: facts are unchecked, and the teacher's errors, tastes and biases are in it. The
rules tell form, not truth; the safety rule finds blatant harm only. The licence of the data follows from those of the
models above: read them before you train on it.
"""
    return str(DatasetCard(card))


def require_repository(name: str) -> None:
    """Check the name of a dataset on the hub.

    Raises:
        ExportError: it is not OWNER/NAME.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ExportError(f"--push-to-hub: got {name!r}, takes OWNER/NAME: {error}") from None
    if name.count("/") != 1:
        raise ExportError(f"--push-to-hub: got {name!r}, takes OWNER/NAME")


def push(folder: Path, repository: str, token: str, *, public: bool) -> str:
    """Upload an export to the hub as one commit; a dataset that is not there is created.

    Args:
        folder: what `export_data` returned.
        repository: OWNER/NAME.
        token: the user's, with the right to write.
        public: whether everybody can see a dataset that is created.

    Returns:
        The address of the commit.

    Raises:
        ExportError: the hub cannot be reached or refuses.
    """
    hub = HfApi(token=token)
    try:
        hub.create_repo(repository, repo_type="dataset", private=not public, exist_ok=True)
        commit = hub.upload_folder(
            folder_path=folder,
            repo_id=repository,
            repo_type="dataset",
            commit_message="Synthetic instructions and preference pairs",
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ExportError(f"{repository} was not pushed: {reason}. The files are in {folder}; try again") from None
    return str(commit.commit_url)


def _require_stages(settings: Settings, workspace: Workspace) -> None:
    stages = study_stages(settings, workspace)
    for name in READ_STAGES:
        state = stages[name].state()
        if not state.done:
            why = f"is stale: {'; '.join(state.reasons)}" if state.reasons else "is not there"
            raise ExportError(f"{name} {why}; run `python -m flows.{name}` with the same settings first")


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _size_category(rows: int) -> str:
    edges = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6}
    return next((name for name, edge in edges.items() if rows < edge), "1M<n<10M")
