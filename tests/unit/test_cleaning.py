"""Cleaning loses nothing: each cut has a reason and its text, and what an instruction says is never cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.generate.cleaning import Cut, clean, restore

SPECIALS = ("<|x|>", "<|python_tag|>")


@pytest.mark.parametrize(
    "text",
    [
        "What is a lake? And a pond? Which one is deeper?",
        "Fix this code:\n\n```python\ndef f():\n    return 1\n```\nIt should return 2.",
        "Write a letter to my assistant, the assistant of the year.",
        "Write two lines:\nfirst\n\nsecond",
        "# is a comment sign in which languages?",
        "user: hello",
    ],
)
def test_what_the_reference_implementation_loses_survives(text: str) -> None:
    assert clean(text, SPECIALS, "[/INST]") == (text, [])


def test_every_cut_has_its_reason_and_its_span() -> None:
    text, cuts = clean("\n Write<|x|> a poem. [/INST] Roses are red", SPECIALS, "[/INST]")
    assert text == "Write a poem."
    assert cuts == [
        Cut("white_space", 0, "\n "),
        Cut("special_token", 7, "<|x|>"),
        Cut("white_space", 20, " "),
        Cut("turn_end", 21, "[/INST] Roses are red"),
    ]


def test_white_space_alone_leaves_nothing_but_its_cut() -> None:
    assert clean(" \n\t") == ("", [Cut("white_space", 0, " \n\t")])


pieces = st.sampled_from(["a", "b?", " ", "\n", *SPECIALS, "[/INST]", "assistant", "```"])


@given(st.lists(pieces, max_size=12).map("".join))
def test_the_raw_text_comes_back_from_the_cuts(raw: str) -> None:
    text, cuts = clean(raw, SPECIALS, "[/INST]")
    assert restore(text, cuts) == raw
    assert text == text.strip()
    assert not any(special in text for special in SPECIALS if special not in raw.replace(special, ""))
