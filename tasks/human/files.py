"""The files of human evaluation, all in `evaluation/human/`.

| file | holds |
|---|---|
| `rate.html` | the page: pairs of answers, without the models' names |
| `key.json` | which method wrote which answer of the page |
| `ratings*.json` | what a rater's browser saved; a person puts it here |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from storage.files import read_jsonl
from storage.workspace import Workspace
from tasks.evaluate.results import answers_file
from tasks.given import Given

PAGE, KEY, RATINGS = "rate.html", "key.json", "ratings*.json"

Side = Literal["left", "right"]
Name = Annotated[str, Field(min_length=1, max_length=60)]


class RatedPair(Given):
    """A pair of the page; methods that gave the same answer share it."""

    pair: int = Field(description="its number on the page, from 1")
    id: str = Field(description="the instruction's")
    methods: list[str] = Field(min_length=1)
    baseline_side: Side = Field(description="where the base model's answer stands")


class Tie(Given):
    """An answer equal to the base model's: not on the page, counted as a tie."""

    id: str
    method: str


class Key(Given):
    """What the page does not say."""

    page: str = Field(description="fingerprint of the pairs as they are shown")
    answers: dict[str, str] = Field(description="sha256 of each method's answers; the base model's are among them")
    pairs: list[RatedPair]
    identical: list[Tie]


class Rating(Given):
    """One verdict of one rater."""

    pair: int
    verdict: Literal["left", "right", "tie"]
    false: list[Side] | None = Field(description="answers that say something false; none: the rater did not check")


class Ratings(Given):
    """All verdicts of one rater so far."""

    page: str
    rater: Name
    saved_at: AwareDatetime
    ratings: list[Rating] = Field(min_length=1)


@dataclass(frozen=True)
class Answer:
    """One model's answer to a held-out instruction."""

    instruction: str
    output: str


def human_folder(workspace: Workspace) -> Path:
    """Where page, key and ratings lie."""
    return workspace.evaluation / "human"


def load_answers(workspace: Workspace, method: str, seed: int) -> dict[str, Answer] | None:
    """A model's answers by the instruction's id, or None where there are none that parse."""
    try:
        rows = read_jsonl(answers_file(workspace, method, seed))
        return {row["id"]: Answer(row["instruction"], row["output"].strip()) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
