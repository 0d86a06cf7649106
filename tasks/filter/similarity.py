"""Exact search for word sets by Jaccard similarity, in integers only.

|A ∩ B| / |A ∪ B| ≥ p/q is q |A ∩ B| ≥ p |A ∪ B|. It implies |A ∩ B| ≥ (p/q) |A|, so that two such sets, each sorted
in one common order, share a word in their first n - ⌈n p/q⌉ + 1 words (prefix filter: Chaudhuri, Ganti and Kaushik,
ICDE 2006), and what can follow the first shared word bounds the intersection (position filter: Xiao, Wang, Lin and Yu,
WWW 2008). With rare words first, few sets are candidates; each one is verified word by word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.filter.compiled import compiled
from tasks.filter.text import words

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


class Match(NamedTuple):
    """An earlier set, by its number, with the sizes of its intersection and union with a later one."""

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


@dataclass(frozen=True)
class WordSets:
    """Many sets of words, as numbers: set i is `ranks[starts[i] : starts[i + 1]]`, ascending, 0 the rarest word."""

    starts: Longs
    ranks: Ints
    vocabulary: int

    @property
    def arrays(self) -> tuple[Longs, Ints, int]:
        """Starts, ranks, and how many words there are."""
        return self.starts, self.ranks, self.vocabulary

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, contents: Iterable[frozenset[str]]) -> WordSets:
        """Number the words of sets."""
        builder = WordSetsBuilder()
        for content in contents:
            builder.add(list(content), [list(range(len(content)))])
        return builder.build()


class WordSetsBuilder:
    """Joins batches of sets, each with a vocabulary of its own, in the order they come."""

    def __init__(self) -> None:
        """Start without a set."""
        self._numbers: dict[str, int] = {}
        self._sizes: list[Ints] = []
        self._words: list[Ints] = []

    def add(self, vocabulary: Sequence[str], sets: Sequence[Sequence[int]]) -> None:
        """Append sets, each the places in `vocabulary` of its words, which are distinct."""
        numbers = self._numbers
        ours = np.fromiter((numbers.setdefault(word, len(numbers)) for word in vocabulary), np.int32, len(vocabulary))
        self._sizes.append(np.fromiter(map(len, sets), np.int32, len(sets)))
        self._words.append(ours[np.fromiter(chain.from_iterable(sets), np.int32)])

    def build(self) -> WordSets:
        """All sets so far; the builder is spent."""
        sizes = np.concatenate(self._sizes) if self._sizes else np.zeros(0, np.int32)
        numbered = np.concatenate(self._words) if self._words else np.zeros(0, np.int32)
        vocabulary = len(self._numbers)
        self.__init__()  # type: ignore[misc]
        rank = np.empty(vocabulary, np.int32)
        rank[np.argsort(np.bincount(numbered, minlength=vocabulary), kind="stable")] = np.arange(
            vocabulary, dtype=np.int32
        )
        ranks = rank[numbered]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        _sort_each(starts, ranks)
        return WordSets(starts, ranks, vocabulary)


def keep_apart(sets: WordSets, walk: Longs, threshold: Fraction) -> dict[int, Match]:
    """Walk the sets and keep each one that reaches the threshold with none kept before it.

    Two empty sets have similarity 1.

    Args:
        sets: the sets.
        walk: numbers of the sets in the order of the walk.
        threshold: similarity from which on a set is dropped.

    Returns:
        For each dropped set, by its number, the most similar kept set; of equals the one kept first.
    """
    filled = np.diff(sets.starts)[walk] > 0
    pairs = _join(*sets.arrays, walk[filled], *threshold.as_integer_ratio(), False)
    kept, *others = walk[~filled].tolist() or [-1]
    return {number: Match(kept, 1, 1) for number in others} | {
        number: Match(*match) for number, *match in pairs.tolist()
    }


def links(sets: WordSets, threshold: Fraction) -> list[tuple[int, Match]]:
    """Every pair that reaches the threshold: a set's number, and an earlier set's match; ordered by both numbers."""
    sizes = np.diff(sets.starts)
    pairs = _join(*sets.arrays, np.flatnonzero(sizes), *threshold.as_integer_ratio(), True)
    found = [(number, Match(*match)) for number, *match in pairs.tolist()]
    found += [(two, Match(one, 1, 1)) for one, two in combinations(np.flatnonzero(sizes == 0).tolist(), 2)]
    return sorted(found)


@compiled
def _sort_each(starts: Longs, ranks: Ints) -> None:
    for number in range(len(starts) - 1):
        ranks[starts[number] : starts[number + 1]].sort()


@compiled
def _prefix(size: int, p: int, q: int) -> int:
    return 0 if size == 0 else size + (-size * p // q) + 1


@compiled
def _ones(bits: np.uint64) -> int:
    count = 0
    while bits:
        bits &= bits - np.uint64(1)
        count += 1
    return count


@compiled
def _signature(words: Ints) -> np.uint64:
    """A bit of 64 for each word, by Fibonacci hashing (Knuth, volume 3, 6.4)."""
    signature = np.uint64(0)
    for word in words:
        signature |= np.uint64(1) << (np.uint64(word) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(58))
    return signature


@compiled
def _shared(a: int, a_end: int, b: int, b_end: int, ranks: Ints, least: int) -> int:
    """Size of the intersection of two ascending runs of words, or -1 once it cannot come to `least`."""
    shared = 0
    while a < a_end and b < b_end:
        if shared + min(a_end - a, b_end - b) < least:
            return -1
        if ranks[a] == ranks[b]:
            shared += 1
            a += 1
            b += 1
        elif ranks[a] < ranks[b]:
            a += 1
        else:
            b += 1
    return shared if shared >= least else -1


@compiled
def _join(starts: Longs, ranks: Ints, vocabulary: int, walk: Longs, p: int, q: int, every: bool) -> Longs:
    """Match each set of the walk, none of them empty, with the sets added before it.

    With `every`, all sets are added and all matches given; else only sets without a match are added, and of the
    others the best match is given.

    Returns:
        Rows of (set, earlier set, size of the intersection, size of the union).
    """
    first = np.zeros(vocabulary + 1, np.int64)  # where each word's entries start, with room for all that may be added
    for number in walk:
        for at in range(starts[number], starts[number] + _prefix(starts[number + 1] - starts[number], p, q)):
            first[ranks[at] + 1] += 1
    for word in range(vocabulary):
        first[word + 1] += first[word]
    ends = first[:-1].copy()
    entry_turn = np.empty(first[-1], np.int32)
    entry_size = np.empty(first[-1], np.int32)
    entry_rest = np.empty(first[-1], np.int32)  # words of the set from the entry's word on
    entry_signature = np.empty(first[-1], np.uint64)
    seen = np.full(len(walk), -1, np.int32)
    pairs = np.empty((1024, 4), np.int64)
    used = 0
    for turn in range(len(walk)):
        number = walk[turn]
        start, end = starts[number], starts[number + 1]
        size, prefix = end - start, _prefix(end - start, p, q)
        signature = _signature(ranks[start:end])
        before = used
        for at in range(start, start + prefix):
            for entry in range(first[ranks[at]], ends[ranks[at]]):
                other_size, other_signature = entry_size[entry], entry_signature[entry]
                wanted = p * (size + other_size)  # q shared ≥ p (size + other_size - shared)
                if min(end - at, entry_rest[entry]) * (p + q) < wanted:
                    continue
                if (size - _ones(signature & ~other_signature)) * (p + q) < wanted:
                    continue
                if (other_size - _ones(other_signature & ~signature)) * (p + q) < wanted:
                    continue
                other = entry_turn[entry]
                if seen[other] == turn:
                    continue
                seen[other] = turn
                other_end = starts[walk[other] + 1]
                shared = _shared(at, end, other_end - entry_rest[entry], other_end, ranks, -(-wanted // (p + q)))
                if shared < 0:
                    continue
                union = size + other_size - shared
                if every or used == before:
                    used += 1
                    if used > len(pairs):
                        pairs = np.concatenate((pairs, np.empty_like(pairs)))
                else:
                    best = pairs[used - 1]
                    ahead = shared * best[3] - best[2] * union
                    if ahead < 0 or (ahead == 0 and other > best[1]):
                        continue
                pairs[used - 1, 0], pairs[used - 1, 1] = turn, other
                pairs[used - 1, 2], pairs[used - 1, 3] = shared, union
        if every or used == before:
            for at in range(start, start + prefix):
                entry = ends[ranks[at]]
                ends[ranks[at]] += 1
                entry_turn[entry], entry_size[entry], entry_rest[entry] = turn, size, end - at
                entry_signature[entry] = signature
    for row in range(used):
        pairs[row, 0], pairs[row, 1] = walk[pairs[row, 0]], walk[pairs[row, 1]]
    return pairs[:used]
