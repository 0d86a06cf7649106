"""Settings: every profile loads, and a mistake is told by its key, what it got and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.settings import (
    PROFILE_FOLDER,
    ModelSettings,
    Settings,
    SettingsError,
    load_settings,
    profiles,
    setting_keys,
    study_arguments,
)
from flows.cli import parse_settings
from tasks.models import on_the_hub


@pytest.mark.parametrize("profile", profiles())
def test_every_profile_is_valid(profile: str) -> None:
    assert load_settings(profile).profile == profile


def test_the_profiles_are_the_promised_ones() -> None:
    assert profiles() == ["a100", "demo", "smol", "t4"]


@pytest.mark.parametrize("profile", profiles())
def test_requirement_counts_hold_in_every_profile(profile: str) -> None:
    settings = load_settings(profile)
    assert (settings.generation.rows, settings.preference.pairs) == (1500, 600)
    assert (settings.filter.train_rows, settings.filter.val_rows) == (640, 160)
    assert (settings.preference.train_pairs, settings.preference.val_pairs) == (400, 100)
    assert (settings.filter.min_words, settings.filter.max_words) == (20, 500)
    assert (settings.filter.max_repeats, settings.filter.max_similarity) == (3, 0.8)
    sft, prompt, dpo = settings.tuning.sft, settings.tuning.prompt_tuning, settings.tuning.dpo
    assert (sft.r, sft.lora_alpha, sft.epochs, sft.batch_size) == (8, 16, 3, 4)
    assert (prompt.num_virtual_tokens, prompt.init_method, prompt.epochs, prompt.batch_size) == (20, "random", 3, 4)
    assert (dpo.beta, dpo.epochs, dpo.batch_size) == (0.1, 1, 2)
    assert list(settings.evaluation.benchmarks) == ["mmlu", "hellaswag", "arc_easy", "truthfulqa"]


@pytest.mark.parametrize("profile", ["smol", "t4", "a100"])
def test_learning_rates_are_the_required_ones_on_real_models(profile: str) -> None:
    tuning = load_settings(profile).tuning
    rates = [method.learning_rate for method in (tuning.sft, tuning.prompt_tuning, tuning.dpo)]
    assert rates == [2e-4, 3e-4, 5e-5]


def test_every_setting_is_documented() -> None:
    undocumented = [key for key, text in setting_keys() if not text]
    assert undocumented == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"filter.max_wordz": 3}, ["filter.max_wordz", "filter.max_words"]),
        ({"filter.max_words": "many"}, ["filter.max_words", "'many'", "integer"]),
        ({"filter.max_similarity": 1.5}, ["filter.max_similarity", "1.5", "less than or equal to 1"]),
        ({"filter.min_words": 900}, ["filter", "minimum"]),
        ({"tuning.sft.batch_size": 3, "tuning.sft.micro_batch": 2}, ["tuning.sft", "multiple"]),
        ({"tuning.also.lokr.learning_rate": 1e-3}, ["tuning.also.lokr", "prefix_tuning, p_tuning, ia3, dora, loha"]),
        ({"tuning.also.ia3": {"learning_rate": 1e-3, "rank": 8}}, ["tuning.also.ia3.rank", "target_modules"]),
        ({"tuning.also.ia3": {}}, ["tuning.also.ia3.learning_rate", "required"]),
        ({"tuning.also": 3}, ["tuning.also", "3"]),
        ({"tuning.sft.search_rates": [1e-3, 2e-3]}, ["search_rates", "sft 2, prompt_tuning 0, dpo 0", "same number"]),
        ({"tuning.sft.search_rates": [1e-3, 1e-3]}, ["tuning.sft", "search_rates", "twice"]),
        ({"tuning.seeds": 0}, ["tuning.seeds", "0"]),
        ({"evaluation.benchmarks.speed": {"task": "a", "metric": "acc"}}, ["evaluation", "benchmarks", "'speed'"]),
        ({"evaluation.benchmarks": {"a/b": {"task": "a", "metric": "acc"}}}, ["evaluation", "benchmarks", "'a/b'"]),
        ({"generation.rows": 800}, ["filter.train_rows", "800"]),
        ({"filter": 3}, ["filter", "3"]),
        ({"seed.deep": 3}, ["seed"]),
        ({"hardware.engine": "tgi"}, ["hardware.engine", "tgi", "'hf'", "'vllm'"]),
        ({"models.responders": [{"name": "a"}, {"name": "a"}, {"name": "b"}]}, ["models", "different"]),
    ],
)
def test_a_mistake_names_its_key_and_what_is_taken(overrides: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("demo", overrides)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="a100, demo, smol, t4"):
        load_settings("t5")


def test_overrides_reach_the_settings() -> None:
    settings = load_settings("demo", {"filter.max_words": 400, "generation.response.temperature": 0.5})
    assert isinstance(settings, Settings)
    assert (settings.filter.max_words, settings.generation.response.temperature) == (400, 0.5)


def test_a_further_method_trains_as_sft_does_where_it_is_not_told_otherwise() -> None:
    given = {"tuning.also.dora": {"learning_rate": 1e-4, "epochs": 2}, "tuning.also.prefix_tuning.learning_rate": 1e-2}
    sft = {"warmup_share": 0.1, "r": 16, "gradient_checkpointing": True}
    tuning = load_settings("t4", given | {f"tuning.sft.{name}": value for name, value in sft.items()}).tuning
    dora, prefix = tuning.methods["dora"], tuning.methods["prefix_tuning"]
    assert (dora.learning_rate, dora.epochs, dora.warmup_share) == (1e-4, 2, 0.1)
    assert (dora.batch_size, dora.max_length) == (tuning.sft.batch_size, tuning.sft.max_length)
    assert tuning.sft.gradient_checkpointing and dora.gradient_checkpointing and not prefix.gradient_checkpointing
    assert tuning.also.dora is not None and tuning.also.dora.r == 8, "what is the method's own is its own default"


def test_a_further_method_is_searched_like_the_rest() -> None:
    rates = {f"tuning.{name}.search_rates": [1e-4, 1e-3] for name in ("sft", "prompt_tuning", "dpo")}
    further = {"tuning.also.ia3.learning_rate": 1e-3}
    with pytest.raises(SettingsError, match="ia3 0"):
        load_settings("demo", rates | further)
    load_settings("demo", rates | further | {"tuning.also.ia3.search_rates": [1e-3, 1e-2]})


@pytest.mark.parametrize(
    ("profile", "seeds", "candidates"), [("a100", 3, 3), ("t4", 1, 0), ("smol", 1, 0), ("demo", 1, 0)]
)
def test_seeds_and_searches_of_the_profiles(profile: str, seeds: int, candidates: int) -> None:
    tuning = load_settings(profile).tuning
    assert tuning.seeds == seeds
    assert {len(section.search_rates) for section in tuning.methods.values()} == {candidates}
    for section in tuning.methods.values():
        assert not candidates or section.learning_rate in section.search_rates


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 7, "filter.max_words": 60, "tuning.sft.learning_rate": 1e-5, "evaluation.limit": 9},
        {
            "tuning.seeds": 3,
            "tuning.also": {"ia3": {"learning_rate": 5e-3}},
            "evaluation.forgetting": None,
            "evaluation.benchmarks": {"arc_easy": {"task": "demo_arc_easy", "metric": "acc"}},
            "models.base.name": "a folder/with spaces",
        },
    ],
)
def test_a_study_names_the_command_line_that_repeats_it(changes: dict[str, Any]) -> None:
    settings = load_settings("demo", changes)
    again, _ = parse_settings("full_pipeline", "", study_arguments(settings))
    assert again == settings
    assert len(study_arguments(load_settings("demo"))) == 4


def test_a_path_that_the_system_cannot_look_at_is_told_as_one_that_is_not_there() -> None:
    """As on a dead mount, where `Path.is_dir` raises; a name that is too long does so anywhere."""
    gone = "x" * 300
    with pytest.raises(SettingsError, match="no folder"):
        load_settings("demo", {"evaluation.task_folders": [gone]})
    with pytest.raises(SettingsError, match="path of a .yaml file"):
        load_settings(f"{gone}.yaml")
    assert on_the_hub(ModelSettings(name=gone))


def test_a_profile_of_ones_own_is_compared_with_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with another of the same name, in the current folder or among the project's."""
    values = yaml.safe_load((PROFILE_FOLDER / "smol.yaml").read_text())
    for folder, seed in (("here", 1), ("there", 2)):
        (tmp_path / folder).mkdir()
        changed = values | {"evaluation": values["evaluation"] | {"limit": seed}}
        (tmp_path / folder / "t4.yaml").write_text(yaml.safe_dump(changed))
    monkeypatch.chdir(tmp_path / "here")
    settings = load_settings("../there/t4.yaml")
    load_settings("t4")
    assert study_arguments(settings) == ["--profile", "t4.yaml", "--seed", "0"]
