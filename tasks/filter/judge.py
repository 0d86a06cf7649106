"""What the row rules and the quality score say of rows, one row at a time: a batch can be judged in any process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypedDict

from configs.settings import QualityWeights
from tasks.filter.quality import quality
from tasks.filter.rule import Evidence, Row, Rule
from tasks.filter.text import words


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
    kept, dropped, places = [], [], dict[str, int]()
    for number, row in rows:
        for rule in rules:
            evidence = rule.judge(row)
            if evidence is not None:
                dropped.append(Dropped(number, rule.name, evidence))
                break
        else:
            score, parts = quality(row, weights)
            content = [places.setdefault(word, len(places)) for word in sorted(set(words(row["instruction"])))]
            kept.append(Kept(number, [score, *parts.values()], content))
    return {"kept": kept, "dropped": dropped, "vocabulary": list(places)}


def verdicts_of(result: dict[str, Any]) -> Verdicts:
    """Verdicts as they were before they went through JSON."""
    return {
        "kept": [Kept(*row) for row in result["kept"]],
        "dropped": [Dropped(*row) for row in result["dropped"]],
        "vocabulary": result["vocabulary"],
    }
