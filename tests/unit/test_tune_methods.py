"""What each method trains, counted on the real base model's shape."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from configs.settings import DpoSettings, LoraSettings, PromptTuningSettings
from tasks.tune.methods import METHODS, trainable_parameters
from tasks.tune.publish import normal_config

SHARED = {
    "epochs": 3,
    "batch_size": 4,
    "micro_batch": 4,
    "learning_rate": 2e-4,
    "max_length": 1024,
    "gradient_checkpointing": True,
}
LLAMA_3B = 3_212_749_824


def llama_3_2_3b() -> object:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )


@pytest.mark.parametrize(
    ("targets", "expected"),
    [(["q_proj", "k_proj", "v_proj", "o_proj"], 4_587_520), (["q_proj", "v_proj"], 2_293_760)],
)
def test_lora_on_llama_3b(targets: list[str], expected: int) -> None:
    settings = LoraSettings(**SHARED, target_modules=targets).model_dump(mode="json")
    assert trainable_parameters("sft", settings, llama_3_2_3b()) == (expected, LLAMA_3B)


def test_the_default_lora_is_inside_the_required_share() -> None:
    trainable, total = trainable_parameters("sft", LoraSettings(**SHARED).model_dump(mode="json"), llama_3_2_3b())
    assert 0.001 <= trainable / total <= 0.005


def test_twenty_virtual_tokens_on_llama_3b() -> None:
    settings = PromptTuningSettings(**SHARED).model_dump(mode="json")
    assert trainable_parameters("prompt_tuning", settings, llama_3_2_3b()) == (61_440, LLAMA_3B)


def test_every_method_takes_only_settings_that_exist() -> None:
    sections: dict[str, type[BaseModel]] = {
        "sft": LoraSettings,
        "prompt_tuning": PromptTuningSettings,
        "dpo": DpoSettings,
    }
    assert set(METHODS) == set(sections)
    for name, method in METHODS.items():
        assert set(method.arguments.values()) <= set(sections[name].model_fields)


def test_an_adapter_config_forgets_order_and_place() -> None:
    one = {"target_modules": ["v_proj", "q_proj"], "base_model_name_or_path": "/tmp/a", "r": 8, "modules_to_save": None}
    two = {"r": 8, "modules_to_save": None, "base_model_name_or_path": "/mnt/b", "target_modules": ["q_proj", "v_proj"]}
    normal = [json.dumps(normal_config(config, "world/base", None), sort_keys=True) for config in (one, two)]
    assert normal[0] == normal[1]
    assert json.loads(normal[0])["base_model_name_or_path"] == "world/base"
    assert json.loads(normal[0])["target_modules"] == ["q_proj", "v_proj"]


def test_a_pattern_of_target_modules_is_left_as_it_is() -> None:
    assert normal_config({"target_modules": "all-linear"}, "b", "abc") == {
        "target_modules": "all-linear",
        "base_model_name_or_path": "b",
        "revision": "abc",
    }
