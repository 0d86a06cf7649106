"""What a reader needs to trust preference pairs: margins, who wins, and how much length has to do with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist, fmean, pstdev, stdev
from typing import Any

from configs.settings import QualityWeights

Row = Mapping[str, Any]

Z_95 = NormalDist().inv_cdf(0.975)
HISTOGRAM_BINS = 20


def pair_statistics(pairs: Sequence[Row], responses: Sequence[Row], skipped: Iterable[Row]) -> dict[str, Any]:
    """Statistics of pairs and of all scored responses they were drawn from; null where there is nothing to count.

    Margins are in the reward model's own units and, standardized, in standard deviations of all scores. A model's win
    share is the share of pairs it is chosen in. Lengths are words separated by white space.
    """
    scored = [row for row in responses if row["score"] is not None and math.isfinite(row["score"])]
    scores = [row["score"] for row in scored]
    margins = [pair["margin"] for pair in pairs]
    spread = pstdev(scores) if len(scores) > 1 else 0.0
    mean_margin = fmean(margins) if margins else None
    return {
        "pairs": len(pairs),
        "splits": _counts(pair["split"] for pair in pairs),
        "skipped": _counts(skip["reason"] for skip in skipped),
        "responses": _counts(row["finish_reason"] if row["output"].strip() else "empty" for row in responses),
        "mean_margin": mean_margin,
        "score_sd": spread if scores else None,
        "mean_margin_standardized": mean_margin / spread if mean_margin is not None and spread else None,
        "min_margin": min(margins, default=None),
        "margin_histogram": histogram(margins, HISTOGRAM_BINS),
        "models": {
            model: _model_statistics(model, pairs, scored) for model in sorted({row["model"] for row in scored})
        },
        "length": {
            "spearman_score_words": spearman(scores, [_words(row["output"]) for row in scored]),
            "chosen_mean_words": fmean(_words(pair["chosen"]) for pair in pairs) if pairs else None,
            "rejected_mean_words": fmean(_words(pair["rejected"]) for pair in pairs) if pairs else None,
            "longer_chosen_share": (
                fmean(_words(pair["chosen"]) > _words(pair["rejected"]) for pair in pairs) if pairs else None
            ),
        },
    }


def quality_agreement(responses: Sequence[Row], weights: QualityWeights) -> dict[str, Any]:
    """How far the filter's quality score ranks responses as the reward model does; null where nothing varies.

    Over all scored responses with a word: Spearman's correlation of the score, and of each of its parts, with the
    reward. Within instructions: of two responses to one instruction that differ in both, the share both rank alike
    (0.5 is chance), which how hard instructions are plays no part in.

    Args:
        responses: `id` of the instruction, `instruction`, `output`, `score`.
        weights: the parts' weights.
    """
    from tasks.filter.quality import quality  # compiled code that the statistics of pairs do not need

    judged = [
        (row["id"], row["score"], *quality(row, weights))
        for row in responses
        if row["score"] is not None and math.isfinite(row["score"]) and row["output"].strip()
    ]
    rewards = [reward for _, reward, _, _ in judged]
    by_instruction: dict[str, list[tuple[float, float]]] = {}
    for row_id, reward, score, _ in judged:
        by_instruction.setdefault(row_id, []).append((reward, score))
    alike = [
        (a[0] > b[0]) == (a[1] > b[1])
        for answers in by_instruction.values()
        for a, b in combinations(answers, 2)
        if a[0] != b[0] and a[1] != b[1]
    ]
    return {
        "responses": len(judged),
        "spearman": spearman(rewards, [score for _, _, score, _ in judged]),
        "spearman_parts": {
            name: spearman(rewards, [parts[name] for _, _, _, parts in judged]) for name in QualityWeights.model_fields
        },
        "pairs_within_instructions": len(alike),
        "ranked_alike_within_instructions": fmean(alike) if alike else None,
    }


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Rank correlation with mean ranks for ties (Spearman 1904); None where one side does not vary."""
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    a, b = _ranks(xs), _ranks(ys)
    mean = (len(a) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean with its 95% interval, ± 1.96 s / √n (normal: meant for dozens of values and more)."""
    mean = fmean(values)
    half = Z_95 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {
        "mean": mean,
        "low": None if half is None else mean - half,
        "high": None if half is None else mean + half,
        "n": len(values),
    }


def histogram(values: Sequence[float], bins: int) -> dict[str, Any]:
    """Counts of non-negative values in equal bins from 0 to the largest; a bin holds its upper edge."""
    if not values:
        return {"edges": [], "counts": []}
    width = max(values) / bins
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, math.ceil(value / width) - 1)) if width else 0] += 1
    return {"edges": [width * edge for edge in range(bins + 1)], "counts": counts}


def _model_statistics(model: str, pairs: Sequence[Row], scored: Iterable[Row]) -> dict[str, Any]:
    wins = sum(pair["chosen_model"] == model for pair in pairs)
    losses = sum(pair["rejected_model"] == model for pair in pairs)
    own = [row for row in scored if row["model"] == model]
    return {
        "win_share": wins / len(pairs) if pairs else None,
        "loss_share": losses / len(pairs) if pairs else None,
        "score": mean_interval([row["score"] for row in own]),
        "mean_words": fmean(_words(row["output"]) for row in own),
    }


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for position in order[start:end]:
            ranks[position] = (start + end + 1) / 2
        start = end
    return ranks


def _words(text: str) -> int:
    return len(text.split())


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
