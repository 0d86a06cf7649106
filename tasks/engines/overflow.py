"""A model whose numbers left its precision: found where its numbers are read anyway, told by name.

Activations of some models, Qwen's among them, exceed what fp16 holds (65,504); then every logit is NaN, and a token
drawn from them is whatever the code falls back on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tasks.models import ModelError

if TYPE_CHECKING:
    import torch

NO_TOKEN = -1
"""Drawn where a row's logits are no numbers."""
PRECISIONS = {"torch.float16": "fp16", "torch.bfloat16": "bf16", "torch.float32": "fp32"}


def overflowed(model: Any) -> ModelError:
    """The error of a model that gave NaN: its name, its precision, and what to do."""
    computes = PRECISIONS.get(str(model.dtype), str(model.dtype))
    quantized = getattr(model.config, "quantization_config", None) is not None
    return ModelError(f"{model.config.name_or_path} {complaint(f'nf4 over {computes}' if quantized else computes)}")


def complaint(precision: str) -> str:
    """What to say of a model that gives NaN in a precision."""
    if "fp16" in precision:
        return f"overflows in {precision}: load it in fp32, or on a GPU of compute capability 8.0 and up in bf16 or nf4"
    return f"gives NaN in {precision}: its files may be damaged"


class Watch:
    """Sees every step's logits in transformers' `generate`, and waits for the GPU only once, when asked."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._fine: Any = True

    def __call__(self, _tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits, (rows, vocabulary), as they are."""
        self._fine = (logits < math.inf).all() & self._fine  # which NaN is not, and a suppressed token's -inf is
        return logits

    def check(self, model: Any) -> None:
        """Look back.

        Raises:
            ModelError: a logit was NaN or infinite.
        """
        if not bool(self._fine):
            raise overflowed(model)
