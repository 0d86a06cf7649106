"""The contamination rule: no row teaches a question that the study is measured by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from configs.settings import FilterSettings
from tasks.filter.rule import FIELDS, SHOWN_CHARACTERS, Evidence, Row, Rule
from tasks.filter.text import words

FEWEST_WORDS = 5  # "And what happens next?" stands in texts that have nothing to do with the benchmark


class Question(NamedTuple):
    """A question of a benchmark."""

    benchmark: str
    text: str


class Contaminated(Rule):
    """Drops a row one of whose texts repeats a benchmark's question.

    A question counts as repeated if n-grams that the text shares with it cover the given share of its words: eight
    words and one half are what Tülu 3 (Lambert et al. 2024) takes. A question of fewer words than n is one n-gram, and
    one of fewer than five tells nothing.
    """

    name = "contaminated"
    settings = ("filter.contamination_share",)

    def __init__(self, settings: FilterSettings, questions: Sequence[Question]) -> None:
        """Take the n-grams' length, the share, and the questions."""
        self._share = settings.contamination_share
        self._questions = questions
        self._sizes: list[int] = []
        self._places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for number, question in enumerate(questions):
            tokens = words(question.text)
            self._sizes.append(len(tokens))
            size = min(settings.contamination_words, len(tokens))
            if len(tokens) >= FEWEST_WORDS:
                for place in range(len(tokens) - size + 1):
                    self._places[tokens[place : place + size]].append((number, place))
        self._lengths = sorted({len(gram) for gram in self._places})

    def judge(self, row: Row) -> Evidence | None:
        """Name the benchmark, quote the question and say how much of it is repeated."""
        for field in FIELDS:
            tokens = words(row[field])
            covered: dict[int, set[int]] = defaultdict(set)
            for size in self._lengths:
                for gram in zip(*(tokens[start:] for start in range(size)), strict=False):
                    for number, place in self._places.get(gram, ()):
                        covered[number].update(range(place, place + size))
            if covered:
                worst = max(covered, key=lambda number: (len(covered[number]) / self._sizes[number], -number))
                share = len(covered[worst]) / self._sizes[worst]
                if share >= self._share:
                    question = self._questions[worst]
                    return {
                        "field": field,
                        "benchmark": question.benchmark,
                        "question": question.text[:SHOWN_CHARACTERS],
                        "share": round(share, 4),
                    }
        return None
