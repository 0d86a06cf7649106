"""Raw rows to filtered rows: every rule in turn, the quality score, the splits, and the statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev, quantiles
from typing import Any

from configs.settings import FilterSettings
from tasks.filter.diversity import Diversity
from tasks.filter.quality import quality
from tasks.filter.rules import Row, Rule, row_rules
from tasks.filter.splits import assign_splits
from tasks.filter.text import word_count


class TooFewRowsError(ValueError):
    """The filter keeps fewer rows than the splits need; the message says how many are short and what to change."""


@dataclass(frozen=True)
class FilterResult:
    """What the filter keeps and drops, in id order, and its statistics, all in JSON's types."""

    kept: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    stats: dict[str, Any]


@dataclass(frozen=True)
class Judgement:
    """Rows that every rule keeps, in id order, their quality scores and parts, what was dropped, the waterfall."""

    survivors: list[Row]
    scored: dict[str, tuple[float, dict[str, float]]]
    dropped: list[dict[str, Any]]
    waterfall: list[Step]


@dataclass
class Step:
    """One line of the waterfall."""

    rule: str
    settings: tuple[str, ...]
    entered: int
    dropped: int = 0

    def as_json(self) -> dict[str, Any]:
        """The line as the statistics hold it."""
        return {"rule": self.rule, "in": self.entered, "dropped": self.dropped, "out": self.entered - self.dropped}


def filter_rows(rows: Sequence[Row], settings: FilterSettings, seed: int) -> FilterResult:
    """Judge every row by every rule, cheapest first, score what is kept and fix its split.

    The result depends on the rows, not on their order.

    Args:
        rows: raw rows with `id` (unique), `domain`, `instruction`, `output`, `finish_reason`.
        settings: thresholds, weights and split sizes.
        seed: seed of the splits.

    Raises:
        TooFewRowsError: not enough rows are kept for the splits.
        ValueError: an id occurs twice.
    """
    judgement = judge_rows(rows, settings)
    survivors, scored, waterfall = judgement.survivors, judgement.scored, judgement.waterfall
    _require_enough(len(survivors), len(rows), settings, waterfall)
    splits = assign_splits(survivors, settings, seed)
    kept = [
        {
            "id": row["id"],
            "domain": row["domain"],
            "instruction": row["instruction"],
            "output": row["output"],
            "quality": scored[row["id"]][0],
            "quality_parts": scored[row["id"]][1],
            "split": splits.by_id[row["id"]],
        }
        for row in survivors
    ]
    stats = {
        "raw": len(rows),
        "kept": len(kept),
        "dropped": len(judgement.dropped),
        "waterfall": [step.as_json() for step in waterfall],
        "instruction_words": {"raw": _mean_words(rows, "instruction"), "kept": _mean_words(kept, "instruction")},
        "output_words": {"raw": _mean_words(rows, "output"), "kept": _mean_words(kept, "output")},
        "quality": _quality_stats(kept),
        "domains": {"raw": _domains(rows), "kept": _domains(kept)},
        "splits": splits.stats,
    }
    return FilterResult(kept, judgement.dropped, stats)


def judge_rows(rows: Sequence[Row], settings: FilterSettings) -> Judgement:
    """Judge every row by every rule, cheapest first, and score those that the row rules keep.

    Args:
        rows: rows with `id` (unique), `instruction`, `output`, `finish_reason`, in any order.
        settings: thresholds and weights.

    Raises:
        ValueError: an id occurs twice.
    """
    rows = sorted(rows, key=lambda row: row["id"])
    if twice := [row["id"] for row, following in zip(rows, rows[1:], strict=False) if row["id"] == following["id"]]:
        raise ValueError(f"{len(twice)} row ids occur more than once, among them {twice[0]!r}")

    dropped: list[dict[str, Any]] = []
    waterfall: list[Step] = []
    survivors: list[Row] = rows
    for rule in row_rules(settings):
        survivors = _apply(rule, survivors, dropped, waterfall)
    scored = {row["id"]: quality(row, settings.quality) for row in survivors}
    walk = Diversity.walk(survivors, {row_id: score for row_id, (score, _) in scored.items()})
    survivors = _apply(Diversity(settings.max_similarity, walk), walk, dropped, waterfall)

    return Judgement(
        sorted(survivors, key=lambda row: row["id"]), scored, sorted(dropped, key=lambda drop: drop["id"]), waterfall
    )


def sft_row(row: Row) -> dict[str, str]:
    """A kept row in the SFT format (4.1)."""
    return {"instruction": row["instruction"], "output": row["output"]}


def _apply(rule: Rule, rows: Sequence[Row], dropped: list[dict[str, Any]], waterfall: list[Step]) -> list[Row]:
    step = Step(rule.name, rule.settings, len(rows))
    kept = []
    for row in rows:
        evidence = rule.judge(row)
        if evidence is None:
            kept.append(row)
        else:
            dropped.append({"id": row["id"], "rule": rule.name, "evidence": evidence})
    step.dropped = len(rows) - len(kept)
    waterfall.append(step)
    return kept


def _require_enough(kept: int, raw: int, settings: FilterSettings, waterfall: Sequence[Step]) -> None:
    needed = settings.train_rows + settings.val_rows + 1
    if kept >= needed:
        return
    worst = max(waterfall, key=lambda step: step.dropped)
    loosen = f", or loosen {' or '.join('--' + key for key in worst.settings)}" if worst.settings else ""
    raise TooFewRowsError(
        f"the filter keeps {kept} of {raw} rows, {needed - kept} short of the {needed} that filter.train_rows "
        f"{settings.train_rows} + filter.val_rows {settings.val_rows} + 1 test row need; "
        f"rule {worst.rule!r} dropped most ({worst.dropped}). "
        f"Raise --generation.rows, lower --filter.train_rows or --filter.val_rows{loosen}"
    )


def _mean_words(rows: Sequence[Row], field: str) -> float:
    return round(fmean(word_count(row[field] or "") for row in rows), 4)


def _quality_stats(kept: Sequence[Row]) -> dict[str, Any]:
    scores = [row["quality"] for row in kept]
    twentieths = quantiles(scores, n=20, method="inclusive") if len(scores) > 1 else scores * 19
    parts = {name: [row["quality_parts"][name] for row in kept] for name in kept[0]["quality_parts"]}
    return {
        "mean": round(fmean(scores), 6),
        "sd": round(pstdev(scores), 6),
        "quantiles": {
            "0.05": round(twentieths[0], 6),
            "0.25": round(twentieths[4], 6),
            "0.5": round(twentieths[9], 6),
            "0.75": round(twentieths[14], 6),
            "0.95": round(twentieths[18], 6),
        },
        "parts": {
            name: {"mean": round(fmean(values), 6), "sd": round(pstdev(values), 6)} for name, values in parts.items()
        },
    }


def _domains(rows: Iterable[Row]) -> dict[str, int]:
    return dict(sorted(Counter(row["domain"] for row in rows).items()))
