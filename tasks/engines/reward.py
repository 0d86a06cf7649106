"""The reward model in its child process: a sequence classifier with one output scores a response."""

from __future__ import annotations

from typing import Any


class RewardModel:
    """Scores chats; the chat template is applied exactly once, as token ids."""

    def __init__(self, source: str, revision: str | None, precision: str) -> None:
        """Load the model.

        Raises:
            ModelError: it is not a classifier with one output.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from tasks.models import ModelError, load_arguments

        self._tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            source, revision=revision, **load_arguments(precision)
        )
        self._model.eval()
        if self._model.config.num_labels != 1:
            raise ModelError(f"{source} has {self._model.config.num_labels} outputs; a reward model has one")
        if self._model.config.pad_token_id is None:  # without it only batches of one are scored right
            self._model.config.pad_token_id = self._tokenizer.pad_token_id or self._tokenizer.eos_token_id

    def score(self, rows: list[dict[str, Any]]) -> list[float]:
        """Scores of rows with `instruction` and `output`, in their order, in one padded batch."""
        import torch

        from tasks.engines.templates import chat_ids

        prompts = [chat_ids(self._tokenizer, row["instruction"], row["output"]) for row in rows]
        width = max(map(len, prompts))
        pad = self._model.config.pad_token_id
        tokens = torch.tensor([ids + [pad] * (width - len(ids)) for ids in prompts], device=self._model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in prompts], device=self._model.device)
        with torch.inference_mode():
            scores: list[float] = self._model(input_ids=tokens, attention_mask=mask).logits[:, 0].float().tolist()
        return scores
