"""The quality score is in [0, 1], tells bad rows from good ones, and each of its parts says something."""

from __future__ import annotations

import random
from statistics import fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.settings import QualityWeights
from tasks.filter.quality import clarity, cleanliness, completeness, disorder, ending, quality, relevance, variety

WEIGHTS = QualityWeights()
GOOD = [
    (
        "What causes the tides in the ocean?",
        "Ocean tides are caused mainly by the pull of the Moon, and to a lesser degree by that of the Sun. The "
        "side of the Earth that faces the Moon is pulled more strongly than its centre, so water bulges toward it."
        " A second bulge forms on the far side. As the Earth rotates, coastal places pass through both bulges, "
        "which gives most shores two high tides and two low tides each day. When the Sun and the Moon line up, the"
        " spring tides are higher.",
    ),
    (
        "I have trouble falling asleep at night. Can you suggest a few habits that might help?",
        "Falling asleep often becomes easier with a steady routine. Here are some habits worth trying:\n\n"
        "1. Go to bed and get up at the same hour every day, even on weekends.\n"
        "2. Put screens away an hour before bedtime, since bright light delays melatonin.\n"
        "3. Avoid coffee after lunch and heavy meals late in the evening.\n"
        "4. Keep the bedroom cool, dark and quiet.\n\n"
        "If the trouble persists for several weeks, it is wise to talk to a doctor.",
    ),
    (
        "A train travels 120 miles in 2 hours. How far will it go in 5 hours at the same speed?",
        "First find the speed of the train. It travels 120 miles in 2 hours, so its speed is 120 / 2 = 60 miles "
        "per hour. At the same speed, the distance covered in 5 hours is 60 * 5 = 300 miles. The train will "
        "therefore go 300 miles. You can check the result: 5 hours is two and a half times as long as 2 hours, and"
        " 2.5 times 120 is also 300.",
    ),
    (
        "Compare the advantages of electric cars and petrol cars.",
        "**Electric cars** are cheaper to run, quieter, and produce no exhaust where they drive. Their motors have"
        " few moving parts, so servicing costs less. **Petrol cars**, on the other hand, refuel within minutes, "
        "reach remote places easily, and usually cost less to buy. The batteries also lose some range in cold "
        "weather. Which is better depends on how you drive: for daily commuting with a charger at home, the "
        "electric car wins.",
    ),
    (
        "Who painted the Mona Lisa?",
        "The Mona Lisa was painted by Leonardo da Vinci, an Italian artist of the Renaissance. He began the "
        "portrait around 1503 in Florence and kept working on it for years. The sitter is generally believed to be"
        " Lisa Gherardini, the wife of a silk merchant. Today the painting hangs in the Louvre in Paris, where "
        "millions of visitors see it.",
    ),
]


def score(instruction: str, output: str) -> float:
    return quality({"instruction": instruction, "output": output}, WEIGHTS)[0]


def shuffled(text: str, rng: random.Random) -> str:
    tokens = text.split()
    rng.shuffle(tokens)
    return " ".join(tokens)


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_planted_bad_rows_score_lower_than_their_original(number: int) -> None:
    """The five planted defects cost at least 0.08 each, and the spoiled order of words over many shuffles."""
    instruction, output = GOOD[number]
    original = score(instruction, output)
    sentence = output.split(". ")[0]
    bad = {
        "cut mid-sentence": output[: output.rindex(" ", 0, int(len(output) * 0.6))],
        "off topic": GOOD[(number + 2) % len(GOOD)][1],
        "template debris": f"{output}\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{{{{ instruction }}}}",
        "spam": " ".join([sentence] * 8),
    }
    lost = {name: original - score(instruction, text) for name, text in bad.items()}
    rng = random.Random(number)
    lost["shuffled words"] = fmean(original - score(instruction, shuffled(output, rng)) for _ in range(20))
    assert min(lost.values()) >= 0.08, lost


def test_good_rows_reach_the_required_mean_without_saturating() -> None:
    """Requirement 2.2 asks for a mean of 0.7; a score that is 1 for all would say nothing."""
    scores = [score(*pair) for pair in GOOD]
    assert fmean(scores) >= 0.7
    assert max(scores) < 0.98


def test_each_part_varies_on_sound_text() -> None:
    """A part that is the same for every row would be a constant, not a measurement."""
    parts = [quality({"instruction": i, "output": o}, WEIGHTS)[1] for i, o in GOOD]
    assert set(parts[0]) == set(WEIGHTS.model_dump())
    for name in parts[0]:
        assert pstdev(part[name] for part in parts) > 0.001, name


def test_score_is_the_weighted_sum_of_its_parts() -> None:
    """The stored parts explain the stored score."""
    weights = QualityWeights(completeness=0.1, clarity=0.1, variety=0.1, relevance=0.1, cleanliness=0.6)
    total, parts = quality({"instruction": GOOD[0][0], "output": GOOD[0][1]}, weights)
    assert total == pytest.approx(sum(weights.model_dump()[name] * value for name, value in parts.items()), abs=2e-6)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=200))
def test_parts_stay_in_range_for_any_text(instruction: str, output: str) -> None:
    """No text, however broken, leaves [0, 1] or raises."""
    total, parts = quality({"instruction": instruction, "output": output}, WEIGHTS)
    assert all(0 <= value <= 1 for value in (total, *parts.values()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is done.", 1.0),
        ("It is *done!*", 1.0),
        ("He said it is done.)", 1.0),
        ("Well done 🎉", 1.0),
        ("Run this:\n```\nx = 1\n```", 1.0),
        ("Run this:\n```\nx = 1", 0.2),
        ("Fruit:\n- apples\n- pears\n- plums", 0.8),
        ("Fruit:\n- Apples are red.\n- Pears are green.\n- Plums are", 0.2),
        ("Dear Ann,\n\nThank you for the visit.\n\nBest regards,\nTom", 0.8),
        ("print(add(1, 2))", 0.8),
        ("Paris", 0.6),
        ("It is done. Then they went to town", 0.2),
        ("It is done. First comes the", 0.0),
        ("Here are the steps:", 0.0),
        ("Apples, pears,", 0.0),
    ],
)
def test_ending(text: str, expected: float) -> None:
    """Finished texts of every kind are told from cut ones."""
    assert ending(text) == expected


def test_parts_move_with_what_they_measure() -> None:
    """Each part goes up or down with its own property, all else equal."""
    assert completeness(GOOD[0][1]) > completeness(GOOD[0][1][:60] + ".")
    assert clarity("Explain how tides work in a river mouth.") > clarity("tides river mouth water moon sun earth")
    assert clarity("Explain how tides work in a river mouth.") > clarity("Explain tides.")
    assert clarity("Explain this. " + "Tides rise and fall twice. " * 40) < clarity(
        "Explain this. " + "Tides rise. " * 40
    )
    assert variety("red blue green black white pink") == 1.0
    assert variety("red red red red red blue") == 0.0
    assert relevance("What causes tides?", "The Moon causes a tide.") == 1.0
    assert relevance("What causes tides?", "Bread needs flour.") == 0.0
    assert relevance("Write a function that reverses strings.", "def reverse_string(s): pass  # function") == 1.0
    assert cleanliness("A clean line of text.") > cleanliness("A clean line of text. [INST]")
    assert cleanliness("He paid with `<|eot_id|>` tokens.") > 0.9
    assert disorder("the of a is they the of to my the we of is was") > 0.4
    assert disorder("The IT team wrote a for loop, i.e. the one that is shown in the manual. It works.") == 0.0
