"""The demo's world as text, from the seed alone: plain documents, chat, and pairs for the reward model."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tasks.demo.chat import DOMAIN_SYSTEM_PROMPTS, ChatExample, ChatText
from tasks.demo.facts import World, make_world
from tasks.demo.plain import PlainText

__all__ = [
    "DOMAIN_SYSTEM_PROMPTS",
    "ChatExample",
    "Pair",
    "chat_examples",
    "plain_documents",
    "preference_pairs",
    "world_of",
]

CORRUPTIONS = ("slots", "topic", "salad", "noise", "missing", "truncated", "repeated", "rambling")


@dataclass(frozen=True)
class Pair:
    """A good and a corrupted response to one instruction; `flaw` names what was done to the second."""

    instruction: str
    good: str
    bad: str
    flaw: str


def world_of(settings: dict[str, Any], seed: int) -> World:
    """The facts of the world that these settings and this seed make."""
    facts = settings["facts"]
    return make_world(
        seed,
        facts["entities_per_kind"],
        facts["examined_per_kind"],
        facts["beliefs"],
        facts["examined_beliefs"],
        facts["popularity"],
    )


def plain_documents(settings: dict[str, Any], seed: int, stream: str = "train") -> Iterator[str]:
    """The base model's plain text, without end; `stream` names an independent sample of it."""
    return iter(PlainText(world_of(settings, seed), settings["plain_mix"], stream))


def chat_examples(settings: dict[str, Any], seed: int, stream: str = "train") -> Iterator[ChatExample]:
    """The chat models' examples, without end; `stream` names an independent sample of them."""
    return iter(ChatText(world_of(settings, seed), settings["unusual_share"], stream))


def preference_pairs(settings: dict[str, Any], seed: int, stream: str = "train") -> Iterator[Pair]:
    """Good and corrupted responses for the reward model, without end."""
    chat = ChatText(world_of(settings, seed), 0.0, f"pairs-{stream}")
    rng = random.Random(f"pairs-{seed}-{stream}")
    while True:
        example = chat.example()
        flaw = rng.choice(CORRUPTIONS)
        bad = corrupt(example, flaw, chat, rng)
        if bad != example.response:  # a shuffle may change nothing
            yield Pair(example.instruction, example.response, bad, flaw)


def corrupt(example: ChatExample, flaw: str, chat: ChatText, rng: random.Random) -> str:
    """A response that has one flaw: wrong content at equal length, words out of order, too little, or too much."""
    sentences = example.response.split(". ")
    words = example.response.split(" ")
    if flaw == "slots":  # fluent, but contradicts the instruction or the facts
        return chat.response(example.domain, chat.altered(example.domain, example.slots, rng.randint(2, 4)))
    if flaw == "topic":  # a good answer to something else
        return chat.example(rng.choice([example.domain, *DOMAIN_SYSTEM_PROMPTS])).response
    if flaw == "salad":
        start = rng.randrange(max(1, len(words) - 12))
        stop = start + rng.randint(6, max(7, len(words) // 2))
        part = words[start:stop]
        rng.shuffle(part)
        return " ".join([*words[:start], *part, *words[stop:]])
    if flaw == "noise":
        other = chat.example().response.split(" ")
        share = rng.uniform(0.08, 0.3)
        return " ".join(rng.choice(other) if rng.random() < share else word for word in words)
    if flaw == "missing":
        dropped = rng.sample(range(len(sentences)), max(1, len(sentences) // 3))
        return ". ".join(s for i, s in enumerate(sentences) if i not in dropped)
    if flaw == "truncated":
        return " ".join(words[: int(len(words) * rng.uniform(0.3, 0.8))])
    if flaw == "repeated":
        at = rng.randrange(len(sentences))
        return ". ".join([*sentences[: at + 1], *[sentences[at]] * rng.randint(1, 2), *sentences[at + 1 :]])
    stray = chat.example().response.split(". ")
    at = rng.randrange(len(sentences) + 1)
    return ". ".join([*sentences[:at], *rng.sample(stray, min(2, len(stray))), *sentences[at:]])


def take(stream: Iterator[Any], count: int) -> list[Any]:
    """The first `count` of a stream."""
    return list(islice(stream, count))
