"""The figures of the study under `evaluation/metrics/`: what the checklist, the charts and the report read.

| file | holds |
|---|---|
| `efficiency.json` | what each run cost |
| `comparison.json` | scores, and paired contrasts with the base model |
| `tests.json` | questions, clusters and the second test behind each contrast; results not used, and why |
| `win_rates.json` | how often the reward model prefers a method's answers to the base model's |
| `human.json`, `attached.json` | ratings by people, and results put beside the study; null where there are none |
| `forgetting.json` | loss on general text against the base model's; null where the study does not ask |
| `dataset.json` | counts, drops, margins and formats, counted from the published rows; the stages' own statistics |
| `training.json` | each run's metrics.json and cost.json; each search for a learning rate |
| `provenance.json` | seed, profile, package versions and hardware of each stage |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.settings import Settings
from storage.files import read_jsonl, write_json
from storage.stages import doubts, read_manifest
from storage.workspace import Workspace
from tasks.evaluate.compare import build_comparison, build_efficiency, figure
from tasks.evaluate.forgetting import build_forgetting
from tasks.evaluate.results import BASE, load_json, results_folder, study_runs
from tasks.evaluate.win_rates import build_win_rates
from tasks.human.ratings import build_human
from tasks.report.attached import build_attached
from tasks.stages import study_stages
from tasks.tune.publish import CHAT_TEMPLATE
from tasks.tune.rates import SEARCH
from tasks.tune.rows import PLAIN_TEMPLATE

SFT_FIELDS = ("instruction", "output")
DPO_FIELDS = ("prompt", "chosen", "rejected")
SPLITS = ("train", "val", "test")
MARGIN_BINS = 24
EXAMPLE_WORDS = 60
RULE_ORDER = (
    "truncated",
    "empty",
    "length",
    "refusal",
    "unsafe",
    "contaminated",
    "repetition",
    "language",
    "diversity",
)
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")


def metrics_file(workspace: Workspace, name: str) -> Path:
    """Where a metrics file lies."""
    return workspace.evaluation / "metrics" / f"{name}.json"


def load_metrics(workspace: Workspace, name: str) -> Any:
    """A metrics file, or None where it is missing."""
    return load_json(metrics_file(workspace, name))


def own_runs(metrics: Any, seed: int) -> dict[str, Any]:
    """By method, the runs of one seed in `efficiency.json` or `training.json`; empty where the file is missing."""
    return {run["method"]: run for run in figure(metrics, "runs") or [] if figure(run, "seed") == seed}


def write_metrics(workspace: Workspace, settings: Settings) -> dict[str, Any]:
    """Write every metrics file from what is published; returns them by name."""
    refused = refused_results(workspace, settings)
    adapters, results, answers = (
        {(row["method"], row["seed"]) for row in refused if row["part"] is None and row["kind"] in kinds}
        for kinds in (("tune",), ("tune", "evaluate"), ("tune", "judge"))
    )
    comparison, tests = build_comparison(workspace, settings, results)
    metrics = {
        "efficiency": build_efficiency(workspace, settings, results, adapters),
        "comparison": comparison,
        "tests": tests | {"refused": refused},
        "win_rates": build_win_rates(workspace, settings, answers),
        "forgetting": build_forgetting(workspace, settings, results),
        "human": build_human(workspace, settings),
        "attached": build_attached(workspace, settings),
        "dataset": build_dataset(workspace),
        "training": build_training(workspace, settings, adapters),
        "provenance": build_provenance(workspace, settings),
    }
    for name, value in metrics.items():
        write_json(metrics_file(workspace, name), value)
    return metrics


def refused_results(workspace: Workspace, settings: Settings) -> list[dict[str, Any]]:
    """What is published for these settings and must not be used: `method`, `seed`, `kind`, `part`, `reason`.

    That is whatever is stale, was put there by something else, or fails its checksum; with an adapter (`kind` tune)
    goes all that was measured on it. `part` names a benchmark that failed while the rest of its results hold.
    """
    refused = []
    for stage in study_stages(settings, workspace).values():
        if stage.kind not in ("tune", "evaluate", "judge"):
            continue
        told = {"method": stage.method, "seed": stage.seed, "kind": stage.kind}
        if reasons := doubts(stage.folder, stage.key()):
            refused.append(told | {"part": None, "reason": "; ".join(reasons)})
            continue
        failures = figure(read_manifest(stage.folder), "failures") or {}
        refused += [told | {"part": part, "reason": reason} for part, reason in failures.items()]
    return refused


def build_dataset(workspace: Workspace) -> dict[str, Any]:
    """Counts, drops, margins and formats of the published rows, beside the statistics of the stages."""
    raw = _rows(workspace.raw / "raw.jsonl")
    kept = _rows(workspace.filtered / "filtered.jsonl")
    dropped = _rows(workspace.filtered / "dropped.jsonl")
    pairs = _rows(workspace.preference / "pairs.jsonl")
    return {
        "rows": {
            "raw": _count(raw),
            "filtered": _count(kept),
            "dropped": _count(dropped),
            "pairs": _count(pairs),
            **{
                f"{name}_{split}": _count(_rows(folder / f"{split}.jsonl"))
                for name, folder in (("sft", workspace.filtered), ("dpo", workspace.preference))
                for split in SPLITS
            },
        },
        "domains": _shares(raw, "domain"),
        "domains_kept": _shares(kept, "domain"),
        "waterfall": _waterfall(raw, kept, dropped),
        "quality": _spread([row.get("quality") for row in kept or []]),
        "quality_parts": _quality_parts(kept),
        "margins": _margins(pairs),
        "formats": {
            "sft": _format(workspace.filtered, SFT_FIELDS),
            "dpo": _format(workspace.preference, DPO_FIELDS),
        },
        "stats": {
            name: load_json(folder / "stats.json")
            for name, folder in (
                ("raw", workspace.raw),
                ("filtered", workspace.filtered),
                ("preference", workspace.preference),
            )
        },
        "cost": {"raw": load_json(workspace.raw / "cost.json")},
        "example": _example(workspace),
    }


def build_training(
    workspace: Workspace, settings: Settings, refused: Collection[tuple[str, int]] = ()
) -> dict[str, Any]:
    """Each run's own figures, and whether its adapter is there; each search for a learning rate.

    Figures of a run that is `refused` are None.
    """
    runs = []
    for method, seed in study_runs(settings):
        if method != BASE:
            folder = workspace.adapter(method, seed)
            used = (method, seed) not in refused
            runs.append(
                {
                    "method": method,
                    "seed": seed,
                    "adapter_saved": all((folder / name).is_file() for name in WEIGHTS),
                    "chat_template": _template_kind(folder / CHAT_TEMPLATE) if used else None,
                    "metrics": load_json(folder / "metrics.json") if used else None,
                    "cost": load_json(folder / "cost.json") if used else None,
                }
            )
    searches = [
        {
            "method": method,
            "search": load_json(workspace.search(method) / SEARCH),
            "cost": load_json(workspace.search(method) / "cost.json"),
        }
        for method, section in settings.tuning.methods.items()
        if section.search_rates
    ]
    return {"runs": runs, "searches": searches}


def _template_kind(path: Path) -> str | None:
    """Whether an adapter was trained on the "plain" chat template or its base model's "own"; None if not published."""
    if not path.is_file():
        return None
    return "plain" if path.read_text(encoding="utf-8") == PLAIN_TEMPLATE else "own"


