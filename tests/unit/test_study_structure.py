"""The study's stages: one a method and seed, a search where rates are to be chosen; what is stale when what changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.settings import Settings, load_settings
from flows.status import status
from flows.tune import unfinished
from storage.files import write_json, write_jsonl
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.evaluate.answers import answer_store, held_out_instructions
from tasks.evaluate.results import study_runs
from tasks.evaluate.work import MethodWork
from tasks.progress import stage_progress
from tasks.stages import Stage, study_stages
from tasks.tune.plan import Plan
from tasks.tune.rates import SEARCH, SearchError, choose_rate, chosen_rate
from tasks.tune.search import Candidate, candidates
from tasks.tune.work import TrainingWork

WHOLE: Plan = {"processes": 1, "micro_batch": 4, "gradient_checkpointing": False}
KINDS = ("search", "tune", "evaluate", "judge")
RATES: dict[str, Any] = {f"tuning.{name}.search_rates": [1e-4, 1e-3] for name in ("sft", "prompt_tuning", "dpo")}


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace whose data and base model are published."""
    workspace = Workspace(tmp_path)
    for stage in ("world", "generate", "filter", "prefer"):
        publish(study_stages(load_settings("demo"), workspace)[stage])
    return workspace


def publish(stage: Stage, chosen: float = 1e-4) -> None:
    """Publish a stage as its task would, with files that differ by what the stage read."""
    key = stage.require_key()
    with publishing(stage.folder, key, {}, ["cost.json"]) as folder:
        if stage.kind == "world":
            for name in ("base", "teacher", "responder_a", "responder_b", "responder_c", "reward", "benchmarks"):
                write_json(folder / name / "config.json", {"name": name})
        for split in ("train", "val", "test"):
            write_jsonl(folder / f"{split}.jsonl", [{"split": split}])
        write_json(folder / "result.json", {"reads": key.fingerprint})
        if stage.kind == "search":
            write_json(folder / SEARCH, {"chosen": chosen, "reads": key.fingerprint})


def publish_all(settings: Settings, place: Workspace) -> None:
    """Publish what is trained and evaluated, each stage after those it reads."""
    for name in study_stages(settings, place):
        if (stage := study_stages(settings, place)[name]).kind in KINDS:
            publish(stage)


def stale(settings: Settings, place: Workspace) -> set[str]:
    """Names of the stages of training and evaluation that would run."""
    return {name for name, one in study_stages(settings, place).items() if one.kind in KINDS and not one.state().done}


def test_stages_of_one_seed_are_called_as_ever(tmp_path: Path) -> None:
    names = list(study_stages(load_settings("demo"), Workspace(tmp_path)))
    tuned = ["tune-sft", "tune-prompt_tuning", "tune-dpo"]
    evaluated = ["evaluate-base", "evaluate-sft", "evaluate-prompt_tuning", "evaluate-dpo"]
    judged = ["judge-base", "judge-sft", "judge-prompt_tuning", "judge-dpo"]
    assert names == ["world", "generate", "filter", "prefer", *tuned, *evaluated, *judged, "report"]


