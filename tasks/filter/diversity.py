"""The diversity rule: an instruction stays only while no kept instruction is too similar to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.filter.rule import Evidence
from tasks.filter.similarity import WordSets, exact, keep_apart

DIVERSITY = "diversity"
DIVERSITY_SETTINGS = ("filter.max_similarity",)


def near_duplicates(
    contents: WordSets, ids: Sequence[str], scores: NDArray[np.float64], max_similarity: float
) -> dict[int, Evidence]:
    """Drop an instruction whose word set has a Jaccard similarity at the threshold or more to a kept one's.

    Similarity is not transitive, so which rows stay depends on the order in which they are looked at: by quality, best
    first, then by id, so that the result depends on the rows alone. Word sets rather than shingles: the requirement's
    plain "Jaccard", and word order cannot hide a near-duplicate.

    Args:
        contents: the instructions' word sets, n of them.
        ids: their rows' ids.
        scores: their rows' quality, shape (n,).
        max_similarity: the threshold.

    Returns:
        For each dropped row, by its number, the most similar kept row, of equals the one kept first.
    """
    by_id = np.empty(len(ids), np.int64)
    by_id[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    matches = keep_apart(contents, np.lexsort((by_id, -scores)), exact(max_similarity))
    return {
        number: {
            "field": "instruction",
            "kept_id": ids[match.key],
            "similarity": round(match.shared / match.union, 4),
            "shared_words": match.shared,
            "all_words": match.union,
        }
        for number, match in matches.items()
    }
