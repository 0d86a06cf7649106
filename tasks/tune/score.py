"""Held-out scores: base, reference and adapter by the same code, on the rows as training sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from tasks.tune.rows import IGNORED, Row, padded


def answer_log_probs(model: Any, rows: Sequence[Row], *, pad_id: int, batch_tokens: int, autocast: Any) -> list[float]:
    """Log-probability of every row's answer [nats], in the rows' order.

    Args:
        model: a causal language model with TRL's fused head, which never holds the logits of a whole batch.
        rows: `input_ids` and `labels`.
        pad_id: token that fills rows up; it is masked.
        batch_tokens: largest rows × longest row of a forward pass.
        autocast: makes the context in which the trainer's forward passes run.
    """
    import torch

    device = next(model.parameters()).device
    scores = [0.0] * len(rows)
    model.eval()
    for batch in _batches(rows, batch_tokens):
        width = max(len(rows[i]["input_ids"]) for i in batch)
        inputs = {
            "input_ids": [padded(rows[i]["input_ids"], pad_id, width) for i in batch],
            "attention_mask": [padded([1] * len(rows[i]["input_ids"]), 0, width) for i in batch],
            "labels": [padded(rows[i]["labels"], IGNORED, width) for i in batch],
        }
        tensors = {name: torch.tensor(value, device=device) for name, value in inputs.items()}
        with torch.no_grad(), autocast():
            sums = model(**tensors, fused_lm_head=True).log_probs.double().sum(dim=1)
        for i, value in zip(batch, sums.tolist(), strict=True):
            scores[i] = value
    return scores


def mean_loss(log_probs: Sequence[float], rows: Sequence[Row]) -> float | None:
    """Mean negative log-likelihood of all answer tokens [nats a token], or None without rows."""
    tokens = sum(sum(label != IGNORED for label in row["labels"]) for row in rows)
    return -sum(log_probs) / tokens if tokens else None


def preference_scores(
    policy: Sequence[float], reference: Sequence[float], beta: float
) -> dict[str, float | int | None]:
    """DPO's own held-out figures (arXiv 2305.18290, eq. 7) from log-probabilities ordered as `as_sequences`.

    Returns:
        `pairs`; `accuracy`, the share whose chosen answer has the larger implicit reward
        β (log π − log π_ref); `margin`, its mean lead; `loss_before` (policy = reference) and `loss_after` [nats].
    """
    pairs = len(policy) // 2
    if not pairs:
        return {"pairs": 0, "accuracy": None, "margin": None, "loss_before": None, "loss_after": None}
    rewards = [beta * (ours - theirs) for ours, theirs in zip(policy, reference, strict=True)]
    margins = [chosen - rejected for chosen, rejected in zip(rewards[:pairs], rewards[pairs:], strict=True)]
    return {
        "pairs": pairs,
        "accuracy": sum(margin > 0 for margin in margins) / pairs,
        "margin": fmean(margins),
        "loss_before": math.log(2),
        "loss_after": fmean(_softplus(-margin) for margin in margins),
    }


@contextmanager
def speaking_as(model: Any, adapter: str | None) -> Iterator[None]:
    """A PEFT model as one of its adapters, or as its base model."""
    if adapter is None:
        with model.disable_adapter():
            yield
        return
    before = model.active_adapter
    model.set_adapter(adapter)
    try:
        yield
    finally:
        model.set_adapter(before)


def _batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"])):
        if batch and (len(batch) + 1) * len(rows[batch[0]]["input_ids"]) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
