"""Preference pairs: best against worst, only where the comparison means something, exactly as many as asked for."""

from __future__ import annotations

import json
import math
import random
from statistics import correlation
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.settings import PreferenceSettings, QualityWeights, SamplingSettings
from tasks.filter.quality import quality
from tasks.prefer import (
    TooFewPairsError,
    choose_instructions,
    dpo_row,
    first_request,
    make_pairs,
    next_request,
    quotas,
    select_pairs,
    shortage,
)
from tasks.prefer.statistics import histogram, mean_interval, quality_agreement, spearman

SAMPLING = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=64)
MODELS = ("small", "medium", "large")


def preference(**changes: Any) -> PreferenceSettings:
    return PreferenceSettings(**({"pairs": 6, "train_pairs": 3, "val_pairs": 2, "sampling": SAMPLING} | changes))


def responses(row_id: str, *scores: float | None, **changes: Any) -> list[dict[str, Any]]:
    """One response of each model; `changes` names a field and its three values."""
    rows = []
    for place, (model, score) in enumerate(zip(MODELS, scores, strict=True)):
        one = {"id": row_id, "model": model, "output": f"answer of {model}", "finish_reason": "stop", "score": score}
        rows.append(one | {field: values[place] for field, values in changes.items()})
    return rows


def instruction(row_id: str = "a", split: str = "train") -> dict[str, str]:
    return {"id": row_id, "instruction": f"question {row_id}", "split": split}


def kept_rows(train: int, val: int, test: int) -> list[dict[str, str]]:
    sizes = {"train": train, "val": val, "test": test}
    return [instruction(f"{split}{n}", split) for split, size in sizes.items() for n in range(size)]


def test_best_against_worst() -> None:
    """The pair holds the highest and the lowest score, their texts and models, in the public fields."""
    result = make_pairs([instruction()], responses("a", 0.5, -1.0, 2.0), preference())
    assert result.pairs == [
        {
            "id": "a",
            "prompt": "question a",
            "chosen": "answer of large",
            "rejected": "answer of medium",
            "chosen_score": 2.0,
            "rejected_score": -1.0,
            "chosen_model": "large",
            "rejected_model": "medium",
            "margin": 3.0,
            "split": "train",
        }
    ]
    assert dpo_row(result.pairs[0]) == {
        "prompt": "question a",
        "chosen": "answer of large",
        "rejected": "answer of medium",
    }


STOP, CUT = "stop", "length"
SKIPS: list[tuple[str, list[dict[str, Any]], float, str]] = [
    ("all scores equal", responses("a", 1.0, 1.0, 1.0), 0, "tie"),
    ("all texts equal", responses("a", 1.0, 2.0, 3.0, output=["x", "x ", "x"]), 0, "identical_texts"),
    ("two truncated", responses("a", 1.0, 2.0, 3.0, finish_reason=[CUT, STOP, CUT]), 0, "fewer_than_two_usable"),
    ("two empty", responses("a", 1.0, 2.0, 3.0, output=["", " \n", "x"]), 0, "fewer_than_two_usable"),
    ("no scores", responses("a", None, math.nan, math.inf), 0, "fewer_than_two_usable"),
    ("no responses", [], 0, "fewer_than_two_usable"),
    ("margin at the threshold", responses("a", 1.0, 1.25, 1.5), 0.5, "margin_too_small"),
]


@pytest.mark.parametrize(("answers", "min_margin", "reason"), [case[1:] for case in SKIPS], ids=[c[0] for c in SKIPS])
def test_no_pair_without_a_meaningful_comparison(answers: list[dict[str, Any]], min_margin: float, reason: str) -> None:
    """Ties, equal texts, broken responses and small margins make no pair, and the reason is kept."""
    result = make_pairs([instruction()], answers, preference(min_margin=min_margin))
    assert result.pairs == []
    assert [(skip["id"], skip["reason"]) for skip in result.skipped] == [("a", reason)]
    assert result.stats["skipped"] == {reason: 1}
    json.dumps(result.stats, allow_nan=False)


def test_broken_response_is_left_out_and_the_others_compared() -> None:
    """A truncated best response does not win; the two sound ones make the pair."""
    answers = responses("a", 1.0, 2.0, 9.0, finish_reason=[STOP, STOP, CUT])
    (pair,) = make_pairs([instruction()], answers, preference()).pairs
    assert (pair["chosen_model"], pair["rejected_model"]) == ("medium", "small")


def test_equal_best_scores_are_settled_by_model_name() -> None:
    """The pair does not depend on the order in which responses arrive."""
    answers = responses("a", 3.0, 3.0, 1.0)
    pairs = [make_pairs([instruction()], order, preference()).pairs for order in (answers, answers[::-1])]
    assert pairs[0] == pairs[1]
    assert pairs[0][0]["chosen_model"] == "medium"


