"""lm-eval's Hugging Face model, with what it lacks for this study.

TruthfulQA puts the same six questions before each of its own: nine tenths of its tokens. The keys and values of such a
preamble are kept, with the soft prompt's before them, and each batch continues from there. Text is generated after a
soft prompt as `tasks.evaluate.soft_prompt` does, since PEFT's own way is wrong for batches.

Imported by the evaluating child only: it needs lm-eval at import.
"""

from __future__ import annotations

import copy
import math
import os.path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from peft import PeftModel
from transformers import LogitsProcessorList

from tasks.engines.overflow import Watch, overflowed
from tasks.evaluate.soft_prompt import generate, puts_embeddings_first

ROLLING_WINDOW = 2048  # tokens: a model's whole context of 128k, times a batch and its vocabulary, is 197 GB of logits
ROLLING_BATCH = 4096  # tokens of one pass: logits and their log-softmax, of 128k words in fp32, are 4 GB
SHORTEST = 32  # tokens: below, a batch gains less than copying the cache costs


class SharedPrefixLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """`HFLM` with the same answers up to rounding, faster where prompts begin alike."""

    batch_size_per_gpu: int
    _max_length: int | None
    _prefix: torch.Tensor | None = None
    _cache: Any = None

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Log-likelihoods of whole texts [nats], in windows of at most `ROLLING_WINDOW` tokens, the same for all."""
        usual = self._max_length, self.batch_size_per_gpu
        self._max_length = min(self.max_length, ROLLING_WINDOW)
        self.batch_size_per_gpu = min(self.batch_size, max(1, ROLLING_BATCH // self._max_length))
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self._max_length, self.batch_size_per_gpu = usual

    def _loglikelihood_tokens(self, requests: Any, **options: Any) -> Any:
        # the context's last token predicts the continuation's first, so its logits are needed
        shared = len(os.path.commonprefix([context[:-1] for _, context, _ in requests]))
        if SHORTEST <= shared < self.max_length:  # a longer one is cut off every prompt's beginning
            self._prefix = torch.tensor(requests[0][1][:shared], device=self.device)
            with torch.no_grad():
                self._cache = self.model(self._prefix[None], use_cache=True).past_key_values
        try:
            told = super()._loglikelihood_tokens(requests, **options)
        finally:
            self._prefix = self._cache = None
        if not all(math.isfinite(value) for value, _ in told):
            raise overflowed(self.model)
        return told

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

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any) -> torch.Tensor:
        if not isinstance(self.model, PeftModel) or not self.model.active_peft_config.is_prompt_learning:
            watch = Watch()
            whole: torch.Tensor = super()._model_generate(
                context, max_length, stop, logits_processor=LogitsProcessorList([watch]), **options
            )
            watch.check(self.model)
            return whole
        if not options.get("do_sample"):
            options |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        # where embeddings are put first, the criteria see what is generated and not what came before
        seen = 0 if puts_embeddings_first(self.model) else context.shape[1]
        tokens = generate(
            self.model,
            context,
            options.pop("attention_mask"),
            max_new_tokens=max_length - context.shape[1],
            stopping_criteria=stop_sequences_criteria(self.tokenizer, stop, seen, len(context)),
            pad_token_id=self.tokenizer.pad_token_id,
            **options,
        )
        return torch.cat([context, tokens], dim=1)