def test_stages_of_many_seeds_methods_and_searches(tmp_path: Path) -> None:
    more = {"seed": 4, "tuning.seeds": 2, "tuning.also.ia3": {"learning_rate": 5e-3, "search_rates": [1e-3, 1e-2]}}
    settings, place = load_settings("demo", RATES | more), Workspace(tmp_path)
    stages = study_stages(settings, place)
    sft = [name for name in stages if "sft" in name]
    assert sft == [
        *("search-sft", "tune-sft", "tune-sft-seed-5", "evaluate-sft", "evaluate-sft-seed-5"),
        *("judge-sft", "judge-sft-seed-5"),
    ]
    assert [name for name in stages if "base" in name] == ["evaluate-base", "judge-base"]
    assert {"search-ia3", "tune-ia3", "tune-ia3-seed-5", "evaluate-ia3-seed-5"} <= set(stages)
    folders = {name: place.relative(stages[name].folder) for name in (*sft, "evaluate-base")}
    assert folders == {
        "search-sft": "models/sft/search",
        "tune-sft": "models/sft/seed-4",
        "tune-sft-seed-5": "models/sft/seed-5",
        "evaluate-sft": "evaluation/results/sft-seed-4",
        "evaluate-sft-seed-5": "evaluation/results/sft-seed-5",
        "judge-sft": "evaluation/answers/sft-seed-4",
        "judge-sft-seed-5": "evaluation/answers/sft-seed-5",
        "evaluate-base": "evaluation/results/base",
    }
    read = set(stages["report"].inputs())
    assert {
        "models/sft/search",
        "models/dpo/seed-5",
        "evaluation/results/ia3-seed-5",
        "evaluation/answers/base",
    } <= read
    assert len(study_runs(settings)) == 4 * 2 + 1


def test_more_seeds_leave_the_first_ones_alone(place: Workspace) -> None:
    publish_all(load_settings("demo"), place)
    assert stale(load_settings("demo"), place) == set()
    methods = ("sft", "prompt_tuning", "dpo")
    expected = {f"{kind}-{method}-seed-1" for kind in ("tune", "evaluate", "judge") for method in methods}
    assert stale(load_settings("demo", {"tuning.seeds": 2}), place) == expected


def test_a_further_method_leaves_the_others_alone(place: Workspace) -> None:
    publish_all(load_settings("demo"), place)
    further = load_settings("demo", {"tuning.also.prefix_tuning.learning_rate": 1e-2})
    assert stale(further, place) == {"tune-prefix_tuning", "evaluate-prefix_tuning", "judge-prefix_tuning"}


def test_a_longer_soft_prompt_leaves_less_room_for_every_models_questions(place: Workspace) -> None:
    publish_all(load_settings("demo"), place)
    further = load_settings("demo", {"tuning.also.p_tuning": {"learning_rate": 1e-2, "num_virtual_tokens": 40}})
    evaluated = {f"evaluate-{method}" for method, _ in study_runs(further)}
    assert stale(further, place) == {"tune-p_tuning", "judge-p_tuning", *evaluated}


def test_dpo_starts_from_the_sft_adapter_of_its_own_seed(place: Workspace) -> None:
    settings = load_settings("demo", {"tuning.seeds": 2})
    publish_all(settings, place)
    stages = study_stages(settings, place)
    job = TrainingWork(settings, place, stages["tune-dpo-seed-1"]).run.job(Path("out"), WHOLE)
    assert job["sft_adapter"] == str(place.adapter("sft", 1)) and job["seed"] == 1
    with publishing(place.adapter("sft", 1), stages["tune-sft-seed-1"].require_key(), {}) as folder:
        write_json(folder / "result.json", {"another": "adapter"})
    assert stale(settings, place) == {"tune-dpo-seed-1", "evaluate-sft-seed-1", "judge-sft-seed-1"}


def test_the_questions_are_the_same_for_every_seed(place: Workspace) -> None:
    settings = load_settings("demo", {"tuning.seeds": 2})
    publish_all(settings, place)
    first, second = (study_stages(settings, place)[name] for name in ("evaluate-sft", "evaluate-sft-seed-1"))
    assert first.settings == second.settings
    work = MethodWork(settings, place, second)
    assert work._pool._arguments["adapter"] == str(place.adapter("sft", 1))


@pytest.mark.parametrize("key", ["benchmarks.arc_easy.metric", "forgetting.metric"])
def test_another_metric_of_the_same_results_makes_another_report(place: Workspace, key: str) -> None:
    publish_all(load_settings("demo"), place)
    first, second = (
        study_stages(load_settings("demo", overrides), place)["report"].require_key()
        for overrides in ({}, {f"evaluation.{key}": "another"})
    )
    assert first.fingerprint != second.fingerprint


