"""Texts as arrays of numbers: what is known of a word is worked out once and kept in columns.

A row's rules and its score ask much of every word, and most words have stood in an earlier text. Looking each one up
once, and reading columns from then on, takes a fifth of the time of asking every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tasks.filter.compiled import compiled
from tasks.filter.text import words

Ints = NDArray[np.int32]

TEXTS_TOGETHER = 512  # looked up one after the other, while the vocabulary is in the processor's cache
MOST_TOKENS = 2**18  # some 150 MB with all that is known of them


class Vocabulary(dict[str, int]):
    """Numbers strings in the order in which they are first looked up, as `vocabulary[string]`."""

    def __init__(self) -> None:
        """Start with no string."""
        self.strings: list[str] = []
        self.forgotten = 0

    def __missing__(self, string: str) -> int:
        number = self[string] = len(self.strings)
        self.strings.append(string)
        return number

    def numbers(self, strings: Iterable[str]) -> Ints:
        """Number of each string."""
        return np.array(list(map(self.__getitem__, strings)), np.int32)

    def forget(self) -> None:
        """Start again with no string: numbers given so far mean nothing any more."""
        self.clear()
        self.strings.clear()
        self.forgotten += 1


class Column:
    """What a function says of each string of a vocabulary, by the string's number."""

    def __init__(self, vocabulary: Vocabulary, function: Callable[[str], Any], dtype: DTypeLike) -> None:
        """Take the function, which is asked once for each string, and what holds its values."""
        self._vocabulary, self._function = vocabulary, function
        self._values, self._filled, self._forgotten = np.zeros(1, dtype), 0, 0

    def values(self) -> NDArray[Any]:
        """The column, at least as long as the vocabulary was when asked."""
        strings = self._vocabulary.strings
        known = len(strings)
        if self._forgotten != self._vocabulary.forgotten:
            self._filled, self._forgotten = 0, self._vocabulary.forgotten
        if self._filled < known:
            self._values = _with_room(self._values, known)
            for number in range(self._filled, known):
                self._values[number] = self._function(strings[number])
            self._filled = known
        return self._values

    def union(self, numbers: Ints) -> int:
        """All bits that the values of some strings have, by their numbers."""
        return int(_union(self.values(), numbers))


@compiled
def _union(values: Any, numbers: Any) -> int:
    bits = 0
    for number in numbers:
        bits |= values[number]
    return bits


class TokenVocabulary(Vocabulary):
    """A vocabulary that splits texts itself, at white space, and finds their tokens by a hash of their bytes.

    Of `str.split` and a dictionary every look-up waits for the memory; here those of a text are under way together.
    """

    def __init__(self) -> None:
        """Start with no string."""
        super().__init__()
        self._slots = np.full((2**10, 2), -1, np.int64)  # hash and number
        self._starts, self._bytes = np.zeros(2**9, np.int64), np.zeros(2**12, np.uint8)

    def split(self, text: str) -> Ints:
        """Number of each token of a text."""
        if not text.isascii():
            text = " ".join(text.split())  # blanks beyond ASCII
        coded = text.encode("utf-8", "surrogatepass")
        numbers: Ints
        numbers, (starts, ends), new = _find(np.frombuffer(coded, np.uint8), self._slots, self._starts, self._bytes)
        for place in new:
            numbers[place] = self._add(coded[starts[place] : ends[place]])
        return numbers

    def _add(self, coded: bytes) -> int:
        token = coded.decode("utf-8", "surrogatepass")
        if token in self:
            return self[token]
        number = self[token]
        self._starts = _with_room(self._starts, number + 2)
        start = self._starts[number]
        end = self._starts[number + 1] = start + len(coded)
        self._bytes = _with_room(self._bytes, end)
        self._bytes[start:end] = np.frombuffer(coded, np.uint8)
        if 2 * len(self) > len(self._slots):
            self._slots = np.full((2 * len(self._slots), 2), -1, np.int64)
            _place(self._slots, 0, number + 1, self._starts, self._bytes)
        else:
            _place(self._slots, number, number + 1, self._starts, self._bytes)
        return number

    def forget(self) -> None:
        """Start again with no string."""
        super().forget()
        self._slots[:] = -1