@given(
    st.lists(
        st.tuples(
            st.lists(st.one_of(st.none(), st.floats(width=32), st.sampled_from([0.0, 1.0])), min_size=3, max_size=3),
            st.lists(st.sampled_from(["", "one", "two words"]), min_size=3, max_size=3),
            st.lists(st.sampled_from([STOP, CUT]), min_size=3, max_size=3),
        ),
        max_size=8,
    ),
    st.sampled_from([0.0, 0.5]),
    st.randoms(use_true_random=False),
)
def test_pair_properties(cases: list[Any], min_margin: float, rng: random.Random) -> None:
    """For any responses: chosen > rejected beyond the margin; every instruction is paired or skipped; no order."""
    asked = [instruction(f"{number}") for number in range(len(cases))]
    answers = [
        answer
        for number, (scores, outputs, reasons) in enumerate(cases)
        for answer in responses(f"{number}", *scores, output=outputs, finish_reason=reasons)
    ]
    result = make_pairs(asked, answers, preference(min_margin=min_margin))
    for pair in result.pairs:
        assert pair["chosen_score"] > pair["rejected_score"]
        assert pair["margin"] > min_margin
        assert pair["chosen"].strip() and pair["rejected"].strip() and pair["chosen"] != pair["rejected"]
    assert sorted(row["id"] for row in [*result.pairs, *result.skipped]) == sorted(row["id"] for row in asked)
    rng.shuffle(answers)
    assert make_pairs(asked, answers, preference(min_margin=min_margin)).pairs == result.pairs


def test_quotas_leave_the_rest_to_test() -> None:
    """Requirement 4.2: 600 pairs, 400 / 100, and 100 to measure on."""
    settings = preference(pairs=600, train_pairs=400, val_pairs=100)
    assert quotas(settings) == {"train": 400, "val": 100, "test": 100}
    rows = kept_rows(640, 160, 105)
    assert first_request(rows, settings) == {"train": 440, "val": 110, "test": 105}


def test_choice_is_stable_when_rows_come_and_go() -> None:
    """More rows, or a larger request, keep the instructions already answered, in their order."""
    rows = kept_rows(30, 10, 10)
    small = choose_instructions(rows, {"train": 5, "val": 2, "test": 2}, seed=3)
    large = choose_instructions(rows, {"train": 9, "val": 4, "test": 2}, seed=3)
    assert [row for row in large if row in small] == small and len(large) == 15
    shuffled = random.Random(0).sample(rows, len(rows))
    assert choose_instructions(shuffled, {"train": 5, "val": 2, "test": 2}, seed=3) == small
    fewer = [row for row in rows if row["id"] != small[0]["id"]]
    without = choose_instructions(fewer, {"train": 5, "val": 2, "test": 2}, seed=3)
    assert [row for row in without if row in small] == small[1:]
    assert choose_instructions(rows, {"train": 5, "val": 2, "test": 2}, seed=4) != small


def test_splits_are_inherited_and_quotas_exact() -> None:
    """What exceeds a split's quota is left out; a pair stays in its instruction's split."""
    rows = kept_rows(10, 5, 5)
    answers = [answer for row in rows for answer in responses(row["id"], 1.0, 2.0, 3.0)]
    result = make_pairs(rows, answers, preference())
    chosen = select_pairs(result.pairs, quotas(preference()))
    assert [pair["id"] for pair in chosen] == ["test0", "train0", "train1", "train2", "val0", "val1"]
    assert all(pair["id"].startswith(pair["split"]) for pair in chosen)
    assert shortage(result.pairs, preference()) == {}


def test_shortage_grows_the_short_split_only_and_ends_in_a_clear_error() -> None:
    """A split that ties too often is asked more, by its yield; when its rows are spent, the error says so."""
    settings = preference(oversample=1.0)
    rows = kept_rows(20, 6, 5)
    asked = first_request(rows, settings)
    assert asked == {"train": 3, "val": 2, "test": 1}
    rounds = []
    with pytest.raises(TooFewPairsError) as caught:
        while True:
            chosen = choose_instructions(rows, asked, seed=0)
            answers = [
                answer for row in chosen for answer in responses(row["id"], 1.0, 1.0, 1.0 + (row["split"] != "val"))
            ]
            result = make_pairs(chosen, answers, settings)
            assert shortage(result.pairs, settings) == {"val": 2}
            asked = next_request(asked, result, rows, settings)
            rounds.append(asked)
    assert rounds == [{"train": 3, "val": 6, "test": 1}]
    message = str(caught.value)
    for part in ("val lacks 2 pairs", "6 rows", "tie 6", "--preference.val_pairs", "--generation.rows"):
        assert part in message
    with pytest.raises(TooFewPairsError, match="val lacks 2 of 2"):
        select_pairs(result.pairs, quotas(settings))