def test_answers_of_another_batch_size_are_not_taken_for_these(place: Workspace) -> None:
    """In half precision the batch moves them."""
    publish_all(load_settings("demo"), place)
    stores = set()
    for size in (8, 16):
        settings = load_settings("demo", {"evaluation.batch_size": size})
        stores.add(answer_store(settings, place, study_stages(settings, place)["judge-sft"]).folder)
    assert len(stores) == 2


def test_answers_are_counted_of_the_instructions_that_are_asked(place: Workspace) -> None:
    """Fewer may be held out than wanted, and the store may hold those of another split."""
    settings = load_settings("demo")
    publish_all(settings, place)
    write_jsonl(place.filtered / "test.jsonl", [{"instruction": f"Do {number}."} for number in range(5)])
    stage = study_stages(settings, place)["judge-sft"]
    store = answer_store(settings, place, stage)
    for names in (list(held_out_instructions(settings, place))[:2], ["another split's"]):
        store.write(store.plan(names, 8)[0], [{"id": name} for name in names])
    assert stage_progress(stage, settings, place, done=False)[:2] == (2, 5)
    assert stage_progress(stage, settings, place, done=True)[:2] == (5, 5)
    (place.filtered / "test.jsonl").unlink()
    assert stage_progress(stage, settings, place, done=False)[:2] == (0, settings.evaluation.answer_rows)


def test_a_search_comes_before_its_training(place: Workspace) -> None:
    settings = load_settings("demo", RATES)
    stages = study_stages(settings, place)
    assert stages["tune-sft"].missing_inputs() == ["models/sft/search", "the learning rate"]
    assert [one.name for one in unfinished(settings, place.root, "search", ["sft", "dpo"])] == [
        "search-sft",
        "search-dpo",
    ]
    publish(stages["search-sft"], chosen=1e-3)
    assert chosen_rate(place.search("sft")) == 1e-3
    key = stages["tune-sft"].require_key()
    assert key.inputs["the learning rate"] == "0.001" and "learning_rate" not in key.settings
    job = TrainingWork(settings, place, stages["tune-sft"]).run.job(Path("out"), WHOLE)
    assert job["settings"]["learning_rate"] == 1e-3 and job["settings"]["epochs"] == settings.tuning.sft.epochs


def test_another_list_of_rates_touches_its_method_only(place: Workspace) -> None:
    settings = load_settings("demo", RATES)
    publish_all(settings, place)
    assert stale(settings, place) == set()
    other = load_settings("demo", RATES | {"tuning.prompt_tuning.search_rates": [1e-3, 1e-2]})
    assert stale(other, place) == {"search-prompt_tuning"}, "its adapter holds until the search chooses anew"
    publish(study_stages(other, place)["search-prompt_tuning"], chosen=1e-2)
    assert stale(other, place) == {"tune-prompt_tuning"}
    publish(study_stages(other, place)["tune-prompt_tuning"])
    assert stale(other, place) == {"evaluate-prompt_tuning", "judge-prompt_tuning"}


def test_the_order_of_the_rates_and_the_required_one_do_not_matter(place: Workspace) -> None:
    publish_all(load_settings("demo", RATES), place)
    turned = {"tuning.sft.search_rates": [1e-3, 1e-4], "tuning.sft.learning_rate": 7e-3, "tuning.sft.micro_batch": 2}
    assert stale(load_settings("demo", RATES | turned), place) == set()


def test_how_a_training_fits_the_memory_makes_nothing_stale(place: Workspace) -> None:
    pinned = {
        f"tuning.{name}.{setting}": value
        for name in ("sft", "prompt_tuning", "dpo")
        for setting, value in (("micro_batch", 1), ("gradient_checkpointing", True))
    }
    publish_all(load_settings("demo"), place)
    assert stale(load_settings("demo", pinned), place) == set()


