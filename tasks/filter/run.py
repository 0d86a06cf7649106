"""Raw rows to filtered rows: every rule in turn, the quality score, the splits, and the statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev, quantiles
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.settings import FilterSettings
from tasks.filter.contamination import Question
from tasks.filter.diversity import DIVERSITY, DIVERSITY_SETTINGS, near_duplicates
from tasks.filter.judge import Dropped, Verdicts, judge_batch
from tasks.filter.quality import PARTS
from tasks.filter.rule import Row, Rule
from tasks.filter.rules import row_rules
from tasks.filter.similarity import WordSetsBuilder
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


@dataclass(frozen=True)
class Judgement:
    """What becomes of rows, by their numbers: each one is in `dropped` or in `kept`."""

    dropped: dict[int, Dropped]
    kept: NDArray[np.int64]
    """Numbers, ascending."""
    scores: NDArray[np.float64]
    """Quality and its parts of each kept row, shape (kept, 1 + parts)."""
    waterfall: list[Step]


def with_names(scores: Sequence[float]) -> dict[str, Any]:
    """Quality and its parts, as the files hold them."""
    score, *parts = scores
    return {"quality": score, "quality_parts": dict(zip(PARTS, parts, strict=True))}


def filter_rows(
    rows: Sequence[Row], settings: FilterSettings, seed: int, questions: Sequence[Question] = ()
) -> FilterResult:
    """Judge every row by every rule, cheapest first, score what is kept and fix its split.

    The result depends on the rows, not on their order.

    Args:
        rows: raw rows with `id` (unique), `domain`, `instruction`, `output`, `finish_reason`.
        settings: thresholds, weights and split sizes.
        seed: seed of the splits.
        questions: the benchmarks' questions, which no kept row may repeat; none leaves the contamination rule out.

    Raises:
        TooFewRowsError: not enough rows are kept for the splits.
        ValueError: an id occurs twice.
    """
    rows = sorted(rows, key=lambda row: row["id"])
    ids = [row["id"] for row in rows]
    if twice := [row_id for row_id, following in pairwise(ids) if row_id == following]:
        raise ValueError(f"{len(twice)} row ids occur more than once, among them {twice[0]!r}")
    rules = row_rules(settings, questions)
    judgement = conclude([judge_batch(enumerate(rows), rules, settings.quality)], ids, rules, settings)
    _require_enough(len(judgement.kept), len(rows), settings, judgement.waterfall)
    survivors = [rows[number] for number in judgement.kept]
    splits = assign_splits(survivors, settings, seed)
    kept = [
        {
            "id": row["id"],
            "domain": row["domain"],
            "instruction": row["instruction"],
            "output": row["output"],
            **with_names(scores),
            "split": splits.by_id[row["id"]],
        }
        for row, scores in zip(survivors, judgement.scores.tolist(), strict=True)
    ]
    stats = {
        "raw": len(rows),
        "kept": len(kept),
        "dropped": len(judgement.dropped),
        "waterfall": [step.as_json() for step in judgement.waterfall],
        "instruction_words": {"raw": _mean_words(rows, "instruction"), "kept": _mean_words(kept, "instruction")},
        "output_words": {"raw": _mean_words(rows, "output"), "kept": _mean_words(kept, "output")},
        "quality": _quality_stats(kept),
        "domains": {"raw": _domains(rows), "kept": _domains(kept)},
        "splits": splits.stats,
    }
    dropped = [
        {"id": ids[number], "rule": drop.rule, "evidence": drop.evidence}
        for number, drop in sorted(judgement.dropped.items())
    ]
    return FilterResult(kept, dropped, stats)


def conclude(
    batches: Iterable[Verdicts], ids: Sequence[str], rules: Sequence[Rule], settings: FilterSettings
) -> Judgement:
    """Bring batches of rows together and drop near-duplicates among what their rules keep.

    Args:
        batches: what `judge_batch` says, every row in one of them.
        ids: each row's id, by its number; read when the batches have ended.
        rules: the rules that judged them.
        settings: thresholds.
    """
    dropped: dict[int, Dropped] = {}
    numbers, scores = [np.zeros(0, np.int64)], [np.zeros((0, 1 + len(PARTS)))]
    builder = WordSetsBuilder()
    for batch in batches:
        dropped.update((drop.number, drop) for drop in batch["dropped"])
        numbers.append(np.array([row.number for row in batch["kept"]], np.int64))
        scores.append(np.array([row.scores for row in batch["kept"]]).reshape(-1, 1 + len(PARTS)))
        builder.add(batch["vocabulary"], [row.words for row in batch["kept"]])
    number, score = np.concatenate(numbers), np.concatenate(scores)
    entered = len(number) + len(dropped)
    near = near_duplicates(builder.build(), [ids[n] for n in number], score[:, 0], settings.max_similarity)
    dropped.update((int(number[place]), Dropped(int(number[place]), DIVERSITY, near[place])) for place in near)
    stays = np.ones(len(number), bool)
    stays[list(near)] = False
    order = np.argsort(number[stays], kind="stable")
    return Judgement(dropped, number[stays][order], score[stays][order], _waterfall(entered, dropped, rules))


def _waterfall(entered: int, dropped: Mapping[int, Dropped], rules: Sequence[Rule]) -> list[Step]:
    counts = Counter(drop.rule for drop in dropped.values())
    steps = []
    for rule, keys in [*((rule.name, rule.settings) for rule in rules), (DIVERSITY, DIVERSITY_SETTINGS)]:
        steps.append(Step(rule, keys, entered, counts[rule]))
        entered -= counts[rule]
    return steps


def sft_row(row: Row) -> dict[str, str]:
    """A kept row in the SFT format (4.1)."""
    return {"instruction": row["instruction"], "output": row["output"]}


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
