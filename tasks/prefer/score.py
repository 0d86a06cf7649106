"""Scoring responses with the reward model, in batches that are persisted: each response is scored once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from storage.files import fingerprint
from storage.shards import Batch, Row, RowStore
from tasks.process import ModelPool

SCORE_VERSION = 2


def score_key(reward: str) -> dict[str, Any]:
    """What a score depends on, besides the instruction and the response."""
    return {"kind": "score", "version": SCORE_VERSION, "model": reward}


def score_id(row: Row) -> str:
    """A response's score is keyed by its own instruction and text."""
    return fingerprint([row["instruction"], row["output"]])


def score_responses(pool: ModelPool, store: RowStore, batch: Batch, rows: Sequence[Row]) -> dict[str, Any]:
    """Score a batch and persist it; a batch that is on disk is returned as it is."""
    if done := store.done(batch):
        return done.as_json()
    texts = [{"instruction": row["instruction"], "output": row["output"]} for row in rows]
    scores = pool.call("score", rows=texts)
    return store.write(
        batch, [{"id": row_id, "score": score} for row_id, score in zip(batch.ids, scores, strict=True)]
    ).as_json()