def test_candidates_are_keyed_by_their_own_rate(place: Workspace) -> None:
    two = load_settings("demo", RATES)
    three = load_settings("demo", {key: [1e-4, 1e-3, 1e-2] for key in RATES})
    longer = load_settings("demo", RATES | {"tuning.search_epochs": 2})

    def keys(settings: Settings) -> list[str]:
        stage = study_stages(settings, place)["search-sft"]
        return [candidate.run.key for candidate in candidates(settings, place, stage)]

    assert keys(three)[:2] == keys(two) and len(set(keys(three))) == 3
    assert not set(keys(longer)) & set(keys(two))
    run = Candidate(longer, place, study_stages(longer, place)["search-sft"], 1e-4).run
    job = run.job(Path("out"), WHOLE)
    assert (job["settings"]["learning_rate"], job["settings"]["epochs"], job["seed"]) == (1e-4, 2, 0)
    assert run.steps == 2 * 160


def test_the_lowest_validation_loss_is_chosen() -> None:
    def rows(*losses: float | None) -> list[dict[str, Any]]:
        rates = (1e-4, 1e-3, 1e-2)
        return [
            {"learning_rate": rate, "val_loss": loss, "failure": None if loss else "nan"}
            for rate, loss in zip(rates, losses, strict=True)
        ]

    assert choose_rate("sft", rows(2.0, 1.0, 3.0)) == (1e-3, False)
    assert choose_rate("sft", rows(2.0, 1.9, 1.0)) == (1e-2, True)
    assert choose_rate("sft", rows(1.0, 1.0, None)) == (1e-4, True), "the lower of equals"
    with pytest.raises(SearchError, match=r"every learning rate of sft failed \(0.0001: nan.*lower search_rates"):
        choose_rate("sft", rows(None, None, None))


def test_status_tells_searches_and_seeds(place: Workspace) -> None:
    settings = load_settings("demo", RATES | {"tuning.seeds": 2})
    publish_all(load_settings("demo", RATES), place)
    rows = {row["stage"]: row for row in status(settings, place)}
    assert rows["search-dpo"]["state"] == "done" and rows["search-dpo"]["total"] == 2
    assert rows["search-dpo"]["unit"] == "learning rates tried"
    assert rows["tune-dpo"]["state"] == "done" and rows["tune-dpo-seed-1"]["state"] == "missing"
    stage = study_stages(settings, place)["tune-dpo-seed-1"]
    assert stage_progress(stage, settings, place, done=False) == (0, 200, "optimizer steps kept")


def test_a_damaged_result_makes_the_report_stale_and_its_repair_again(place: Workspace) -> None:
    """Otherwise a report on what was damaged would stand for good."""
    settings = load_settings("demo")
    publish_all(settings, place)

    def read() -> str:
        return study_stages(settings, place)["report"].require_key().fingerprint

    whole, file = read(), place.evaluation / "results" / "dpo" / "result.json"
    content = file.read_bytes()
    file.write_bytes(b"{}")
    damaged = read()
    file.unlink()
    gone = read()
    file.write_bytes(content)
    assert len({whole, damaged, gone}) == 3 and read() == whole


def test_responders_that_are_two_revisions_of_a_model_are_both_read(tmp_path: Path) -> None:
    place, asked = Workspace(tmp_path), ["a/one@v1", "a/one@v2", "a/two"]
    keys = set()
    for first in ("c1", "c3"):
        write_json(place.hub, {"model": dict(zip(asked, [first, "c2", "c4"], strict=True))})
        models = [
            {"name": name, "revision": revision or None} for name, _, revision in (a.partition("@") for a in asked)
        ]
        stage = study_stages(load_settings("smol", {"models.responders": models}), place)["prefer"]
        keys.add(repr({name: digest for name, digest in stage.inputs().items() if name.startswith("responder")}))
    assert len(keys) == 2
