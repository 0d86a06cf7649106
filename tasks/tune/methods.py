"""The adaptation methods as data, and what they cost in parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from configs.settings import FurtherMethods, Settings, SettingsError


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
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Its arguments that make it this method."""
    excludes: Mapping[str, str] = field(default_factory=dict)
    """What it cannot be combined with, a setting that is on or the base model's precision, and why."""
    reparametrized: bool = False
    """An encoder writes what PEFT saves: to go on training, the encoder itself must be kept."""


LORA = {name: name for name in ("r", "lora_alpha", "lora_dropout", "target_modules")}

# PEFT puts virtual tokens before each row of a batch: several rows in one get only the first's
ONE_ROW_A_SEQUENCE = {
    name: "virtual tokens would stand before the first of the rows only, and the others would be trained without"
    for name in ("packing", "padding_free")
}

METHODS: Mapping[str, Method] = {
    "sft": Method("LoRA SFT", "sft", "LoraConfig", LORA),
    "prompt_tuning": Method(
        "Prompt tuning",
        "sft",
        "PromptTuningConfig",
        {"num_virtual_tokens": "num_virtual_tokens", "prompt_tuning_init": "init_method"},
        virtual_tokens=True,
        excludes=ONE_ROW_A_SEQUENCE,
    ),
    "dpo": Method("DPO", "dpo", None),
    "prefix_tuning": Method(
        "Prefix tuning",
        "sft",
        "PrefixTuningConfig",
        {"num_virtual_tokens": "num_virtual_tokens"},
        excludes=ONE_ROW_A_SEQUENCE
        | {"gradient_checkpointing": "the prefix is a cache of keys and values, which is not there to recompute from"},
        causal=False,
    ),
    "p_tuning": Method(
        "P-tuning",
        "sft",
        "PromptEncoderConfig",
        {name: name for name in ("num_virtual_tokens", "encoder_hidden_size")},
        virtual_tokens=True,
        excludes=ONE_ROW_A_SEQUENCE,
        reparametrized=True,
    ),
    "ia3": Method(
        "IA3",
        "sft",
        "IA3Config",
        {name: name for name in ("target_modules", "feedforward_modules")},
        excludes={"nf4": "PEFT's IA3 gives fp32 keys behind 4-bit weights, and attention fails beside fp16 queries"},
    ),
    "dora": Method("DoRA", "sft", "LoraConfig", LORA, fixed={"use_dora": True}),
    "loha": Method(
        "LoHa",
        "sft",
        "LoHaConfig",
        {name: name for name in ("r", "alpha", "target_modules")},
        excludes={"nf4": "PEFT's LoHa takes the shape of its updates from the weights, which are packed in 4-bit"},
    ),
}


def check_methods(settings: Settings) -> None:
    """Hold every method of a study against what it cannot be combined with.

    Raises:
        SettingsError: a method and what it is combined with, both named, and what to do.
    """
    for method, section in settings.tuning.methods.items():
        check_combination(method, section.model_dump(mode="json"), settings.models.base.precision)


def check_combination(method: str, settings: Mapping[str, Any], precision: str) -> None:
    """Hold a method's settings and the base model's precision against what the method cannot be combined with.

    Raises:
        SettingsError: both are named, and what to do.
    """
    title, section = METHODS[method].title, section_key(method)
    for other, why in METHODS[method].excludes.items():
        if settings.get(other):
            raise SettingsError(
                f"--{section}.{other}: got {settings[other]!r}, which {title} cannot be combined with: {why}; "
                "set it to false"
            )
        if other == precision:
            raise SettingsError(
                f"--models.base.precision: got {precision!r}, which {title} ({section}) cannot be combined with: "
                f"{why}; take bf16, fp16 or fp32, or leave the method out"
            )


def section_key(method: str) -> str:
    """The key of a method's settings."""
    return f"tuning.also.{method}" if method in FurtherMethods.model_fields else f"tuning.{method}"


def peft_config(method: str, settings: Mapping[str, Any], base_config: Any) -> Any:
    """PEFT's configuration of a method, or None for one that trains on from another's adapter.

    Args:
        method: a name of `METHODS`.
        settings: the method's section of `TuningSettings`, dumped.
        base_config: the base model's transformers configuration.
    """
    import peft

    known = METHODS[method]
    if known.peft is None:
        return None
    arguments = {argument: settings[setting] for argument, setting in known.arguments.items()}
    if "prompt_tuning_init" in arguments:
        arguments["prompt_tuning_init"] = arguments["prompt_tuning_init"].upper()
    if "encoder_hidden_size" in arguments and arguments["encoder_hidden_size"] is None:
        arguments["encoder_hidden_size"] = base_config.hidden_size
    return getattr(peft, known.peft)(task_type="CAUSAL_LM", **arguments, **known.fixed)


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
        return count_parameters(get_peft_model(model, peft_config(method, settings, base_config)))


def count_parameters(model: Any) -> tuple[int, int]:
    """Parameters of a PEFT model that are trained (requirements 1.3), and those of its base model without any adapter.

    A 4-bit weight holds two parameters in each element.
    """
    prefixes = _adapter_names(model)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = 0
    for name, parameter in model.named_parameters():
        if not any(part.startswith(prefixes) for part in name.split(".")):
            packed = type(parameter).__name__ == "Params4bit"
            total += parameter.numel() * (2 * parameter.element_size() if packed else 1)
    return trainable, total


def _adapter_names(model: Any) -> tuple[str, ...]:
    """How the modules and parameters that hold adapters are called, as PEFT has it."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    configs = model.peft_config.values()
    return tuple(
        "prompt_encoder" if config.is_prompt_learning else PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type]
        for config in configs
    )
