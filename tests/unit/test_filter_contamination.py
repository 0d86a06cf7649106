"""The contamination rule: a row that repeats a benchmark's question is dropped, one that shares its topic stays."""

from __future__ import annotations

import pytest

from configs.settings import FilterSettings
from tasks.filter.contamination import Contaminated, Question
from tasks.filter.run import filter_rows
from tests.unit.test_filter_run import made_rows

QUESTIONS = [
    Question("arc_easy", "Which of these tools would a gardener use to measure how much rain fell during a storm?"),
    Question("mmlu", "What is the capital of Australia?"),
    Question("truthfulqa", "And what next?"),
]


@pytest.mark.parametrize(
    ("text", "benchmark", "share"),
    [
        ("which of these tools would a GARDENER use to measure how much rain fell, during a storm", "arc_easy", 1.0),
        ("Tell me: would a gardener use to measure how much rain fell during the night?", "arc_easy", 0.6471),
        ("My teacher asked: what is the capital of Australia? Is it Sydney?", "mmlu", 1.0),
    ],
)
def test_repeated_question_is_dropped_with_its_benchmark(text: str, benchmark: str, share: float) -> None:
    """In the instruction or in the output, whatever its case and marks; the evidence says how much is repeated."""
    rule = Contaminated(FilterSettings(), QUESTIONS)
    for row in ({"instruction": text, "output": "Yes."}, {"instruction": "Go on.", "output": text}):
        evidence = rule.judge(row)
        assert evidence is not None
        assert (evidence["benchmark"], evidence["share"]) == (benchmark, share)


@pytest.mark.parametrize(
    "text",
    [
        "Which of these tools would a carpenter use to measure how much wood is left after a storm?",
        "Which of these tools would a gardener use in spring?",
        "What is the capital of Austria?",
        "What is the largest city and what is the capital of the state? Australia is far away.",
        "And what next? And what next?",
        "",
    ],
)
def test_the_same_topic_stays(text: str) -> None:
    """Under half of the words in common runs of eight, a short question changed by a word, one that is no question."""
    assert Contaminated(FilterSettings(), QUESTIONS).judge({"instruction": text, "output": text}) is None


def test_the_waterfall_counts_them() -> None:
    """The rule has its own line, and only where there are questions."""
    rows = made_rows(60)
    rows[0] = rows[0] | {"instruction": "Please tell me at some length: what is the capital of Australia?"}
    settings = FilterSettings(train_rows=2, val_rows=1)
    steps = {step["rule"]: step["dropped"] for step in filter_rows(rows, settings, 0, QUESTIONS).stats["waterfall"]}
    assert steps["contaminated"] == 1
    assert "contaminated" not in {step["rule"] for step in filter_rows(rows, settings, 0).stats["waterfall"]}
