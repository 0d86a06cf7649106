"""The page that a person rates: each method's answers beside the base model's, blinded, in one HTML file.

Instructions, sides and order follow from the study's seed: hashes of what they are drawn for, so that asking for more
instructions keeps those there are. The page runs through every instruction once before it shows one again with another
method's answer: whoever stops early has rated all methods about equally, and the base model's answer, which all pairs
of an instruction share, does not come back soon enough to be recognised easily.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.settings import Settings
from storage.files import fingerprint, sha256_file, write_json, write_text
from storage.workspace import Workspace
from tasks.evaluate.results import BASE, answers_file, study_methods
from tasks.given import RefusedError, read_given
from tasks.human.files import (
    KEY,
    PAGE,
    RATINGS,
    Answer,
    Key,
    RatedPair,
    Side,
    Tie,
    human_folder,
    load_answers,
)

TEMPLATE = Path(__file__).with_name("page.html")
SCRIPT_HASH, STUDY = "SCRIPT-HASH", "STUDY-JSON"

Answers = Mapping[str, Answer]


class PageError(RuntimeError):
    """There is no page to be made; the message says why and what to do."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one instruction, as the page shows them."""

    id: str
    instruction: str
    left: str
    right: str
    methods: tuple[str, ...]
    baseline_side: Side


def write_page(settings: Settings, workspace: Workspace, wanted: int) -> Key:
    """Write the page and its key; equal answers and settings give equal bytes.

    Args:
        settings: the study's; its own seed's adapters are shown.
        workspace: where the answers lie.
        wanted: instructions to show, the same for every method.

    Returns:
        The key; a method of the study that its `answers` lack has no answers and is not on the page.

    Raises:
        PageError: there are no answers to compare, or ratings of another page lie where this one would.
        OSError: no space or no permission.
    """
    answers = {}
    for method in (BASE, *study_methods(settings)):
        if rows := load_answers(workspace, method, settings.seed):
            answers[method] = rows
    base = answers.get(BASE)
    tuned = {method: rows for method, rows in answers.items() if method != BASE}
    if base is None or not tuned:
        missing = "the base model has" if base is None else "no tuned model has"
        raise PageError(f"{missing} no answers; run `python -m flows.judge` with the same settings first")
    pairs, identical = draw_pairs(base, tuned, wanted, settings.seed)
    if not pairs and not identical:
        raise PageError("the models answered no instruction in common; run `python -m flows.judge` again")
    shown = [{"instruction": pair.instruction, "left": pair.left, "right": pair.right} for pair in pairs]
    key = Key(
        page=fingerprint(shown),
        answers={method: sha256_file(answers_file(workspace, method, settings.seed)) for method in answers},
        pairs=[
            RatedPair(pair=number, id=pair.id, methods=list(pair.methods), baseline_side=pair.baseline_side)
            for number, pair in enumerate(pairs, 1)
        ],
        identical=identical,
    )
    folder = human_folder(workspace)
    _require_no_ratings_of_another_page(folder, key)
    write_json(folder / KEY, key.model_dump(mode="json"))
    write_text(folder / PAGE, render_page({"page": key.page, "pairs": shown}))
    return key


def draw_pairs(base: Answers, tuned: Mapping[str, Answers], wanted: int, seed: int) -> tuple[list[Pair], list[Tie]]:
    """The pairs in the page's order, and the answers that are equal to the base model's.

    Args:
        base: the base model's answers by the instruction's id.
        tuned: the same of each method.
        wanted: instructions to draw.
        seed: of instructions, sides and order.
    """
    shared = [
        name
        for name, answer in base.items()
        if all(name in rows and rows[name].instruction == answer.instruction for rows in tuned.values())
    ]
    drawn = sorted(shared, key=lambda name: _draw(seed, "instruction", name))[:wanted]
    placed: list[tuple[int, str, Pair]] = []
    identical = []
    for name in drawn:
        methods: dict[str, list[str]] = {}
        for method, rows in tuned.items():
            methods.setdefault(rows[name].output, []).append(method)
        ours = base[name]
        identical += [Tie(id=name, method=method) for method in methods.pop(ours.output, [])]
        outputs = sorted(methods, key=lambda output: _draw(seed, "round", name, output))
        for turn, output in enumerate(outputs):
            side: Side = "left" if int(_draw(seed, "side", name, output), 16) % 2 else "right"
            left, right = (ours.output, output) if side == "left" else (output, ours.output)
            pair = Pair(name, ours.instruction, left, right, tuple(methods[output]), side)
            placed.append((turn, _draw(seed, "order", name, output), pair))
    return [pair for _, _, pair in sorted(placed, key=lambda place: place[:2])], identical


def render_page(study: Mapping[str, Any]) -> str:
    """The page of these pairs; only the script of the template may run in it.

    Args:
        study: `page`, its fingerprint, and `pairs`, each an `instruction`, a `left` and a `right`.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    data = json.dumps(study, allow_nan=False)
    # nothing in an answer may end the element that holds it
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return template.replace(SCRIPT_HASH, digest).replace(STUDY, data)


def _require_no_ratings_of_another_page(folder: Path, key: Key) -> None:
    """Ratings cost hours of people's time, and without their key they say nothing."""
    if not any(folder.glob(RATINGS)):
        return
    try:
        there = read_given(folder / KEY, Key).page
    except RefusedError:
        return
    if there != key.page:
        raise PageError(
            f"{folder} holds ratings of another page (other answers, seed or number of instructions); "
            f"move its {RATINGS} and {KEY} away, or ask for the page that was rated"
        )


def _draw(seed: int, *what: str) -> str:
    return fingerprint(["human", seed, *what])
