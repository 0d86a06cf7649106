"""Which learning rate a method is trained with: the required one, or the candidate with the lowest validation loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.files import read_json

SEARCH = "search.json"


class SearchError(RuntimeError):
    """No learning rate can be chosen; the message says why and what to do."""


def chosen_rate(folder: Path) -> float | None:
    """The learning rate that a published search chose, or None where there is none to read."""
    try:
        return float(read_json(folder / SEARCH)["chosen"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def choose_rate(method: str, candidates: Sequence[Mapping[str, Any]]) -> tuple[float, bool]:
    """The rate with the lowest validation loss, the lower of equals, and whether it lies at the edge of those tried.

    Args:
        method: the method's name.
        candidates: `learning_rate`, `val_loss` (None where the training failed) and `failure`.

    Raises:
        SearchError: every candidate failed.
    """
    finished = [row for row in candidates if row["val_loss"] is not None]
    if not finished:
        told = "; ".join(f"{row['learning_rate']:g}: {row['failure']}" for row in candidates)
        raise SearchError(f"every learning rate of {method} failed ({told}); give it lower search_rates")
    best = min(finished, key=lambda row: (row["val_loss"], row["learning_rate"]))["learning_rate"]
    rates = [row["learning_rate"] for row in candidates]
    return best, best in (min(rates), max(rates))
