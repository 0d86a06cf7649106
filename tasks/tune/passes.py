"""Forward and backward passes of a training step, on a GPU each shape captured as a CUDA graph and then replayed.

A 3B model on a fast GPU waits for its launches: some 6,000 kernels a pass, each started from Python. A graph starts
them all at once. It needs static shapes: rows are padded to a multiple of `WIDTH_STEP`, every position is scored.

Imported by the training child only: it needs torch at import.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from tasks.tune.rows import IGNORED, Row, as_sequences, padded

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]
Objective = Callable[[Any, Batch], torch.Tensor]

WIDTH_STEP = 64
ATTENTION = "causal"


def answer_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood of all answer tokens, summed [nats]."""
    return -answer_scores(model, batch).sum()


class PreferenceLoss:
    """DPO's sigmoid loss (arXiv 2305.18290, eq. 7), summed over the pairs [nats]."""

    def __init__(self, beta: float) -> None:
        """`beta` is the strength of the pull to the reference, the adapter named `ref`."""
        self._beta = beta

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        """The first half of the rows are chosen answers, the second half the rejected ones of the same prompts."""
        from trl.trainer.utils import use_adapter

        with torch.no_grad(), use_adapter(model, "ref"):
            reference = answer_scores(model, batch).sum(dim=1)
        chosen, rejected = (answer_scores(model, batch).sum(dim=1) - reference).chunk(2)
        return -functional.logsigmoid(self._beta * (chosen - rejected)).sum()


