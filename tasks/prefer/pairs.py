"""Preference pairs (requirement 2.3): of an instruction's three scored responses the best against the worst.

The road, for a flow:

    asked = first_request(kept_rows, settings)
    while True:
        instructions = choose_instructions(kept_rows, asked, seed)
        ... three responses to each, each scored once ...
        result = make_pairs(instructions, responses, settings)
        if not shortage(result.pairs, settings):
            break
        asked = next_request(asked, result, kept_rows, settings)
    pairs = select_pairs(result.pairs, quotas(settings))
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from configs.settings import PreferenceSettings
from storage.files import fingerprint
from tasks.prefer.statistics import pair_statistics

Row = Mapping[str, Any]
Counts = dict[str, int]


class TooFewPairsError(ValueError):
    """Fewer pairs than asked for, and no instruction left to ask; the message says what is short in which split."""


@dataclass(frozen=True)
class PairResult:
    """Pairs in the order of their instructions, the instructions that gave none with the reason, and statistics."""

    pairs: list[dict[str, Any]]
    skipped: list[dict[str, Any]]
    stats: dict[str, Any]


def quotas(settings: PreferenceSettings) -> Counts:
    """Pairs wanted in each split; test gets what train and val leave of them."""
    test = settings.pairs - settings.train_pairs - settings.val_pairs
    return {"train": settings.train_pairs, "val": settings.val_pairs, "test": test}


def first_request(kept_rows: Iterable[Row], settings: PreferenceSettings) -> Counts:
    """Instructions to answer in each split at first: `oversample` for each pair wanted, or all there are."""
    available = Counter(row["split"] for row in kept_rows)
    return {
        split: min(math.ceil(quota * _oversample(settings)), available[split])
        for split, quota in quotas(settings).items()
    }


def next_request(
    asked: Mapping[str, int], result: PairResult, kept_rows: Iterable[Row], settings: PreferenceSettings
) -> Counts:
    """Instructions to answer in each split after a shortage: as many more as the yield so far makes likely to do.

    Raises:
        TooFewPairsError: a split is short and all its instructions have been answered.
    """
    available = Counter(row["split"] for row in kept_rows)
    short = shortage(result.pairs, settings)
    if exhausted := [split for split in short if asked[split] >= available[split]]:
        raise TooFewPairsError(_complaint(exhausted, short, asked, result.skipped))
    found = Counter(pair["split"] for pair in result.pairs)
    grown = dict(asked)
    for split, missing in short.items():
        answers_a_pair = Fraction(max(asked[split], 1), max(found[split], 1))
        more = math.ceil(missing * answers_a_pair * _oversample(settings))
        grown[split] = min(asked[split] + more, available[split])
    return grown


def choose_instructions(kept_rows: Iterable[Row], asked: Mapping[str, int], seed: int) -> list[dict[str, Any]]:
    """The first rows of each split, `asked` many, in an order drawn by the seed and each row's content.

    A row's place among the others depends on nothing else, so that rows that come or go move none of the rest past
    one another, and a larger request begins with all of a smaller one.
    """
    drawn = sorted(kept_rows, key=lambda row: (fingerprint([seed, row["instruction"]]), row["id"]))
    taken: Counter[str] = Counter()
    chosen = []
    for row in drawn:
        if taken[row["split"]] < asked.get(row["split"], 0):
            taken[row["split"]] += 1
            chosen.append({"id": row["id"], "instruction": row["instruction"], "split": row["split"]})
    return chosen


def make_pairs(instructions: Sequence[Row], responses: Iterable[Row], settings: PreferenceSettings) -> PairResult:
    """Pair each instruction's best-scored response with its worst.

    Left out are responses that are empty, truncated or without a finite score. An instruction makes no pair, and is
    skipped with the reason, when fewer than two responses are left, when best and worst are a tie or the same text,
    or when the margin is not above `min_margin`. Of equal scores the first model by name counts, so the order of
    `responses` plays no part.

    Args:
        instructions: `id`, `instruction`, `split`, in the order in which the pairs are wanted.
        responses: `id` of the instruction, `model`, `output`, `finish_reason`, `score`.
        settings: `min_margin`.
    """
    instructions = list(instructions)
    answers: dict[str, list[Row]] = {row["id"]: [] for row in instructions}
    for response in responses:
        if response["id"] in answers:
            answers[response["id"]].append(response)
    pairs, skipped = [], []
    for row in instructions:
        usable, left_out = _usable(answers[row["id"]])
        reason = _no_pair(usable, settings.min_margin)
        if reason:
            skipped.append({"id": row["id"], "split": row["split"], "reason": reason, "left_out": left_out})
            continue
        best, worst = _best_and_worst(usable)
        pairs.append(
            {
                "id": row["id"],
                "prompt": row["instruction"],
                "chosen": best["output"],
                "rejected": worst["output"],
                "chosen_score": best["score"],
                "rejected_score": worst["score"],
                "chosen_model": best["model"],
                "rejected_model": worst["model"],
                "margin": best["score"] - worst["score"],
                "split": row["split"],
            }
        )
    all_answers = [response for row in instructions for response in answers[row["id"]]]
    return PairResult(pairs, skipped, pair_statistics(pairs, all_answers, skipped))


def shortage(pairs: Iterable[Row], settings: PreferenceSettings) -> Counts:
    """Pairs missing in each split that misses any."""
    found = Counter(pair["split"] for pair in pairs)
    return {split: quota - found[split] for split, quota in quotas(settings).items() if found[split] < quota}


def select_pairs(pairs: Iterable[Row], wanted: Mapping[str, int]) -> list[dict[str, Any]]:
    """The first pairs of each split up to its quota, in id order; what exceeds a quota is left out.

    Raises:
        TooFewPairsError: a split has fewer pairs than its quota.
    """
    taken: Counter[str] = Counter()
    selected = []
    for pair in pairs:
        if taken[pair["split"]] < wanted.get(pair["split"], 0):
            taken[pair["split"]] += 1
            selected.append(dict(pair))
    if short := {split: quota - taken[split] for split, quota in wanted.items() if taken[split] < quota}:
        lacking = ", ".join(f"{split} lacks {missing} of {wanted[split]}" for split, missing in short.items())
        raise TooFewPairsError(f"too few preference pairs: {lacking}")
    return sorted(selected, key=lambda pair: pair["id"])


def dpo_row(pair: Row) -> dict[str, str]:
    """A pair in the DPO format (4.1)."""
    return {"prompt": pair["prompt"], "chosen": pair["chosen"], "rejected": pair["rejected"]}


def _oversample(settings: PreferenceSettings) -> Fraction:
    return Fraction(repr(settings.oversample))  # as it is written: 400 × 1.1 is 440, not one more


def _usable(answers: Iterable[Row]) -> tuple[list[Row], Counts]:
    usable = []
    left_out: Counter[str] = Counter()
    for answer in answers:
        if not answer["output"].strip():
            left_out["empty"] += 1
        elif answer["finish_reason"] != "stop":
            left_out["truncated"] += 1
        elif answer["score"] is None or not math.isfinite(answer["score"]):
            left_out["unscored"] += 1
        else:
            usable.append(answer)
    return usable, dict(sorted(left_out.items()))


def _no_pair(usable: Sequence[Row], min_margin: float) -> str | None:
    if len(usable) < 2:
        return "fewer_than_two_usable"
    if len({answer["output"].strip() for answer in usable}) == 1:
        return "identical_texts"
    best, worst = _best_and_worst(usable)
    margin = best["score"] - worst["score"]
    if margin == 0:
        return "tie"
    if best["output"].strip() == worst["output"].strip():
        return "identical_texts"
    return None if margin > min_margin else "margin_too_small"


def _best_and_worst(usable: Iterable[Row]) -> tuple[Row, Row]:
    by_model = sorted(usable, key=lambda answer: (answer["model"], answer["output"]))
    return max(by_model, key=lambda answer: answer["score"]), min(by_model, key=lambda answer: answer["score"])


def _complaint(
    exhausted: Sequence[str], short: Mapping[str, int], asked: Mapping[str, int], skipped: Iterable[Row]
) -> str:
    lacking = ", ".join(f"{split} lacks {short[split]} pairs after all its {asked[split]} rows" for split in exhausted)
    reasons = Counter(skip["reason"] for skip in skipped if skip["split"] in exhausted)
    skips = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "none"
    change = {
        "train": "--preference.train_pairs",
        "val": "--preference.val_pairs or raise --filter.val_rows",
        "test": "--preference.pairs",
    }
    lower = "; ".join(f"lower {change[split]}" for split in exhausted)
    return (
        f"too few preference pairs: {lacking}; instructions without a pair: {skips}. "
        f"Raise --generation.rows; {lower}; or lower --preference.min_margin"
    )
