"""Win rates and forgetting: right on planted effects, equal to a reference, silent where nothing is known."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.settings import Settings, load_settings
from storage.files import write_json, write_jsonl
from storage.workspace import Workspace
from tasks.evaluate.answers import held_out_instructions
from tasks.evaluate.forgetting import build_forgetting
from tasks.evaluate.results import answers_folder, results_folder
from tasks.evaluate.win_rates import build_win_rates, length_controlled
from tasks.report.charts import pareto_front

QUESTIONS = 300


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def write_scored(place: Workspace, method: str, scores: list[float | None], words: list[int], seed: int = 0) -> None:
    """Answers of so many words with these scores; none of them, and no score, is an empty answer."""
    rows = [
        {"id": f"{i}", "output": "word " * count, "score": score, "finish_reason": "stop"}
        for i, (score, count) in enumerate(zip(scores, words, strict=True))
    ]
    write_jsonl(answers_folder(place, method, seed) / "answers.jsonl", rows)


def row_of(place: Workspace, settings: Settings, method: str) -> dict[str, Any]:
    return next(row for row in build_win_rates(place, settings)["rows"] if row["method"] == method)


def test_wins_ties_and_losses_are_counted(place: Workspace) -> None:
    write_scored(place, "base", [1.0, 1.0, 1.0, None, None, 0.0], [5, 5, 5, 0, 0, 5])
    write_scored(place, "sft", [2.0, 1.0, 0.5, -9.0, None, 1.0], [5, 5, 5, 5, 0, 5])
    row = row_of(place, load_settings("demo"), "sft")
    assert (row["wins"], row["ties"], row["losses"]) == (3, 2, 1), "an empty answer loses, and ties with another"
    assert row["win_rate"] == pytest.approx(4 / 6)
    assert row_of(place, load_settings("demo"), "dpo")["win_rate"] is None


def test_an_answer_that_could_not_be_scored_is_no_loss(place: Workspace) -> None:
    """The reward model gave NaN for it: neither side has won, and neither's words count."""
    write_scored(place, "base", [1.0, 1.0, None, 1.0], [5] * 4)
    write_scored(place, "sft", [2.0, None, 2.0, 0.0], [5, 50, 50, 5])
    row = row_of(place, load_settings("demo"), "sft")
    assert (row["questions"], row["wins"], row["losses"], row["mean_words"]) == (2, 1, 1, 5)
    assert row["win_rate_length_controlled"] is None, "all answers are as long"


def test_what_only_length_wins_is_no_win_at_equal_length(place: Workspace) -> None:
    """Scores that rise with length alone: the plain rate is far above one half, the controlled one is not."""
    draw = random.Random(1)
    short = [draw.randrange(20, 60) for _ in range(QUESTIONS)]
    long = [draw.randrange(30, 70) for _ in range(QUESTIONS)]
    write_scored(place, "base", [count + draw.gauss(0, 15) for count in short], short)
    write_scored(place, "sft", [count + draw.gauss(0, 15) for count in long], long)
    row = row_of(place, load_settings("demo"), "sft")
    assert row["low"] > 0.55 and row["p_holm"] < 0.01
    assert row["low_length_controlled"] < 0.5 < row["high_length_controlled"]


def test_seeds_are_averaged_over_each_instruction(place: Workspace) -> None:
    """Three seeds that answer alike are no more evidence than one: the interval stays."""
    draw = random.Random(2)
    base, ours = ([draw.gauss(lead, 1) for _ in range(QUESTIONS)] for lead in (0.0, 0.3))
    words = [draw.randrange(10, 20) for _ in range(QUESTIONS)]
    write_scored(place, "base", list(base), list(reversed(words)))
    for seed in (0, 1, 2):
        write_scored(place, "sft", list(ours), words, seed)
    one, three = (row_of(place, load_settings("demo", {"tuning.seeds": seeds}), "sft") for seeds in (1, 3))
    assert three["seeds"] == 3 and three["wins"] == 3 * one["wins"]
    for name in ("win_rate", "low", "high", "low_length_controlled", "high_length_controlled"):
        assert three[name] == pytest.approx(one[name], abs=1e-9)


