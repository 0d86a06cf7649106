"""The `hf` engine on a GPU: a table of slots that never waits for its longest row.

Every slot holds one row at its own position in a static key-value cache; the step of all slots is captured once as a
CUDA graph and replayed with one launch, and a slot whose row ends takes the next waiting row of whatever call.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

from tasks.engines.hf import draw, left_padded, row_noise, synchronize
from tasks.engines.open_calls import OpenCalls, Row
from tasks.engines.overflow import NO_TOKEN, overflowed
from tasks.engines.protocol import Completion, Request, Sampling, Work
from tasks.engines.rows_at_once import RowsAtOnce
from tasks.models import odd_attention
from tasks.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

SLOTS = 32  # what an 8B model in 4 bits leaves room for on 15 GB, at 1,300 tokens a row
LENGTH_BUCKET = 128
PROMPT_BUCKET = 32
MOST_READ = 4096  # tokens of one pass over contexts: its own cache stands beside the table's while it lasts
SELF_CHECK_TOLERANCE = 0.05
ATTENTION = "slots"


@dataclass
class _Row(Row):
    """A row with its noise, one number a new token."""

    noise: Any = None

    @property
    def longest(self) -> int:
        return len(self.request.prompt) + self.limit


class UnsupportedModelError(RuntimeError):
    """The slot table would not compute what the model does; the message says why."""


class SlotEngine:
    """Continuous batching with transformers' own model code."""

    def __init__(self, model: Any, rows_at_once: RowsAtOnce) -> None:
        """Take a causal language model in evaluation mode.

        Raises:
            UnsupportedModelError: its attention is of a kind the table does not compute.
        """
        self._model = model
        self._at_once = rows_at_once
        self._waiting: deque[_Row] = deque()
        self._open = OpenCalls()
        self._table: _Table | None = None
        self.work = Work()
        usual = model.config._attn_implementation
        try:
            _use_slot_attention(model)
            _check_itself(model)
        except UnsupportedModelError:
            model.set_attn_implementation(usual)
            raise

    @property
    def calls(self) -> set[int]:
        """Calls with rows under way."""
        return self._open.numbers

    def add(self, call: int, requests: list[Request], sampling: Sampling) -> None:
        """Queue a call's rows.

        Raises:
            ValueError: there are none, or one does not fit the model's context.
        """
        context = getattr(self._model.config, "max_position_embeddings", None)
        rows = [
            _Row(call, number, request, sampling, noise=noise)
            for number, (request, noise) in enumerate(
                zip(requests, row_noise(requests, sampling.max_new_tokens), strict=True)
            )
        ]
        longest = max((row.longest for row in rows), default=0)
        if context and longest > context:
            raise ValueError(f"a row may grow to {longest} tokens; the maximum context length is {context}")
        self._open.open(call, rows)
        self._waiting.extend(rows)

    def step(self) -> list[tuple[int, list[Completion]]]:
        """One token for every row in a slot, after free slots took waiting rows."""
        import torch

        ended: list[_Row] = []
        try:
            with torch.inference_mode():
                ended += self._admit()
                ended += self._table_that_fits().step()
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self._at_once.halve(self._size):
                raise
        else:
            return self._completed(ended)
        # outside the handler, whose traceback would keep the failed step's tensors alive
        self._take_back()
        return self._completed(ended)

    def abandon(self) -> None:
        """Drop every row and the table."""
        self._open.clear()
        self._table = None
        self._waiting.clear()
        synchronize(self._model)

    @property
    def _size(self) -> int:
        return self._at_once.count or SLOTS

    def _admit(self) -> list[_Row]:
        table = self._table_that_fits()
        # a prompt's pass costs about as much as a step of all slots, so that a single free slot waits for company
        enough = max(1, table.size // 8)
        fitting = self._waiting and self._waiting[0].longest <= table.length
        if fitting and (len(table.free) >= enough or not table.rows or len(self._waiting) < enough):
            group: list[_Row] = []
            width = 0
            while self._waiting and len(group) < len(table.free) and self._waiting[0].longest <= table.length:
                width = max(width, len(self._waiting[0].context))
                if group and width * (len(group) + 1) > MOST_READ:
                    break
                group.append(self._waiting.popleft())
            if group:
                try:
                    return table.admit(group)
                except BaseException:
                    self._waiting.extendleft(reversed(group))
                    raise
        return []

    def _table_that_fits(self) -> _Table:
        """The table; a new one where rows wait that are longer than it, once it is empty."""
        idle = self._table is None or not self._table.rows
        if self._table is None or (idle and self._waiting and self._waiting[0].longest > self._table.length):
            self._table = None
            longest = max(row.longest for row in self._waiting)
            self._table = _Table(self._model, self._size, _rounded(longest, LENGTH_BUCKET))
        return self._table

    def _completed(self, ended: list[_Row]) -> list[tuple[int, list[Completion]]]:
        whole: list[tuple[int, list[Completion]]] = []
        for row in ended:
            stopped = bool(row.drawn) and row.drawn[-1] in row.sampling.stop_ids
            tokens = row.drawn[:-1] if stopped else row.drawn
            self.work.rows += 1
            self.work.tokens += len(row.drawn)
            whole += self._open.end(row, tokens, "stop" if stopped else "length")
        return whole

    def _take_back(self) -> None:
        """Give the table's memory back; its rows go on later from what they have."""
        import torch

        if self._table:
            self._waiting.extendleft(row for _, row in sorted(self._table.rows.items(), reverse=True))
        self._table = None
        torch.cuda.empty_cache()


class _Table:
    """Slots of one length: a static cache, the state of each slot, and the captured step."""

    def __init__(self, model: Any, size: int, length: int) -> None:
        import torch

        self._model = model
        self.size, self.length = size, length
        self.free = list(range(size))[::-1]
        self.rows: dict[int, _Row] = {}
        self.cache = SlotCache(model.config, size, length, model.device, model.dtype)
        self._columns = torch.arange(length, device=model.device)
        self.tokens = torch.zeros(size, dtype=torch.long, device=model.device)
        self._noise, self._temperature = (torch.zeros(size, device=model.device) for _ in range(2))
        self._top_p = torch.ones(size, device=model.device)
        self._graphs: dict[bool, Any] = {}
        self._captures = model.device.type == "cuda"

    def admit(self, rows: list[_Row]) -> list[_Row]:
        """Read the rows' contexts into free slots and draw each one's next token; return those that ended with it."""
        import torch

        device = self._model.device
        slots = torch.tensor([self.free[-1 - i] for i in range(len(rows))], device=device)
        contexts = [row.context for row in rows]
        width = min(_rounded(max(map(len, contexts)), PROMPT_BUCKET), self.length)
        tokens, mask = (torch.nn.functional.pad(part, (width - part.shape[1], 0)) for part in left_padded(contexts))
        tokens, mask = tokens.to(device), mask.to(device)
        out = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        logits = out.logits[:, -1].float()
        for number, row in enumerate(rows):
            if not row.drawn and row.sampling.suppressed_first:
                logits[number, list(row.sampling.suppressed_first)] = -torch.inf
        lengths = torch.tensor([len(context) for context in contexts], device=device)
        self.cache.fill(slots, lengths, out.past_key_values)
        noise = torch.tensor([float(row.noise[len(row.drawn)]) for row in rows], device=device)
        temperature = torch.tensor([float(row.sampling.temperature) for row in rows], device=device)
        top_p = torch.tensor([float(row.sampling.top_p) for row in rows], device=device)
        first = draw(logits, noise, temperature, top_p, nucleus=any(row.sampling.top_p < 1 for row in rows))
        self.tokens[slots], self._temperature[slots], self._top_p[slots] = first, temperature, top_p
        for row in rows:
            self.rows[self.free.pop()] = row
        return self._record({slot: token for slot, token in zip(slots.tolist(), first.tolist(), strict=True)})

    def step(self) -> list[_Row]:
        """Draw one token in every slot; return the rows that ended."""
        import numpy as np
        import torch

        if not self.rows:
            return []
        noise = np.zeros(self.size, dtype=np.float32)
        for slot, row in self.rows.items():
            noise[slot] = row.noise[len(row.drawn)]
        self._noise.copy_(torch.from_numpy(noise))
        self._forward(nucleus=any(row.sampling.top_p < 1 for row in self.rows.values()))
        tokens = self.tokens.tolist()
        return self._record({slot: tokens[slot] for slot in self.rows})

    def _record(self, tokens: dict[int, int]) -> list[_Row]:
        if NO_TOKEN in tokens.values():
            raise overflowed(self._model)
        ended = []
        for slot, token in tokens.items():
            row = self.rows[slot]
            row.drawn.append(token)
            if token in row.sampling.stop_ids or len(row.drawn) == row.limit:
                ended.append(self.rows.pop(slot))
                self.free.append(slot)
        return ended

    def _forward(self, *, nucleus: bool) -> None:
        if self._captures and nucleus not in self._graphs:
            self._capture(nucleus)
        if nucleus in self._graphs:
            self._graphs[nucleus].replay()
        else:
            self._decode(nucleus)

    def _decode(self, nucleus: bool) -> None:
        self.tokens.copy_(draw(self.logits(), self._noise, self._temperature, self._top_p, nucleus=nucleus))
        self.cache.positions.add_(1).clamp_(max=self.length - 1)

    def logits(self) -> Any:
        """What follows each slot's token: float32, (slots, vocabulary)."""
        positions = self.cache.positions
        out = self._model(
            input_ids=self.tokens.clamp(min=0)[:, None],  # a free slot may hold `NO_TOKEN`
            attention_mask=(self._columns <= positions[:, None])[:, None, None, :],
            position_ids=positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits[:, -1].float()

    def _capture(self, nucleus: bool) -> None:
        """Record the step as a CUDA graph; the slots' state is as before afterwards."""
        import torch

        state = [part.clone() for part in (self.tokens, self.cache.positions)]
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                self._decode(nucleus)  # allocates what cannot be allocated while recording
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._decode(nucleus)
            self._graphs[nucleus] = graph
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._captures = False
            torch.cuda.synchronize()
            log.warning("decoding launch by launch, which is slower: the step cannot be captured (%s)", error)
        finally:
            self.tokens.copy_(state[0])
            self.cache.positions.copy_(state[1])


class SlotCache:
    """Keys and values of every layer, (slots, heads, length, head size), each slot written at its own position.

    It is what transformers' attention layers need of a cache while decoding, and no more.
    """

    is_compileable = False

    def __init__(self, config: Any, slots: int, length: int, device: Any, dtype: Any) -> None:
        """Allocate for `slots` rows of `length` tokens.

        Raises:
            torch.OutOfMemoryError: the accelerator does not hold them.
        """
        import torch

        config = config.get_text_config()
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        shape = (slots, heads, length, head_size)
        layers = range(config.num_hidden_layers)
        self._keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self._values = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self._slots = torch.arange(slots, device=device)
        self.positions = torch.zeros(slots, dtype=torch.long, device=device)

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write one token's keys and values, (slots, heads, 1, head size), at each slot's position."""
        self._keys[layer][self._slots, :, self.positions] = keys[:, :, 0]
        self._values[layer][self._slots, :, self.positions] = values[:, :, 0]
        return self._keys[layer], self._values[layer]

    def fill(self, slots: Any, lengths: Any, read: Any) -> None:
        """Move a left-padded pass's cache into `slots`, without its padding."""
        import torch

        width = read.layers[0].keys.shape[2]
        source = torch.arange(width, device=slots.device)[None, :] + (width - lengths)[:, None]
        source = source.clamp(max=width - 1)[:, None, :, None]
        for layer, passed in enumerate(read.layers):
            for kept, new in ((self._keys, passed.keys), (self._values, passed.values)):
                index = source.expand(-1, new.shape[1], -1, new.shape[3])
                kept[layer][slots, :, :width] = new.gather(2, index).to(kept[layer].dtype)
        self.positions[slots] = lengths

    def get_seq_length(self, *_: Any) -> int:
        """Not asked of a cache whose rows differ; transformers wants the method to be there."""
        return 0


def slot_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """Attention of one query token a row, with a group's query heads as the query's length: no key is repeated.

    Everything else goes to transformers' own `sdpa`, which repeats keys and values for each query head in memory.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, query_heads, length, size = query.shape
    heads = key.shape[1]
    if length > 1 or attention_mask is None:
        out: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return out
    grouped = query.reshape(rows, heads, query_heads // heads, size)
    attended = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=scaling
    )
    return attended.reshape(rows, 1, query_heads, -1), None


def _use_slot_attention(model: Any) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    odd = odd_attention(model.config)
    if odd:
        raise UnsupportedModelError(f"{config.model_type} sets {odd}")
    AttentionInterface.register(ATTENTION, slot_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    try:
        model.set_attn_implementation(ATTENTION)
    except (ValueError, AttributeError) as error:
        raise UnsupportedModelError(f"{config.model_type} takes no other attention: {error}") from error


def _check_itself(model: Any) -> None:
    """Compare a decoded token's probabilities with those of one pass over the whole text.

    Raises:
        UnsupportedModelError: they differ, or the model refuses the cache.
        ModelError: the model gives NaN.
    """
    import torch

    tokens = torch.arange(8, device=model.device)[None, :] % model.config.get_text_config().vocab_size
    try:
        with torch.inference_mode():
            whole = model(input_ids=tokens, use_cache=False).logits[0, -1].float().softmax(-1)
            table = _Table(model, 2, LENGTH_BUCKET)
            read = model(input_ids=tokens[:, :-1], use_cache=True).past_key_values
            table.cache.fill(torch.tensor([1], device=model.device), torch.tensor([7], device=model.device), read)
            table.tokens.fill_(int(tokens[0, -1]))
            decoded = table.logits()[1].softmax(-1)
    except (TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UnsupportedModelError(f"its layers do not take the table's cache ({error})") from error
    difference = (decoded - whole).abs().max().item()
    if bool(whole.isnan().any()):
        raise overflowed(model)
    if not difference < SELF_CHECK_TOLERANCE:
        raise UnsupportedModelError(f"a decoded token's probabilities are {difference:.3f} off")


def _rounded(length: int, bucket: int) -> int:
    return -(-length // bucket) * bucket