def test_growth_follows_the_yield() -> None:
    """One pair from three instructions, two missing: six more instructions."""
    settings = preference(oversample=1.0)
    rows = kept_rows(20, 6, 5)
    asked = {"train": 3, "val": 2, "test": 1}
    chosen = choose_instructions(rows, asked, seed=0)
    first_train = next(row["id"] for row in chosen if row["split"] == "train")
    answers = [
        answer
        for row in chosen
        for answer in responses(row["id"], 1.0, 1.0, 1.0 + (row["split"] != "train" or row["id"] == first_train))
    ]
    result = make_pairs(chosen, answers, settings)
    assert next_request(asked, result, rows, settings) == {"train": 9, "val": 2, "test": 1}


def test_statistics_of_a_hand_computed_case() -> None:
    """Margins, win shares, intervals and length bias, against numbers worked out by hand."""
    rows = [instruction("a"), instruction("b", "val")]
    answers = responses("a", 0.0, 1.0, 2.0, output=["w", "w w", "w w w"])
    answers += responses("b", 4.0, 3.0, 2.0, output=["w w w w", "w w", "w"])
    stats = make_pairs(rows, answers, preference()).stats
    assert stats["pairs"] == 2 and stats["splits"] == {"train": 1, "val": 1}
    assert stats["mean_margin"] == 2.0
    scores = [0.0, 1.0, 2.0, 4.0, 3.0, 2.0]
    sd = math.sqrt(sum((score - 2) ** 2 for score in scores) / 6)
    assert stats["score_sd"] == pytest.approx(sd)
    assert stats["mean_margin_standardized"] == pytest.approx(2 / sd)
    assert {model: one["win_share"] for model, one in stats["models"].items()} == {
        "small": 0.5,
        "medium": 0,
        "large": 0.5,
    }
    assert stats["models"]["medium"]["score"]["mean"] == 2.0
    assert stats["models"]["medium"]["score"]["high"] == pytest.approx(
        2 + 1.959964 * math.sqrt(2) / math.sqrt(2), abs=1e-5
    )
    assert stats["length"]["chosen_mean_words"] == 3.5 and stats["length"]["rejected_mean_words"] == 1.0
    assert stats["length"]["longer_chosen_share"] == 1.0
    assert stats["margin_histogram"]["counts"][-1] == 2
    json.dumps(stats, allow_nan=False)


def test_spearman() -> None:
    """Agrees with its definition, the correlation of mean ranks, on ties; none where nothing varies."""
    rng = random.Random(0)
    xs = [rng.randint(0, 9) for _ in range(60)]
    ys = [x + rng.randint(0, 9) for x in xs]

    def rank(value: int, values: list[int]) -> float:
        return sum(other < value for other in values) + sum(other == value for other in values) / 2

    by_definition = correlation([rank(x, xs) for x in xs], [rank(y, ys) for y in ys])
    assert 0.1 < by_definition < 0.9
    assert spearman(xs, ys) == pytest.approx(by_definition)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_mean_interval_and_histogram() -> None:
    """The interval is 1.96 standard errors wide on each side; the bins hold every value once."""
    interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    standard_error = math.sqrt(5 / 3) / 2
    assert interval["high"] - interval["mean"] == pytest.approx(1.959964 * standard_error, abs=1e-5)
    assert mean_interval([1.0])["low"] is None
    bins = histogram([0.0, 0.5, 1.0, 2.0], 4)
    assert bins == {"edges": [0.0, 0.5, 1.0, 1.5, 2.0], "counts": [2, 1, 0, 1]}
    assert histogram([], 4) == {"edges": [], "counts": []}


def test_quality_agreement_tells_agreement_from_its_opposite() -> None:
    """A reward that is the quality score agrees wholly, its negative not at all, a constant gives no figure."""
    outputs = ["The river feeds the old town and its gardens.", "river river river of the", "TODO: [insert answer]"]
    rows = [
        {"id": str(number), "instruction": "Describe the river.", "output": output, "score": 0.0}
        for number in range(2)
        for output in outputs
    ]
    weights = QualityWeights()
    for sign, expected in ((1, 1.0), (-1, -1.0)):
        scored = [row | {"score": sign * quality(row, weights)[0]} for row in rows]
        agreement = quality_agreement(scored, weights)
        assert agreement["spearman"] == pytest.approx(expected)
        assert agreement["ranked_alike_within_instructions"] == (1 + expected) / 2
        assert agreement["pairs_within_instructions"] == 6
    assert quality_agreement(rows, weights)["spearman"] is None
    assert quality_agreement([], weights)["responses"] == 0