def build_provenance(workspace: Workspace, settings: Settings) -> dict[str, Any]:
    """What each published stage says about how it was made, beside the settings of this report."""
    folders = {
        "data/raw": workspace.raw,
        "data/filtered": workspace.filtered,
        "data/preference": workspace.preference,
    }
    for method, seed in study_runs(settings):
        if method != BASE:
            folder = workspace.adapter(method, seed)
            folders[workspace.relative(folder)] = folder
        folder = results_folder(workspace, method, seed)
        folders[workspace.relative(folder)] = folder
    stages = {}
    for name, folder in folders.items():
        told = figure(read_manifest(folder), "provenance") or {}
        stages[name] = {key: told.get(key) for key in ("seed", "python", "packages", "hardware", "hub")}
    return {"profile": settings.profile, "settings": settings.model_dump(mode="json"), "stages": stages}


def _rows(path: Path) -> list[dict[str, Any]] | None:
    try:
        return read_jsonl(path)
    except (OSError, ValueError):
        return None


def _count(rows: Sequence[Any] | None) -> int | None:
    return None if rows is None else len(rows)


def _shares(rows: list[dict[str, Any]] | None, key: str) -> dict[str, int] | None:
    if rows is None:
        return None
    counts = Counter(str(row[key]) for row in rows if row.get(key) is not None)
    return dict(sorted(counts.items())) or None


