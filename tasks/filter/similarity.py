"""Exact search for word sets by Jaccard similarity, in integers only.

|A ∩ B| / |A ∪ B| ≥ p/q is q |A ∩ B| ≥ p |A ∪ B|. It implies |A ∩ B| ≥ (p/q) |A|, so that two such sets, each sorted
in one common order, share a word in their first n - ⌈n p/q⌉ + 1 words (prefix filter: Chaudhuri, Ganti and Kaushik,
ICDE 2006; Bayardo, Ma and Srikant, WWW 2007). With rare words first, few sets are candidates; each one is verified.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from tasks.filter.text import words


class Match(NamedTuple):
    """A set in the index, by its key, with the sizes of its intersection and union with the set asked for."""

    key: int
    shared: int
    union: int

    def reaches(self, threshold: Fraction) -> bool:
        """Whether the similarity is at or above the threshold."""
        return threshold.denominator * self.shared >= threshold.numerator * self.union


def word_set(text: str) -> frozenset[str]:
    """The set of a text's words."""
    return frozenset(words(text))


def exact(threshold: float) -> Fraction:
    """The decimal fraction that a threshold is written as: 0.8 is 4/5, not its nearest binary number."""
    return Fraction(repr(threshold))


class SimilarityIndex:
    """Finds the sets added so far whose similarity to a set is at or above the threshold.

    Two empty sets have similarity 1.
    """

    def __init__(self, threshold: Fraction, vocabulary: Iterable[frozenset[str]]) -> None:
        """Count how rare each word is in the sets that will be added and asked for."""
        self.threshold = threshold
        self._frequency = Counter(word for content in vocabulary for word in content)
        self._sets: dict[int, frozenset[str]] = {}
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)
        self._empty: list[int] = []

    def add(self, key: int, content: frozenset[str]) -> None:
        """Put a set in."""
        self._sets[key] = content
        if not content:
            self._empty.append(key)
        for word in self._prefix(content):
            self._by_word[word].append(key)

    def matches(self, content: frozenset[str]) -> list[Match]:
        """Sets at or above the threshold, in the order of their keys."""
        if not content:
            return [Match(key, 1, 1) for key in self._empty]
        numerator, denominator = self.threshold.as_integer_ratio()
        found = []
        for key in {key for word in self._prefix(content) for key in self._by_word[word]}:
            other = self._sets[key]
            shared = len(content & other)
            union = len(content) + len(other) - shared
            if denominator * shared >= numerator * union:
                found.append(Match(key, shared, union))
        return sorted(found)

    def _prefix(self, content: frozenset[str]) -> list[str]:
        size = len(content)
        needed = -(-size * self.threshold.numerator // self.threshold.denominator)
        return sorted(content, key=lambda word: (self._frequency[word], word))[: size - needed + 1]
