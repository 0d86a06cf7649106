"""lm-eval's Hugging Face model, computing a preamble that all prompts of a task share only once.

TruthfulQA puts the same six questions before each of its own: nine tenths of its tokens. Their keys and values are
kept, with the soft prompt's before them, and each batch continues from there.

Imported by the evaluating child only: it needs lm-eval at import.
"""

from __future__ import annotations

import copy
import os.path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from peft import PeftModel

SHORTEST = 32  # tokens: below, a batch gains less than copying the cache costs


class SharedPrefixLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """`HFLM` with the same answers up to rounding, faster where prompts begin alike."""

    _prefix: torch.Tensor | None = None
    _cache: Any = None

    def _loglikelihood_tokens(self, requests: Any, **options: Any) -> Any:
        # the context's last token predicts the continuation's first, so its logits are needed
        shared = len(os.path.commonprefix([context[:-1] for _, context, _ in requests]))
        if shared >= SHORTEST:
            self._prefix = torch.tensor(requests[0][1][:shared], device=self.device)
            with torch.no_grad():
                self._cache = self.model(self._prefix[None], use_cache=True).past_key_values
        try:
            return super()._loglikelihood_tokens(requests, **options)
        finally:
            self._prefix = self._cache = None

    def _model_call(self, inps: torch.Tensor, *inputs: Any, **options: Any) -> torch.Tensor:
        # a prompt too long for the model has lost its beginning
        if self._prefix is None or not bool((inps[:, : len(self._prefix)] == self._prefix).all()):
            whole: torch.Tensor = super()._model_call(inps, *inputs, **options)
            return whole
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(inps))
        # LoRA's layers sit inside the base model; a soft prompt is in the cache already
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        with torch.no_grad():
            logits: torch.Tensor = model(inps[:, len(self._prefix) :], past_key_values=cache, use_cache=True).logits
        # lm-eval counts positions from the end of what it gets, as it does for virtual tokens
        return logits
