"""The `hf` engine on a CPU: one call is one batch, so that a resumed run gives the same bytes.

How noise becomes tokens is here too, for every engine that draws its own (`tasks.engines.slots` is the one for a GPU).
"""

from __future__ import annotations

from collections import deque
from typing import Any

from tasks.engines.overflow import NO_TOKEN, overflowed
from tasks.engines.protocol import Completion, Request, Sampling, Work
from tasks.engines.rows_at_once import RowsAtOnce
from tasks.out_of_memory import is_out_of_memory


class HfEngine:
    """Decodes one call after another with a key-value cache; rows that ended leave the batch."""

    def __init__(self, model: Any, rows_at_once: RowsAtOnce) -> None:
        """Take a causal language model in evaluation mode."""
        self._model = model
        self._at_once = rows_at_once
        self._waiting: deque[tuple[int, list[Request], Sampling]] = deque()
        self._current: int | None = None
        self.work = Work()

    @property
    def calls(self) -> set[int]:
        """The call at work and those that wait."""
        waiting = {call for call, _, _ in self._waiting}
        return waiting if self._current is None else waiting | {self._current}

    def add(self, call: int, requests: list[Request], sampling: Sampling) -> None:
        """Queue a call."""
        self._waiting.append((call, requests, sampling))

    def step(self) -> list[tuple[int, list[Completion]]]:
        """Complete the oldest call."""
        call, requests, sampling = self._waiting.popleft()
        self._current = call
        completions = self._complete(requests, sampling)
        self._current = None
        return [(call, completions)]

    def abandon(self) -> None:
        """Give up the call at work; those that wait are untouched."""
        self._current = None
        synchronize(self._model)

    def _complete(self, requests: list[Request], sampling: Sampling) -> list[Completion]:
        import torch

        size = min(len(requests), self._at_once.count or len(requests))
        try:
            groups = [requests[i : i + size] for i in range(0, len(requests), size)]
            return [completion for group in groups for completion in self._decode(group, sampling)]
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self._at_once.halve(size):
                raise
        # outside the handler, whose traceback would keep the failed batch's tensors alive
        torch.cuda.empty_cache()
        return self._complete(requests, sampling)

    def _decode(self, requests: list[Request], sampling: Sampling) -> list[Completion]:
        import torch

        device = self._model.device
        tokens, mask = (part.to(device) for part in left_padded([request.prompt for request in requests]))
        limits = [sampling.limit(request) for request in requests]
        noise = torch.from_numpy(row_noise(requests, max(limits))).to(device)
        stop = torch.tensor(sampling.stop_ids, device=device)
        limit = torch.tensor(limits, device=device)
        rows = torch.arange(len(requests), device=device)
        drawn: list[list[int]] = [[] for _ in requests]
        stopped: list[bool] = [False] * len(requests)
        cache: Any = None
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            for step in range(max(limits)):
                out = self._model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = out.past_key_values
                logits = out.logits[:, -1].float()
                if step == 0 and sampling.suppressed_first:
                    logits[:, list(sampling.suppressed_first)] = -torch.inf
                temperature, top_p = (
                    torch.full((len(rows),), value, device=device) for value in (sampling.temperature, sampling.top_p)
                )
                choice = draw(logits, noise[rows, step], temperature, top_p, nucleus=sampling.top_p < 1)
                stops = torch.isin(choice, stop)
                for row, token, stopping in zip(rows.tolist(), choice.tolist(), stops.tolist(), strict=True):
                    if token == NO_TOKEN:
                        raise overflowed(self._model)
                    self.work.tokens += 1
                    if stopping:
                        stopped[row] = True
                    else:
                        drawn[row].append(token)
                ended = stops | (limit[rows] == step + 1)
                tokens, positions = choice[:, None], positions[:, -1:] + 1
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                if ended.any():
                    self.work.rows += int(ended.sum())
                    going = (~ended).nonzero()[:, 0]
                    if not len(going):
                        break
                    rows, tokens, positions, mask = rows[going], tokens[going], positions[going], mask[going]
                    cache.batch_select_indices(going)
        return [Completion(ids, "stop" if stop else "length") for ids, stop in zip(drawn, stopped, strict=True)]


def synchronize(model: Any) -> None:
    """See whether the accelerator still answers.

    Raises:
        RuntimeError: it does not, so that this process ends and the next call starts another: after some errors no
            kernel of a process ever runs again.
    """
    import torch

    if model.device.type == "cuda":
        torch.cuda.synchronize()


def left_padded(prompts: list[list[int]]) -> tuple[Any, Any]:
    """Token ids and mask, each (prompts, longest), with zeros to the left of the shorter ones."""
    import torch

    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return tokens, mask


def row_noise(requests: list[Request], length: int) -> Any:
    """Uniform numbers in [0, 1), float32 (requests, length), each row from its own seed by a counter-based generator.

    Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") makes the number at a position a
    function of (seed, position) alone.
    """
    import numpy as np

    return np.stack(
        [np.random.Generator(np.random.Philox(key=r.seed)).random(length, dtype=np.float32) for r in requests]
    )


def draw(logits: Any, noise: Any, temperature: Any, top_p: Any, *, nucleus: bool) -> Any:
    """One token a row by inverse transform sampling.

    Args:
        logits: float32 (rows, vocabulary).
        noise: uniform in [0, 1), (rows,).
        temperature: (rows,); 0 takes the largest logit.
        top_p: (rows,).
        nucleus: whether any row has top_p below 1, which costs a sort.

    Returns:
        Token ids, (rows,); `NO_TOKEN` where logits are NaN.
    """
    import torch

    probabilities = torch.softmax(logits / temperature.clamp(min=1e-6)[:, None], dim=-1)
    order = None
    if nucleus:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p[:, None], 0)
    cumulative = probabilities.cumsum(-1)
    point = noise[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, point, right=True).clamp(max=logits.shape[-1] - 1)
    drawn = (index if order is None else order.gather(-1, index))[:, 0]
    drawn = torch.where(temperature == 0, logits.argmax(-1), drawn)
    return drawn.masked_fill(point[:, 0].isnan(), NO_TOKEN)  # their sum, and so the point in it, is NaN
