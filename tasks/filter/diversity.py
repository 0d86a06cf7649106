"""The diversity rule: an instruction stays only while no kept instruction is too similar to it."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from tasks.filter.rules import Evidence, Row, Rule
from tasks.filter.similarity import SimilarityIndex, exact, word_set


class Diversity(Rule):
    """Drops a row whose instruction's word set has a Jaccard similarity at the threshold or more to a kept row's.

    Similarity is not transitive, so which rows stay depends on the order of the walk: show rows in `walk`'s order,
    best quality first, and the result depends on the rows alone. Word sets rather than shingles: the requirement's
    plain "Jaccard", and word order cannot hide a near-duplicate.
    """

    name = "diversity"
    settings = ("filter.max_similarity",)

    def __init__(self, max_similarity: float, rows: Iterable[Row]) -> None:
        """Take the threshold and every row that will be judged."""
        self._contents = {row["id"]: word_set(row["instruction"]) for row in rows}
        self._kept: SimilarityIndex = SimilarityIndex(exact(max_similarity), self._contents.values())
        self._kept_ids: list[str] = []

    @staticmethod
    def walk(rows: Iterable[Row], scores: dict[str, float]) -> list[Row]:
        """Rows by quality, best first, then by id."""
        return sorted(rows, key=lambda row: (-scores[row["id"]], row["id"]))

    def judge(self, row: Row) -> Evidence | None:
        """Name the most similar kept row, of equals the one kept first, and the similarity; else keep the row."""
        content = self._contents[row["id"]]
        matches = self._kept.matches(content)
        if not matches:
            self._kept.add(len(self._kept_ids), content)
            self._kept_ids.append(row["id"])
            return None
        closest = max(matches, key=lambda match: (Fraction(match.shared, match.union), -match.key))
        return {
            "field": "instruction",
            "kept_id": self._kept_ids[closest.key],
            "similarity": round(closest.shared / closest.union, 4),
            "shared_words": closest.shared,
            "all_words": closest.union,
        }