def _waterfall(
    raw: list[dict[str, Any]] | None, kept: list[dict[str, Any]] | None, dropped: list[dict[str, Any]] | None
) -> list[dict[str, Any]] | None:
    """Rows left after each rule; a row falls to the first rule it breaks."""
    if raw is None or kept is None or dropped is None:
        return None
    counts = Counter(str(row.get("rule")) for row in dropped)
    known = [rule for rule in RULE_ORDER if rule in counts]
    steps: list[dict[str, Any]] = [{"step": "raw", "rows": len(raw), "dropped": 0}]
    for rule in [*known, *sorted(set(counts) - set(known))]:
        steps.append({"step": rule, "rows": steps[-1]["rows"] - counts[rule], "dropped": counts[rule]})
    steps.append({"step": "kept", "rows": len(kept), "dropped": 0})
    return steps


def _spread(values: Sequence[Any]) -> dict[str, float] | None:
    numbers = sorted(float(value) for value in values if isinstance(value, (int, float)))
    if not numbers:
        return None
    return {
        "mean": sum(numbers) / len(numbers),
        "min": numbers[0],
        "median": numbers[len(numbers) // 2],
        "max": numbers[-1],
    }


def _quality_parts(kept: list[dict[str, Any]] | None) -> dict[str, float] | None:
    rows = [row["quality_parts"] for row in kept or [] if isinstance(row.get("quality_parts"), Mapping)]
    if not rows:
        return None
    return {part: sum(row[part] for row in rows) / len(rows) for part in sorted(rows[0])}


def _margins(pairs: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    margins = [float(row["margin"]) for row in pairs or [] if isinstance(row.get("margin"), (int, float))]
    if not pairs or not margins:
        return None
    low, high = min(0.0, *margins), max(margins)
    width = (high - low) / MARGIN_BINS or 1.0
    counts = Counter(min(MARGIN_BINS - 1, int((margin - low) / width)) for margin in margins)
    return {
        "spread": _spread(margins),
        "edges": [low + width * step for step in range(MARGIN_BINS + 1)],
        "counts": [counts[step] for step in range(MARGIN_BINS)],
        "ordered": sum(row["chosen_score"] > row["rejected_score"] for row in pairs),
        "pairs": len(pairs),
        "chosen_models": _shares(pairs, "chosen_model"),
        "rejected_models": _shares(pairs, "rejected_model"),
    }


def _example(workspace: Workspace) -> dict[str, str]:
    """The first training row of either kind; long texts are cut."""
    firsts = [(_rows(folder / "train.jsonl") or [{}])[0] for folder in (workspace.filtered, workspace.preference)]
    return {name: _cut(str(text)) for first in firsts for name, text in first.items()}


def _cut(text: str) -> str:
    words = text.split()
    return " ".join(words[:EXAMPLE_WORDS]) + (" …" if len(words) > EXAMPLE_WORDS else "")


def _format(folder: Path, fields: tuple[str, ...]) -> dict[str, Any] | None:
    """Rows of the splits that hold exactly these fields, as non-empty strings."""
    splits = [_rows(folder / f"{split}.jsonl") for split in SPLITS]
    if any(split is None for split in splits):
        return None
    rows = [row for split in splits for row in split or []]
    valid = [
        row
        for row in rows
        if isinstance(row, dict)
        and set(row) == set(fields)
        and all(isinstance(row[field], str) and row[field].strip() for field in fields)
    ]
    return {"fields": list(fields), "rows": len(rows), "valid": len(valid)}
