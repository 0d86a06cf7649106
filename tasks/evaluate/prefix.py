"""lm-eval's Hugging Face model, with what it lacks for this study.

TruthfulQA puts the same six questions before each of its own: nine tenths of its tokens. The keys and values of such a
preamble are kept, with the soft prompt's before them, and each batch continues from there. Logits are computed where a
continuation is scored: 32 prompts of 1,000 tokens over a vocabulary of 128k would take 40 GB of them in fp32. Text is
generated after a soft prompt as `tasks.evaluate.soft_prompt` does, since PEFT's own way is wrong for batches.

Imported by the evaluating child only: it needs lm-eval at import.
"""

from __future__ import annotations

import copy
import math
import os.path
from collections import defaultdict
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
    _width: int
    _kept: list[int]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Log-likelihoods of whole texts [nats], in windows of at most `ROLLING_WINDOW` tokens, the same for all."""
        usual = self._max_length, self.batch_size_per_gpu
        self._max_length = min(self.max_length, ROLLING_WINDOW)
        self.batch_size_per_gpu = min(self.batch_size, max(1, ROLLING_BATCH // self._max_length))
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self._max_length, self.batch_size_per_gpu = usual

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, **options: Any) -> Any:
        # the context's last token predicts the continuation's first, so its logits are needed
        shared = len(os.path.commonprefix([context[:-1] for _, context, _ in requests]))
        if SHORTEST <= shared < self.max_length:  # a longer one is cut off every prompt's beginning
            self._prefix = torch.tensor(requests[0][1][:shared], device=self.device)
            with torch.no_grad():
                self._cache = self.model(self._prefix[None], use_cache=True, logits_to_keep=1).past_key_values
        # as lm-eval batches them: what is read alike is read once, the longest first
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (_, context, continuation) in enumerate(requests):
            alike[*context, *continuation[:-1]].append(number)
        ordered = [alike[tokens] for tokens in sorted(alike, key=lambda tokens: (-len(tokens), tokens))]
        answers: dict[int, tuple[float, bool]] = {}
        try:
            for start in range(0, len(ordered), self.batch_size):
                numbers = [number for group in ordered[start : start + self.batch_size] for number in group]
                batch = [requests[number] for number in numbers]
                self._keep(batch)
                told = super()._loglikelihood_tokens(batch, disable_tqdm=True, **options)
                answers |= dict(zip(numbers, told, strict=True))
        finally:
            self._prefix = self._cache = None
        if not all(math.isfinite(value) for value, _ in answers.values()):
            raise overflowed(self.model)
        return [answers[number] for number in range(len(requests))]

    def _keep(self, batch: Any) -> None:
        """Note the positions whose logits are needed: of a question of 1,000 tokens, those before its answer."""
        ends = [min(len(context) + len(continuation) - 1, self.max_length) for _, context, continuation in batch]
        spans = [range(end - len(row[2]), end) for row, end in zip(batch, ends, strict=True)]
        self._width, self._kept = max(ends), sorted(set().union(*spans))

    def _model_call(self, inps: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        # counted from the end, where a soft prompt and a prefix in the cache move nothing
        kept = torch.tensor(self._kept, device=self.device) - self._width
        with torch.no_grad():
            # a prompt too long for the model has lost its beginning
            if self._prefix is None or not bool((inps[:, : len(self._prefix)] == self._prefix).all()):
                whole: torch.Tensor = self.model(inps, logits_to_keep=kept).logits
                return whole
            cache = copy.deepcopy(self._cache)
            cache.batch_repeat_interleave(len(inps))
            # LoRA's layers sit inside the base model; a soft prompt is in the cache already
            model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
            rest = inps[:, len(self._prefix) :]
            logits: torch.Tensor = model(rest, past_key_values=cache, use_cache=True, logits_to_keep=kept).logits
        return logits

    def _select_cont_toks(self, logits: torch.Tensor, contlen: int, inplen: int) -> torch.Tensor:
        # lm-eval counts a row's end from the end of what it gets
        start = self._kept.index(inplen - len(logits) + self._width - contlen)
        return logits[start : start + contlen]

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
