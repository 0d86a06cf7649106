"""The `hf` engine: batched decoding with transformers, for a CPU or a small GPU.

One call is one batch, so that a row's numbers depend on its own shard only and a resumed run gives the same bytes.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from tasks.engines.protocol import Completion, Request, Sampling


class HfEngine:
    """Decodes one call after another with a key-value cache; rows that ended leave the batch."""

    def __init__(self, source: str, revision: str | None, precision: str) -> None:
        """Load the model.

        Args:
            source: folder or hub id.
            revision: hub commit.
            precision: fp32, fp16, bf16 or nf4.
        """
        import torch
        from transformers import AutoModelForCausalLM

        from tasks.models import load_arguments

        self._torch = torch
        model: Any = AutoModelForCausalLM.from_pretrained(source, revision=revision, **load_arguments(precision))
        self._model = model.eval()
        self._waiting: deque[tuple[int, list[Request], Sampling]] = deque()
        self._rows_at_once: int | None = None

    @property
    def busy(self) -> bool:
        """Whether calls wait."""
        return bool(self._waiting)

    def add(self, call: int, requests: list[Request], sampling: Sampling) -> None:
        """Queue a call."""
        self._waiting.append((call, requests, sampling))

    def step(self) -> list[tuple[int, list[Completion]]]:
        """Complete the oldest call."""
        call, requests, sampling = self._waiting[0]
        completions = self._complete(requests, sampling)
        self._waiting.popleft()
        return [(call, completions)]

    def abandon(self) -> list[int]:
        """Give up the oldest call."""
        return [self._waiting.popleft()[0]] if self._waiting else []

    def _complete(self, requests: list[Request], sampling: Sampling) -> list[Completion]:
        size = min(len(requests), self._rows_at_once or len(requests))
        try:
            groups = [requests[i : i + size] for i in range(0, len(requests), size)]
            return [completion for group in groups for completion in self._decode(group, sampling)]
        except self._torch.OutOfMemoryError:
            if size == 1:
                raise
        # outside the handler, whose traceback would keep the failed batch's tensors alive
        self._rows_at_once = size // 2
        self._torch.cuda.empty_cache()
        return self._complete(requests, sampling)

    def _decode(self, requests: list[Request], sampling: Sampling) -> list[Completion]:
        torch = self._torch
        device = self._model.device
        width = max(len(request.prompt) for request in requests)
        tokens = torch.tensor([[0] * (width - len(r.prompt)) + r.prompt for r in requests], device=device)
        mask = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in requests], device=device)
        noise = row_noise(requests, sampling.max_new_tokens).to(device)
        stop = torch.tensor(sampling.stop_ids, device=device)
        rows = torch.arange(len(requests), device=device)
        drawn: list[list[int]] = [[] for _ in requests]
        finished: list[bool] = [False] * len(requests)
        cache: Any = None
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            for step in range(sampling.max_new_tokens):
                out = self._model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = out.past_key_values
                choice = draw(out.logits[:, -1].float(), noise[rows, step], sampling)
                ended = torch.isin(choice, stop)
                for row, token, end in zip(rows.tolist(), choice.tolist(), ended.tolist(), strict=True):
                    if end:
                        finished[row] = True
                    else:
                        drawn[row].append(token)
                tokens, positions = choice[:, None], positions[:, -1:] + 1
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                if ended.any():
                    going = (~ended).nonzero()[:, 0]
                    if not len(going):
                        break
                    rows, tokens, positions, mask = rows[going], tokens[going], positions[going], mask[going]
                    cache.batch_select_indices(going)
        return [Completion(ids, "stop" if end else "length") for ids, end in zip(drawn, finished, strict=True)]


def row_noise(requests: list[Request], length: int) -> Any:
    """Uniform numbers in [0, 1) of shape (requests, length), each row from its own seed by a counter-based generator.

    Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") makes the number at a position a
    function of (seed, position) alone.
    """
    import numpy as np
    import torch

    rows = [np.random.Generator(np.random.Philox(key=r.seed)).random(length, dtype=np.float32) for r in requests]
    return torch.from_numpy(np.stack(rows))


def draw(logits: Any, noise: Any, sampling: Sampling) -> Any:
    """One token a row by inverse transform sampling.

    Args:
        logits: float32 (rows, vocabulary).
        noise: uniform in [0, 1), (rows,).
        sampling: temperature 0 takes the largest logit.

    Returns:
        Token ids, (rows,).
    """
    import torch

    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    order = None
    if sampling.top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0)
    cumulative = probabilities.cumsum(-1)
    point = noise[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, point, right=True).clamp(max=logits.shape[-1] - 1)
    return (index if order is None else order.gather(-1, index))[:, 0]