def test_length_control_equals_a_reference() -> None:
    """statsmodels: logistic regression with a covariance clustered by instruction."""
    import statsmodels.api as sm

    draw = np.random.default_rng(3)
    lengths = draw.normal(5, 20, 400)
    wins = (draw.random(400) < 1 / (1 + np.exp(-0.3 - 0.03 * lengths))).astype(float)
    wins[::17] = 0.5
    clusters = np.repeat(np.arange(200), 2)
    ours = length_controlled(wins.tolist(), lengths.tolist(), clusters.tolist(), 0.95)
    design = sm.add_constant(lengths / lengths.std())
    model = sm.GLM(wins, design, family=sm.families.Binomial())
    fit = model.fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": True, "df_correction": False}, tol=1e-14
    )
    # its correction has a second factor, (n - 1) / (n - k)
    half = 1.959963984540054 * fit.bse[0] / np.sqrt(399 / 398)
    expected = [1 / (1 + np.exp(-(fit.params[0] + step))) for step in (0.0, -half, half)]
    assert ours == pytest.approx(expected, abs=1e-9)


FEW = [-4, -3, -2, -1, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("wins", "lengths"),
    [
        ([1.0] * 8, FEW),
        ([0.0] * 4 + [1.0] * 4, FEW),
        # nearly all answers are as long, as after prompt tuning: the one that is not says nothing about length
        ([0.0] * 6 + [0.5, 0.0, 1.0, 0.0], [0] * 8 + [1, 0]),
        ([1.0] * 13 + [0.0] + [1.0] + [0.0] + [1.0] * 8, [0] * 15 + [17] + [0] * 8),
    ],
)
def test_no_finite_fit_is_no_number(wins: list[float], lengths: list[int]) -> None:
    assert length_controlled(wins, lengths, list(range(len(wins))), 0.95) is None


def test_ties_wherever_answers_are_as_long_leave_one_half() -> None:
    """A variance of zero, which rounding makes negative."""
    told = length_controlled([0.5] * 39 + [1.0] * 4 + [0.0], [0] * 39 + [1] * 5, list(range(44)), 0.95)
    assert told == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)


def write_pages(place: Workspace, method: str, bits: list[float]) -> None:
    """A page of 100 bytes for each loss [bits a byte]."""
    rows = [
        {"doc_hash": f"{i}", "metrics": {"bits_per_byte": [-100 * value * float(np.log(2)), 100]}}
        for i, value in enumerate(bits)
    ]
    folder = results_folder(place, method)
    write_jsonl(folder / "forgetting.samples.jsonl", rows)
    write_json(folder / "forgetting.json", {"config": {"questions": len(rows)}})


def test_forgetting_is_the_rise_in_bits_a_byte(place: Workspace) -> None:
    settings = load_settings("demo")
    base = [1.0 + 0.01 * i for i in range(20)]
    write_pages(place, "base", base)
    write_pages(place, "sft", [value + 0.1 + 0.001 * (i % 3) for i, value in enumerate(base)])
    write_pages(place, "dpo", [value + 0.05 * (-1) ** i for i, value in enumerate(base)])
    told = build_forgetting(place, settings)
    assert told is not None
    sft, prompt, dpo = told["rows"]
    assert sft["difference"] == pytest.approx(0.101, abs=2e-3) and sft["low"] > 0.09 and sft["p_holm"] < 0.001
    assert dpo["low"] < 0 < dpo["high"] and dpo["p"] > 0.2
    assert prompt["value"] is None and prompt["documents"] is None
    refused = build_forgetting(place, settings, {("sft", 0)})
    assert refused is not None and refused["rows"][0]["difference"] is None
    assert build_forgetting(place, settings.model_copy(update={"evaluation": no_forgetting(settings)})) is None


def no_forgetting(settings: Settings) -> Any:
    return settings.evaluation.model_copy(update={"forgetting": None})


def test_more_held_out_instructions_keep_the_first(place: Workspace) -> None:
    rows = [{"instruction": f"Tell me about {i}.", "output": ""} for i in range(50)]
    write_jsonl(place.filtered / "test.jsonl", rows)
    few, more = (
        held_out_instructions(load_settings("demo", {"evaluation.answer_rows": count}), place) for count in (10, 30)
    )
    assert len(few) == 10 and len(more) == 30 and list(more)[:10] == list(few)


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [(3.0, 2.0), (1.0, 1.0), (2.0, 0.5), (4.0, 2.0), (1.0, 0.0)]
    assert pareto_front(points) == [(1.0, 1.0), (3.0, 2.0)]
    assert pareto_front([]) == []