def _with_room(values: NDArray[Any], size: int) -> NDArray[Any]:
    """The array, copied into one of twice the size if it is shorter."""
    if size <= len(values):
        return values
    return np.concatenate([values, np.zeros((2 * size - len(values), *values.shape[1:]), values.dtype)])


_OFFSET, _PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)  # of FNV-1a with 64 bits


@compiled
def _hash(text: Any, start: int, end: int) -> Any:
    value = _OFFSET
    for place in range(start, end):
        value = (value ^ np.uint64(text[place])) * _PRIME
    return np.int64(value ^ (value >> np.uint64(32)))


@compiled
def _stands_at(token: Any, text: Any, start: int) -> bool:
    for place in range(len(token)):  # noqa: SIM110 - numba compiles no generator
        if text[start + place] != token[place]:
            return False
    return True


@compiled
def _place(slots: Any, first: int, end: int, starts: Any, known: Any) -> None:
    """Put tokens into the first free slot from where their hash points on."""
    last = len(slots) - 1
    for number in range(first, end):
        value = _hash(known, starts[number], starts[number + 1])
        slot = value & last
        while slots[slot, 1] >= 0:
            slot = (slot + 1) & last
        slots[slot, 0], slots[slot, 1] = value, number


@compiled
def _find(text: Any, slots: Any, starts: Any, known: Any) -> Any:
    """Tokens of a text: their numbers, where they start and end, and the places of those that are not known."""
    most = len(text) // 2 + 1
    hashes, spans = np.empty(most, np.int64), np.empty((2, most), np.int64)
    count = start = 0
    for end in range(len(text) + 1):
        if end == len(text) or text[end] == 32 or 9 <= text[end] <= 13 or 28 <= text[end] <= 31:
            if end > start:
                hashes[count], spans[0, count], spans[1, count] = _hash(text, start, end), start, end
                count += 1
            start = end + 1
    numbers, new = np.empty(count, np.int32), np.empty(count, np.int64)
    last = len(slots) - 1
    for place in range(count):
        slot = hashes[place] & last
        while slots[slot, 1] >= 0 and slots[slot, 0] != hashes[place]:
            slot = (slot + 1) & last
        numbers[place] = slots[slot, 1]
    unknown = 0
    for place in range(count):
        number, start, end = numbers[place], spans[0, place], spans[1, place]
        if (
            number < 0
            or starts[number + 1] - starts[number] != end - start
            or not _stands_at(text[start:end], known, starts[number])
        ):
            new[unknown] = place
            unknown += 1
    return numbers, spans, new[:unknown]


TOKENS, WORDS = TokenVocabulary(), Vocabulary()
_MOST_WORDS = 3  # of a token that need no second look: `e.g.` has two


def _words_of(token: str) -> list[int]:
    numbers = [WORDS[word] for word in words(token)]
    return [len(numbers), *(numbers + [0] * _MOST_WORDS)[:_MOST_WORDS]]


_WORDS_OF = Column(TOKENS, _words_of, (np.int32, 1 + _MOST_WORDS))


@compiled
def _joined(parts: Any, numbers: Any) -> Any:
    """The words of tokens one after the other, and whether there is room for all."""
    joined = np.empty(_MOST_WORDS * len(numbers), np.int32)
    size = 0
    for number in numbers:
        count = parts[number, 0]
        if count > _MOST_WORDS:
            return joined[:0], False
        for place in range(count):
            joined[size] = parts[number, 1 + place]
            size += 1
    return joined[:size].copy(), True


@lru_cache(4 * TEXTS_TOGETHER)
def tokens(text: str) -> Ints:
    """Numbers in `TOKENS` of the words as the requirements count them: separated by white space."""
    return TOKENS.split(text)


@lru_cache(4 * TEXTS_TOGETHER)
def word_numbers(text: str) -> Ints:
    """Numbers in `WORDS` of the words that texts are compared by."""
    numbers = tokens(text)
    joined, whole = _joined(_WORDS_OF.values(), numbers)
    return joined if whole else WORDS.numbers(words(text))


def forget_when_full() -> None:
    """Bound the memory; between batches only, since the numbers of a batch are compared with one another."""
    tokens.cache_clear()
    word_numbers.cache_clear()
    if len(TOKENS) > MOST_TOKENS or len(WORDS) > MOST_TOKENS:
        for vocabulary in (TOKENS, WORDS):
            vocabulary.forget()
