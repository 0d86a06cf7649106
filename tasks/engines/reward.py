"""The reward model in its child process: a sequence classifier with one output scores a response."""

from __future__ import annotations

import math
from typing import Any

from tasks.engines.overflow import overflowed

ENOUGH = 16
"""Responses without one finite score that are no accident."""


class RewardModel:
    """Scores chats; the chat template is applied exactly once, as token ids."""

    def __init__(self, source: str, revision: str | None, precision: str) -> None:
        """Load the model.

        Raises:
            ModelError: it is not a classifier with one output.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from tasks.models import ModelError, load_arguments

        self._tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            source, revision=revision, **load_arguments(precision)
        )
        self._model.eval()
        self._model.config.use_cache = False  # keys and values that nobody reads, GBs of them a batch
        self._scored = self._unscored = 0
        head = getattr(self._model, "score", None)
        if type(head) is torch.nn.Linear:  # no quantized one
            # between 16 and 32, bf16 has steps of an eighth: a margin, or a tie where there is none
            head.float().register_forward_pre_hook(lambda _, inputs: inputs[0].float())
        if self._model.config.num_labels != 1:
            raise ModelError(f"{source} has {self._model.config.num_labels} outputs; a reward model has one")
        if self._model.config.pad_token_id is None:  # without it only batches of one are scored right
            self._model.config.pad_token_id = self._tokenizer.pad_token_id or self._tokenizer.eos_token_id

    def score(self, rows: list[dict[str, Any]]) -> list[float | None]:
        """Scores of rows with `instruction` and `output`, in their order, in one padded batch; None for no finite one.

        Raises:
            ModelError: none of the first `ENOUGH` responses has one.
        """
        import torch

        from tasks.engines.templates import chat_ids

        prompts = [chat_ids(self._tokenizer, row["instruction"], row["output"]) for row in rows]
        width = max(map(len, prompts))
        pad = self._model.config.pad_token_id
        tokens = torch.tensor([ids + [pad] * (width - len(ids)) for ids in prompts], device=self._model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts], device=self._model.device)
        with torch.inference_mode():
            scores = self._model(input_ids=tokens, attention_mask=mask).logits[:, 0].float().tolist()
        finite = [score if math.isfinite(score) else None for score in scores]
        self._unscored += finite.count(None)
        self._scored += len(finite) - finite.count(None)
        if self._unscored >= ENOUGH and not self._scored:
            raise overflowed(self._model)
        return finite
