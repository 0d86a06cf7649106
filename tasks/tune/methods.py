"""The adaptation methods as data, and what they cost in parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Method:
    """One way to adapt the base model."""

    title: str
    trainer: Literal["sft", "dpo"]
    """Which of TRL's trainers, and so which rows: instruction and output, or prompt, chosen and rejected."""
    peft: str | None
    """PEFT's configuration class; None trains on from another method's adapter."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """The configuration's arguments, by the setting each comes from."""
    virtual_tokens: bool = False
    """Whether the row is preceded by embeddings of `num_virtual_tokens` positions."""
    causal: bool = True
    """Whether each position attends to those before it in the row and to nothing else, so that no mask is needed."""


METHODS: Mapping[str, Method] = {
    "sft": Method(
        "LoRA SFT",
        "sft",
        "LoraConfig",
        {name: name for name in ("r", "lora_alpha", "lora_dropout", "target_modules")},
    ),
    "prompt_tuning": Method(
        "Prompt Tuning",
        "sft",
        "PromptTuningConfig",
        {"num_virtual_tokens": "num_virtual_tokens", "prompt_tuning_init": "init_method"},
        virtual_tokens=True,
    ),
    "dpo": Method("DPO", "dpo", None),
}


def peft_config(method: str, settings: Mapping[str, Any]) -> Any:
    """PEFT's configuration of a method, or None for one that trains on from another's adapter."""
    import peft

    known = METHODS[method]
    if known.peft is None:
        return None
    arguments = {argument: settings[setting] for argument, setting in known.arguments.items()}
    if "prompt_tuning_init" in arguments:
        arguments["prompt_tuning_init"] = arguments["prompt_tuning_init"].upper()
    return getattr(peft, known.peft)(task_type="CAUSAL_LM", **arguments)


def trainable_parameters(method: str, settings: Mapping[str, Any], base_config: Any) -> tuple[int, int]:
    """Parameters a method trains and parameters of the base model, counted on tensors that take no memory.

    Args:
        method: a method with its own adapter; DPO trains what `sft` trains.
        settings: the method's section of `TuningSettings`, dumped.
        base_config: the base model's transformers configuration.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = factory.from_config(base_config)
        total = sum(parameter.numel() for parameter in model.parameters())
        adapted = get_peft_model(model, peft_config(method, settings))
    return count_parameters(adapted)[0], total


def count_parameters(model: Any) -> tuple[int, int]:
    """Parameters that are trained (requirements 1.3), and parameters of the base model without any adapter.

    A 4-bit weight holds two parameters in each element.
    """
    base = {id(parameter) for name, parameter in model.named_parameters() if _is_base(name)}
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = 0
    for parameter in model.parameters():
        if id(parameter) in base:
            packed = type(parameter).__name__ == "Params4bit"
            total += parameter.numel() * (2 * parameter.element_size() if packed else 1)
    return trainable, total


def _is_base(name: str) -> bool:
    return not any(part in name for part in ("lora_", "prompt_encoder"))
