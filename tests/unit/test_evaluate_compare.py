"""Scores, contrasts and costs from a small study, against scipy and counting by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from configs.settings import Settings, load_settings
from storage.files import read_json, read_jsonl, write_json, write_jsonl
from storage.workspace import Workspace
from tasks.evaluate.compare import build_comparison, build_efficiency, verdict
from tasks.evaluate.results import load_samples, results_folder
from tasks.evaluate.statistics import holm
from tests.unit.test_report_study import QUESTIONS, SUBJECTS, build_study, write_answers

SCORE_KEYS = {"method", "seed", "benchmark", "metric", "value", "stderr"}
CONTRAST_KEYS = {
    "method", "baseline", "benchmark", "metric", "difference", "low", "high", "p", "p_holm", "mde",
}  # fmt: skip
TEST_KEYS = {
    "method", "baseline", "benchmark", "metric", "questions", "clusters", "unpaired", "changed", "right_to_wrong",
    "wrong_to_right", "stderr", "p_mcnemar", "seeds",
}  # fmt: skip


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings("demo")


@pytest.fixture
def workspace(tmp_path: Path, settings: Settings) -> Workspace:
    return build_study(tmp_path, settings)


def _values(workspace: Workspace, method: str, benchmark: str, seed: int = 0) -> Any:
    rows = load_samples(results_folder(workspace, method, seed), benchmark)
    assert rows is not None
    return np.array([next(iter(row["metrics"].values())) for row in rows])


def _by_name(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["method"], row["benchmark"]): row for row in rows}


def test_format_is_the_designs(workspace: Workspace, settings: Settings) -> None:
    comparison, tests = build_comparison(workspace, settings)
    assert set(comparison) == {"scores", "contrasts", "between"}
    assert len(tests["tests"]) == 12 and all(set(row) == TEST_KEYS for row in tests["tests"])
    assert len(comparison["scores"]) == 16 and all(set(row) == SCORE_KEYS for row in comparison["scores"])
    assert len(comparison["contrasts"]) == 12 and all(set(row) == CONTRAST_KEYS for row in comparison["contrasts"])
    assert {row["baseline"] for row in comparison["contrasts"]} == {"base"}


def test_unclustered_contrast_is_the_paired_t_interval_and_mcnemar(workspace: Workspace, settings: Settings) -> None:
    comparison, tests = build_comparison(workspace, settings)
    row = _by_name(comparison["contrasts"])["prompt_tuning", "arc_easy"]
    detail = _by_name(tests["tests"])["prompt_tuning", "arc_easy"]
    base, tuned = (_values(workspace, method, "arc_easy") for method in ("base", "prompt_tuning"))
    reference = scipy.stats.ttest_rel(tuned, base)
    interval = reference.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
    wins, losses = int((tuned > base).sum()), int((tuned < base).sum())
    exact = scipy.stats.binomtest(wins, wins + losses).pvalue
    assert detail["p_mcnemar"] == pytest.approx(exact, abs=1e-12)
    assert row["p"] == pytest.approx(exact, abs=1e-12)
    assert (detail["questions"], detail["clusters"], detail["changed"]) == (QUESTIONS, None, wins + losses)
    assert (detail["right_to_wrong"], detail["wrong_to_right"], detail["seeds"]) == (losses, wins, None)
    quantiles = scipy.stats.t.ppf([0.975, 0.8], QUESTIONS - 1).sum()
    assert row["mde"] == pytest.approx(quantiles * scipy.stats.sem(tuned - base), abs=1e-12)


def test_mmlu_is_clustered_by_subject(workspace: Workspace, settings: Settings) -> None:
    comparison, tests = build_comparison(workspace, settings)
    row = _by_name(comparison["contrasts"])["sft", "mmlu"]
    differences = _values(workspace, "sft", "mmlu") - _values(workspace, "base", "mmlu")
    means = differences.reshape(-1, SUBJECTS).mean(axis=0)  # subjects are equally large and take turns
    reference = scipy.stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((reference.low, reference.high), abs=1e-12)
    exact = scipy.stats.permutation_test((means,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert row["p"] == pytest.approx(exact.pvalue, abs=1e-12)
    assert _by_name(tests["tests"])["sft", "mmlu"]["clusters"] == SUBJECTS
    assert _by_name(tests["tests"])["sft", "mmlu"]["p_mcnemar"] is None


def test_graded_answers_have_no_flips(workspace: Workspace, settings: Settings) -> None:
    path = results_folder(workspace, "sft") / "truthfulqa.samples.jsonl"
    rows = read_jsonl(path)
    rows[0]["metrics"]["acc"] = 0.5
    write_jsonl(path, rows)
    tests = _by_name(build_comparison(workspace, settings)[1]["tests"])
    graded, plain = tests["sft", "truthfulqa"], tests["dpo", "truthfulqa"]
    assert (graded["right_to_wrong"], graded["wrong_to_right"]) == (None, None) and graded["changed"] > 0
    assert plain["right_to_wrong"] > 0


def test_several_seeds_are_averaged_and_have_an_interval_of_their_own(tmp_path: Path) -> None:
    settings = load_settings("demo", {"tuning.seeds": 3, "evaluation.permutations": 2000})
    workspace = build_study(tmp_path, settings)
    for seed, skill in ((0, 0.50), (1, 0.55), (2, 0.75)):
        write_answers(workspace, settings, "sft", "arc_easy", skill, seed)
    comparison, tests = build_comparison(workspace, settings)
    row = _by_name(comparison["contrasts"])["sft", "arc_easy"]
    detail = _by_name(tests["tests"])["sft", "arc_easy"]
    base = _values(workspace, "base", "arc_easy")
    runs = np.array([_values(workspace, "sft", "arc_easy", seed) - base for seed in range(3)])
    assert row["difference"] == pytest.approx(runs.mean())
    interval = scipy.stats.ttest_1samp(runs.mean(axis=0), 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high)), "the trained adapters' interval"
    seeds = detail["seeds"]
    assert set(seeds) == {"count", "low", "high", "stderr"} and seeds["count"] == 3
    spread = runs.mean(axis=1).std(ddof=1) / 3**0.5
    assert seeds["stderr"] == pytest.approx(np.hypot(detail["stderr"], spread), rel=0.1)
    assert seeds["low"] < row["low"] < row["high"] < seeds["high"]
    assert (detail["right_to_wrong"], detail["wrong_to_right"]) == pytest.approx(
        ((runs == -1).sum() / 3, (runs == 1).sum() / 3)
    )
    assert build_comparison(workspace, settings)[1] == tests


def test_a_seed_that_is_missing_does_not_count(tmp_path: Path) -> None:
    settings = load_settings("demo", {"tuning.seeds": 3, "evaluation.permutations": 200})
    workspace = build_study(tmp_path, settings)
    for seed in (1, 2):
        (results_folder(workspace, "dpo", seed) / "mmlu.json").unlink()
    (results_folder(workspace, "sft", 1) / "mmlu.json").unlink()
    tests = _by_name(build_comparison(workspace, settings)[1]["tests"])
    assert tests["dpo", "mmlu"]["seeds"] is None and tests["dpo", "mmlu"]["questions"] == QUESTIONS
    assert tests["sft", "mmlu"]["seeds"]["count"] == 2


def test_with_five_subjects_no_difference_is_detectable(workspace: Workspace, settings: Settings) -> None:
    for method in ("base", "sft"):
        path = results_folder(workspace, method) / "mmlu.samples.jsonl"
        write_jsonl(path, [row | {"cluster": f"subject-{i % 5}"} for i, row in enumerate(read_jsonl(path))])
    comparison, _ = build_comparison(workspace, settings)
    row = _by_name(comparison["contrasts"])["sft", "mmlu"]
    assert row["difference"] > 0.1 and row["p"] == 2 / 2**5 and row["mde"] is None


def test_holm_runs_over_all_tests(workspace: Workspace, settings: Settings) -> None:
    contrasts = build_comparison(workspace, settings)[0]["contrasts"]
    order = sorted(contrasts, key=lambda row: row["p"])
    running = 0.0
    for rank, row in enumerate(order):
        running = max(running, min(1.0, (12 - rank) * row["p"]))
        assert row["p_holm"] == pytest.approx(running)


def test_pairs_are_matched_by_question_not_by_place(workspace: Workspace, settings: Settings) -> None:
    before = build_comparison(workspace, settings)[0]["contrasts"]
    path = results_folder(workspace, "sft") / "hellaswag.samples.jsonl"
    write_jsonl(path, read_jsonl(path)[::-1])
    assert build_comparison(workspace, settings)[0]["contrasts"] == before


def test_questions_of_one_side_are_left_out_and_counted(workspace: Workspace, settings: Settings) -> None:
    path = results_folder(workspace, "sft") / "hellaswag.samples.jsonl"
    rows = read_jsonl(path)
    for row in rows[:5]:
        row["doc_hash"] = "another"
    write_jsonl(path, rows)
    comparison, tests = build_comparison(workspace, settings)
    detail = _by_name(tests["tests"])["sft", "hellaswag"]
    assert (detail["questions"], detail["unpaired"]) == (QUESTIONS - 5, 10)
    expected = (_values(workspace, "sft", "hellaswag") - _values(workspace, "base", "hellaswag"))[5:].mean()
    assert _by_name(comparison["contrasts"])["sft", "hellaswag"]["difference"] == pytest.approx(expected)


def test_a_question_asked_twice_is_paired_twice(workspace: Workspace, settings: Settings) -> None:
    for method in ("base", "sft"):
        path = results_folder(workspace, method) / "hellaswag.samples.jsonl"
        rows = read_jsonl(path)
        rows[1]["doc_hash"] = rows[0]["doc_hash"]
        write_jsonl(path, rows)
    detail = _by_name(build_comparison(workspace, settings)[1]["tests"])["sft", "hellaswag"]
    assert (detail["questions"], detail["unpaired"]) == (QUESTIONS, 0)


def test_equal_answers_are_not_distinguishable(workspace: Workspace, settings: Settings) -> None:
    write_answers(workspace, settings, "dpo", "arc_easy", 0.45)
    row = _by_name(build_comparison(workspace, settings)[0]["contrasts"])["dpo", "arc_easy"]
    assert (row["difference"], row["low"], row["high"], row["p"], row["mde"]) == (0.0, 0.0, 0.0, 1.0, None)
    assert verdict(row, 0.05) == "not distinguishable at this size"


@pytest.mark.parametrize(
    ("difference", "p_holm", "words"),
    [(0.1, 0.05, "better"), (-0.1, 0.01, "worse"), (0.1, 0.051, "not distinguishable at this size"),
     (None, None, "not measured")],
)  # fmt: skip
def test_verdicts(difference: float | None, p_holm: float | None, words: str) -> None:
    assert verdict({"difference": difference, "p_holm": p_holm}, 0.05) == words


def test_efficiency_reads_what_was_measured(workspace: Workspace, settings: Settings) -> None:
    (workspace.adapter("dpo", 0) / "cost.json").unlink()
    cost = read_json(workspace.adapter("sft", 0) / "cost.json")
    write_json(workspace.adapter("sft", 0) / "cost.json", cost | {"peak_memory_bytes": None})
    runs = {run["method"]: run for run in build_efficiency(workspace, settings)["runs"]}
    assert runs["base"]["total_parameters"] == 1_000_000 and runs["base"]["trainable_parameters"] is None
    assert runs["prompt_tuning"]["peak_memory_bytes"] == 40_000_000
    assert runs["prompt_tuning"]["peak_memory_process_bytes"] == 160_000_000
    assert runs["sft"]["peak_memory_bytes"] is None and runs["sft"]["train_seconds"] == 30.0
    assert runs["dpo"]["train_seconds"] is None and runs["dpo"]["trainable_parameters"] == 2000
    assert runs["sft"]["evaluation_seconds"] == pytest.approx(4 * 2.5)
    assert runs["sft"]["inference_tokens_per_second"] == 103.0
    merged = {method: run["inference_tokens_per_second_merged"] for method, run in runs.items()}
    assert merged == {"base": None, "sft": 1234.0, "prompt_tuning": None, "dpo": 1234.0}
    assert (runs["base"]["device"], runs["base"]["inference_device"]) == (None, "cpu")


def test_other_methods_are_compared_with_lora_as_a_family_of_their_own(
    workspace: Workspace, settings: Settings
) -> None:
    """On the same questions: the difference of two methods is that of their differences to the base model."""
    comparison, _ = build_comparison(workspace, settings)
    between, to_base = _by_name(comparison["between"]), _by_name(comparison["contrasts"])
    assert {method for method, _ in between} == {"prompt_tuning", "dpo"}
    for (method, benchmark), row in between.items():
        expected = to_base[method, benchmark]["difference"] - to_base["sft", benchmark]["difference"]
        assert row["baseline"] == "sft" and row["difference"] == pytest.approx(expected)
    assert [row["p_holm"] for row in between.values()] == holm([row["p"] for row in between.values()])
