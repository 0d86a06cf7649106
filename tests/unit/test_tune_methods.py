"""What each method trains, counted on the real base model's shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from configs.settings import (
    DoraSettings,
    DpoSettings,
    FurtherMethods,
    Ia3Settings,
    LohaSettings,
    LoraSettings,
    PrefixTuningSettings,
    PromptTuningSettings,
    PTuningSettings,
    SettingsError,
    TrainingSettings,
    load_settings,
)
from tasks.tune.methods import METHODS, check_combination, check_methods, trainable_parameters
from tasks.tune.publish import normal_config
from tasks.tune.train import _draws, _rows_in_order
from tasks.tune.work import trainings_at_once

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


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SECTIONS: dict[str, type[TrainingSettings]] = {
    "sft": LoraSettings,
    "prompt_tuning": PromptTuningSettings,
    "dpo": DpoSettings,
    "prefix_tuning": PrefixTuningSettings,
    "p_tuning": PTuningSettings,
    "ia3": Ia3Settings,
    "dora": DoraSettings,
    "loha": LohaSettings,
}
WIDTHS = {"q_proj": 3072 + 3072, "k_proj": 3072 + 1024, "v_proj": 3072 + 1024, "o_proj": 3072 + 3072}


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("sft", {}, 4_587_520),
        ("sft", {"target_modules": ["q_proj", "v_proj"]}, 2_293_760),
        ("sft", {"target_modules": LINEAR}, 12_156_928),
        ("prompt_tuning", {}, 61_440),
        ("prefix_tuning", {}, 1_146_880),  # 20 tokens × 28 layers × keys and values of 8 × 128
        ("ia3", {}, 286_720),  # 28 layers × (1,024 keys + 1,024 values + 8,192 activations)
        ("dora", {}, 4_587_520 + 28 * (3072 + 1024 + 1024 + 3072)),  # LoRA's, and a magnitude a row
        ("loha", {}, 2 * 8 * 28 * sum(WIDTHS.values())),  # two low-rank updates of rank 8
        ("p_tuning", {}, 20 * 3072 + 3 * (3072 * 3072 + 3072)),  # the embedding and the network that writes the prompt
    ],
)
def test_parameters_on_llama_3b(method: str, given: dict[str, object], expected: int) -> None:
    settings = SECTIONS[method](**SHARED | given).model_dump(mode="json")
    assert trainable_parameters(method, settings, llama_3_2_3b()) == (expected, LLAMA_3B)


def test_the_default_lora_is_inside_the_required_share() -> None:
    trainable, total = trainable_parameters("sft", LoraSettings(**SHARED).model_dump(mode="json"), llama_3_2_3b())
    assert 0.001 <= trainable / total <= 0.005


def test_every_method_takes_only_settings_that_exist() -> None:
    assert set(METHODS) == set(SECTIONS) == {"sft", "prompt_tuning", "dpo", *FurtherMethods.model_fields}
    for name, method in METHODS.items():
        assert set(method.arguments.values()) <= set(SECTIONS[name].model_fields)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"tuning.also.prefix_tuning": {"learning_rate": 1e-2, "gradient_checkpointing": True}},
            ["--tuning.also.prefix_tuning.gradient_checkpointing", "Prefix tuning", "set it to false"],
        ),
        ({"tuning.also.loha.learning_rate": 1e-3}, ["--models.base.precision", "'nf4'", "LoHa", "tuning.also.loha"]),
    ],
)
def test_what_cannot_be_combined_is_told(overrides: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        check_methods(load_settings("t4", overrides))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix_tuning"])
@pytest.mark.parametrize("other", ["packing", "padding_free"])
def test_virtual_tokens_need_a_sequence_for_each_row(method: str, other: str) -> None:
    with pytest.raises(SettingsError, match=rf"tuning\.(also\.)?{method}\.{other}: got True.*set it to false"):
        check_combination(method, {other: True}, "fp32")
    check_combination("sft", {other: True}, "fp32")


def test_what_can_be_combined_is_not_refused() -> None:
    further = {name: {"learning_rate": 1e-3} for name in FurtherMethods.model_fields}
    check_methods(load_settings("demo", {"tuning.also": further}))
    in_4_bit = {name: further[name] for name in further if name not in ("ia3", "loha")}
    check_methods(load_settings("t4", {"tuning.also": in_4_bit}))


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


def test_a_base_models_own_dropout_is_drawn_again() -> None:
    llama, gpt2 = {"attention_dropout": 0.0, "num_hidden_layers": 2}, {"resid_pdrop": 0.1}
    assert not _draws({"lora_dropout": 0.0}) and not _draws(llama)
    assert _draws({"lora_dropout": 0.1}) and _draws(gpt2)


def test_few_rows_fill_the_steps_of_several_processes() -> None:
    settings = {"batch_size": 8, "epochs": 1}
    job: Any = {"settings": settings, "seed": 0, "plan": {"processes": 2}}
    rows = [{"input_ids": [number], "labels": [number]} for number in range(3)]
    assert len(_rows_in_order(job, rows)) == 8


def test_one_training_at_a_time_has_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings("demo", {"hardware.workers": 2})
    for found, at_once in ((0, 2), (1, 1), (4, 1)):
        monkeypatch.setattr("tasks.tune.work.gpus", lambda found=found: found)
        assert trainings_at_once(settings) == at_once
