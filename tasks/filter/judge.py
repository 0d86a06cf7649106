"""What the row rules and the quality score say of rows, one row at a time: a batch can be judged in any process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, TypedDict

import numpy as np

from configs.settings import QualityWeights
from tasks.filter.quality import quality
from tasks.filter.rule import FIELDS, Evidence, Row, Rule
from tasks.filter.tokens import TEXTS_TOGETHER, WORDS, forget_when_full, word_numbers


class Kept(NamedTuple):
    """A row that no row rule drops."""

    number: int
    scores: list[float]
    """Quality, then its parts."""
    words: list[int]
    """Places in the batch's vocabulary of the instruction's distinct words."""


class Dropped(NamedTuple):
    """A row with the first rule that drops it and that rule's evidence."""

    number: int
    rule: str
    evidence: Evidence


class Verdicts(TypedDict):
    """A batch's rows, in JSON's types."""

    kept: list[Kept]
    dropped: list[Dropped]
    vocabulary: list[str]


def judge_batch(rows: Iterable[tuple[int, Row]], rules: Sequence[Rule], weights: QualityWeights) -> Verdicts:
    """Judge each row by the rules, in their order, and score those that they keep.

    Args:
        rows: numbers, and rows with `instruction`, `output`, `finish_reason`.
        rules: what `row_rules` gives.
        weights: of the quality score's parts.
    """
    forget_when_full()
    kept, dropped, contents = list[tuple[int, list[float]]](), [], list[list[int]]()
    rows = iter(rows)
    while together := list(islice(rows, TEXTS_TOGETHER // len(FIELDS))):
        for _, row in together:
            for field in FIELDS:
                word_numbers(row[field] or "")  # which are remembered
        for number, row in together:
            for rule in rules:
                evidence = rule.judge(row)
                if evidence is not None:
                    dropped.append(Dropped(number, rule.name, evidence))
                    break
            else:
                score, parts = quality(row, weights)
                kept.append((number, [score, *parts.values()]))
                contents.append(list(set(word_numbers(row["instruction"]).tolist())))
    used, places = np.unique(np.fromiter(chain.from_iterable(contents), np.int32), return_inverse=True)
    place = iter(places.tolist())
    return {
        "kept": [Kept(*row, list(islice(place, len(content)))) for row, content in zip(kept, contents, strict=True)],
        "dropped": dropped,
        "vocabulary": [WORDS.strings[word] for word in used],
    }


def verdicts_of(result: dict[str, Any]) -> Verdicts:
    """Verdicts as they were before they went through JSON."""
    return {
        "kept": [Kept(*row) for row in result["kept"]],
        "dropped": [Dropped(*row) for row in result["dropped"]],
        "vocabulary": result["vocabulary"],
    }
