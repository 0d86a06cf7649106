"""The demo's world as text: deterministic, varied, and free of every benchmark question."""

import re
from itertools import islice
from typing import Any

import pytest

from configs.world import WorldSettings
from tasks.demo.benchmarks import ARC_FORMS, MMLU_FORMS, SCENE_FORMS, TRUTHFUL_FORMS, benchmark_rows
from tasks.demo.lexicon import KINDS, NAMES, PROCEDURES, third_person
from tasks.demo.plain import BELIEF_QUESTIONS, QUESTION_FORMS
from tasks.demo.text import (
    CORRUPTIONS,
    DOMAIN_SYSTEM_PROMPTS,
    chat_examples,
    plain_documents,
    preference_pairs,
    world_of,
)

SETTINGS = WorldSettings().model_dump()
SEED = 0


@pytest.fixture(scope="module")
def plain() -> list[str]:
    return list(islice(plain_documents(SETTINGS, SEED), 4000))


@pytest.fixture(scope="module")
def chat() -> list[Any]:
    return list(islice(chat_examples(SETTINGS, SEED, "teacher"), 3000))


@pytest.fixture(scope="module")
def questions() -> list[str]:
    asked = []
    for name, rows in benchmark_rows(SETTINGS, SEED).items():
        if name.endswith("_dev") or name == "text":
            continue
        asked += [f"{row['ctx_a']} {row['ctx_b']}" if name == "hellaswag" else row["question"] for row in rows]
    return asked


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def _masker() -> re.Pattern[str]:
    """Matches what fills a slot: names, nouns of relations, actions, things, fillers, and whole steps of procedures."""
    world = world_of(SETTINGS, SEED)
    fillers = {e.name for e in world.entities} | {n.lower() for n in NAMES}
    fillers |= {r.noun for k in KINDS for r in k.relations}
    fillers |= {b.action for b in world.beliefs} | {b.thing for b in world.beliefs}
    for procedure in PROCEDURES:
        for x in procedure.fillers:
            steps = [step.format(x=x) for step in procedure.steps]
            fillers |= {x, procedure.name.format(x=x), *steps, *map(third_person, steps)}
    return re.compile(r"\b(?:the )?(?:" + "|".join(sorted(map(re.escape, fillers), key=len, reverse=True)) + r")\b")


def _masked(text: str, masker: re.Pattern[str]) -> list[str]:
    return masker.sub("_", " ".join(_words(text))).split()


def _shingles(words: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def _training_texts(plain: list[str], chat: list[Any]) -> list[str]:
    pairs = islice(preference_pairs(SETTINGS, SEED), 500)
    return plain + [f"{c.instruction}\n{c.response}" for c in chat] + [f"{p.instruction}\n{p.bad}" for p in pairs]


def test_text_depends_on_the_seed_alone(plain: list[str], chat: list[Any]) -> None:
    assert list(islice(plain_documents(SETTINGS, SEED), 300)) == plain[:300]
    assert list(islice(chat_examples(SETTINGS, SEED, "teacher"), 300)) == chat[:300]
    assert list(islice(plain_documents(SETTINGS, SEED + 1), 300)) != plain[:300]
    assert list(islice(plain_documents(SETTINGS, SEED, "held-out"), 300)) != plain[:300]


def test_no_benchmark_question_stands_in_any_training_text(
    plain: list[str], chat: list[Any], questions: list[str]
) -> None:
    text = " | ".join(" ".join(_words(t)) for t in _training_texts(plain, chat))
    found = [q for q in questions if " ".join(_words(q)) in text]
    assert found == []
    planted = f"{text} {' '.join(_words(questions[0]))}"
    assert " ".join(_words(questions[0])) in planted  # the check can fail


def test_no_paraphrase_template_of_a_question_stands_in_any_training_text(
    plain: list[str], chat: list[Any], questions: list[str]
) -> None:
    masker = _masker()
    training: set[tuple[str, ...]] = set()
    lengths = {len(_masked(q, masker)) for q in questions}
    sizes = {min(8, n) for n in lengths}
    masked = [_masked(t, masker) for t in _training_texts(plain, chat)]
    for size in sizes:
        for words in masked:
            training |= _shingles(words, size)
    for q in questions:
        words = _masked(q, masker)
        overlap = _shingles(words, min(8, len(words))) & training
        assert not overlap, (q, overlap)


def test_training_and_benchmark_wordings_are_disjoint() -> None:
    asked = {*QUESTION_FORMS, *BELIEF_QUESTIONS, *(r.question + "?" for k in KINDS for r in k.relations)}
    examined = {*MMLU_FORMS, *ARC_FORMS, *TRUTHFUL_FORMS, *SCENE_FORMS}
    assert not {" ".join(_words(a)) for a in asked} & {" ".join(_words(e)) for e in examined}


def test_examined_entities_are_stated_but_never_asked_about(plain: list[str], chat: list[Any]) -> None:
    world = world_of(SETTINGS, SEED)
    examined = [e.name for e in world.entities if e.examined]
    stated = " ".join(plain).lower()
    assert all(name in stated for name in examined)
    sentences = re.findall(r"[^.?!\n]*\?", " ".join(plain).lower())
    asked = " ".join(sentences) + " ".join(f"{c.instruction} {c.response}" for c in chat).lower()
    assert [name for name in examined if name in asked] == []


def test_names_are_distinct_and_hide_in_no_other() -> None:
    names = [e.name for e in world_of(SETTINGS, SEED).entities]
    assert len(set(names)) == len(names)
    assert not [(a, b) for a in names for b in names if a != b and a in b]


def test_planted_counts() -> None:
    rows = benchmark_rows(SETTINGS, SEED)
    assert sum(len(v) for k, v in rows.items() if k.startswith("mmlu") and not k.endswith("_dev")) >= 200
    for name in ("arc_easy", "hellaswag", "truthfulqa"):
        assert len(rows[name]) >= 200
        texts = [str(row) for row in rows[name]]
        assert len(set(texts)) == len(texts)
    for row in rows["hellaswag"]:
        assert len(set(row["endings"])) == 4
    for row in rows["truthfulqa"]:
        assert len(set(row["mc2_targets"]["choices"])) == 4


def test_chat_is_rich_and_holds_a_little_of_what_filters_look_for(chat: list[Any]) -> None:
    domains = {c.domain for c in chat}
    assert domains == set(DOMAIN_SYSTEM_PROMPTS)
    instruction_words = [len(c.instruction.split()) for c in chat]
    response_words = [len(c.response.split()) for c in chat]
    assert 25 <= sum(instruction_words) / len(chat) <= 45
    assert 55 <= sum(response_words) / len(chat) <= 110
    refusals = sum("I cannot" in c.response for c in chat) / len(chat)
    assert 0.01 < refusals < 0.06
    assert len({c.instruction for c in chat}) > 0.99 * len(chat)


def test_pairs_cover_every_flaw_and_length_tells_nothing() -> None:
    pairs = list(islice(preference_pairs(SETTINGS, SEED), 1600))
    assert {p.flaw for p in pairs} == set(CORRUPTIONS)
    difference = [len(p.bad.split()) - len(p.good.split()) for p in pairs]
    assert abs(sum(difference) / len(pairs)) < 3
    assert sum(p.good != p.bad for p in pairs) == len(pairs)


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("wash the cup", "washes the cup"), ("dry it", "dries it"), ("fill", "fills"), ("say no", "says no")],
)
def test_third_person(phrase: str, expected: str) -> None:
    assert third_person(phrase) == expected