def answer_scores(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probability of each next token, 0 where the label is ignored; shape (rows, positions) [nats].

    The head is TRL's, see `add_answer_head`.
    """
    scores: torch.Tensor = model(**batch, use_cache=False, fused_lm_head=True).log_probs
    return scores


def add_answer_head(base: Any) -> None:
    """Let a causal language model score labels with TRL's head, which never holds the logits of a whole batch.

    On a GPU TRL projects the labelled positions only, whose number depends on the data; here it projects all of them,
    as it does elsewhere, and computes no further statistics.
    """
    import trl.trainer.utils

    utils: Any = trl.trainer.utils

    def never_compact(device: torch.device) -> bool:
        return False

    utils._use_triton = never_compact  # the kernels ask their own module's, and go on using Triton
    utils.add_fused_lm_head(base, outputs=("log_probs",))


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    batch: Batch
    loss: torch.Tensor


class Passes:
    """Passes over micro-batches that add to one flat gradient, which lies behind the parameters' `grad`."""

    def __init__(
        self, model: Any, objective: Objective, autocast: Callable[[], AbstractContextManager[Any]], capture: bool
    ) -> None:
        """Nothing runs yet.

        Args:
            model: a PEFT model whose adapter is trained.
            objective: a loss summed over a batch.
            autocast: makes the context of a forward pass.
            capture: replay CUDA graphs; shapes must then be few and nothing may depend on the data.
        """
        self._model, self._objective, self._autocast, self._capture = model, objective, autocast, capture
        self.parameters: list[Any] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        device = self.parameters[0].device
        sizes = [parameter.numel() for parameter in self.parameters]
        self.gradient = torch.zeros(sum(sizes), device=device)
        parts = self.gradient.split(sizes)
        self._parts = [part.view_as(parameter) for part, parameter in zip(parts, self.parameters, strict=True)]
        self._share = torch.ones((), device=device)
        self._scale = torch.ones((), device=device)
        self._graphs: dict[tuple[int, ...], _Captured | None] = {}
        self._pool: Any = torch.cuda.MemPool() if capture else None

    def add(self, batch: Batch, share: float, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Add `share` of a batch's loss to the gradient, which begins anew where the optimizer has forgotten it.

        Args:
            batch: what `TrainingRows` makes.
            share: what the summed loss is multiplied by, such as 1 / answer tokens of the whole step.
            scale: a further factor of the gradient alone, as a GradScaler's.

        Returns:
            The share of the loss [nats].
        """
        if self.parameters[0].grad is None:
            self.gradient.zero_()
            for parameter, part in zip(self.parameters, self._parts, strict=True):
                parameter.grad = part
        self._share.fill_(share)
        if scale is not None:
            self._scale.copy_(scale)
        if not self._capture:
            return self._run(batch)
        shape = tuple(batch["input_ids"].shape)
        if shape not in self._graphs:  # the first time as it is, which also compiles and chooses kernels
            self._graphs[shape] = None
            with torch.cuda.use_mem_pool(self._pool):
                loss = self._run(batch)
            loss = loss.clone()
            torch.cuda.empty_cache()  # what the backward pass took beside the pool
            return loss
        captured = self._graphs[shape] or self._captured(shape, batch)
        if captured is None:
            return self._run(batch)
        for name, tensor in batch.items():
            captured.batch[name].copy_(tensor)
        captured.graph.replay()
        return captured.loss.clone()

    def try_out(self, batch: Batch) -> None:
        """Run a batch and forget its gradient: whatever memory it needs is taken now.

        Raises:
            torch.OutOfMemoryError: it does not fit.
        """
        devices = [self.gradient.device] if self.gradient.is_cuda else []
        with torch.random.fork_rng(devices):
            self.add(batch, share=0.0)
        for parameter in self.parameters:
            parameter.grad = None

    def _run(self, batch: Batch) -> torch.Tensor:
        with self._autocast():
            loss = self._objective(self._model, batch) * self._share
        gradients = torch.autograd.grad(loss * self._scale, self.parameters, materialize_grads=True)
        torch._foreach_add_(self._parts, [gradient.float() for gradient in gradients])
        return loss.detach()

    def _captured(self, shape: tuple[int, ...], batch: Batch) -> _Captured | None:
        static = {name: tensor.clone() for name, tensor in batch.items()}
        graph = torch.cuda.CUDAGraph()
        try:
            # NCCL's watchdog thread asks the GPU for its events meanwhile, which a global capture takes for an error
            with torch.cuda.graph(graph, pool=self._pool.id, capture_error_mode="thread_local"):
                loss = self._run(static)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first = error.__context__ or error  # a capture that broke off says so again when it ends
            log.warning("the training step cannot be captured and runs uncaptured, slower: %s", first)
            self._capture = False
            return None
        self._graphs[shape] = captured = _Captured(graph, static, loss)
        return captured


class TrainingRows:
    """Makes micro-batches of right-padded rows, of pairs first all chosen and then all rejected answers."""

    def __init__(self, pad_id: int, *, width_step: int = 1, virtual_tokens: int = 0, masked: bool = False) -> None:
        """Say what the model needs.

        Args:
            pad_id: token that fills rows up.
            width_step: widths are multiples of it [tokens].
            virtual_tokens: positions that the model puts before a row [tokens].
            masked: add the attention mask, which a causal model does not need.
        """
        self._pad_id, self._width_step = pad_id, width_step
        self._virtual_tokens, self._masked = virtual_tokens, masked

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Pad rows as `tasks.tune.rows` encodes them.

        Returns:
            `input_ids`, shape (rows, width), and `shift_labels`, shape (rows, virtual tokens + width): what each
            position must predict.
        """
        sequences = list(rows) if "input_ids" in rows[0] else as_sequences(rows)
        longest = max(len(row["input_ids"]) for row in sequences)
        width = -(-longest // self._width_step) * self._width_step
        batch = {
            "input_ids": [padded(row["input_ids"], self._pad_id, width) for row in sequences],
            "shift_labels": [
                [IGNORED] * self._virtual_tokens + padded(row["labels"][1:], IGNORED, width) for row in sequences
            ],
        }
        if self._masked:
            batch["attention_mask"] = [padded([1] * len(row["input_ids"]), 0, width) for row in sequences]
        return {name: torch.tensor(value) for name, value in batch.items()}


def use_causal_attention(model: Any) -> None:
    """Attention that looks back and knows no mask: with padding on the right no token sees a pad.

    Building the mask would ask the GPU whether there is padding, in each pass; and without one, FlashAttention serves.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, causal_attention)
    model.set_attn_implementation(ATTENTION)


def causal_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention interface: query of shape (rows, heads, positions, size), fewer heads of keys."""
    groups = query.shape[1] // key.shape[1]
    # before compute capability 8 there is no FlashAttention, and the kernel that is there takes equally many heads
    shared = query.is_cuda and torch.cuda.get_device_capability(query.device) >= (8, 0)
    if not shared:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    out = functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=shared
    )
    return out.transpose(1, 2).contiguous(), None
