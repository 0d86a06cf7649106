"""Lossless cleaning: what the model drew is kept, and every cut names its reason and the text it removed.

Nothing is cut for what it says: lines, code, question marks and the word "assistant" are the instruction's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

WHITE_SPACE, SPECIAL_TOKEN, TURN_END = "white_space", "special_token", "turn_end"


@dataclass(frozen=True)
class Cut:
    """A removed span: where it began in the raw text, and its text."""

    reason: str
    start: int
    removed: str


def clean(raw: str, specials: Sequence[str] = (), turn_end: str | None = None) -> tuple[str, list[Cut]]:
    """The text without control tokens, without what follows a turn's end that the model wrote out, and trimmed.

    Args:
        raw: the text as drawn.
        specials: special tokens of the model's vocabulary that were drawn inside the turn.
        turn_end: text with which the chat template closes a user's turn where no special token does it.

    Returns:
        The cleaned text, and the cuts in the order of their starts; `restore` gives the raw text back.
    """
    cuts = []
    end = len(raw)
    if turn_end and (found := raw.find(turn_end)) >= 0:
        end = found
        cuts.append(Cut(TURN_END, end, raw[end:]))
    kept = raw[:end]
    if specials:
        pattern = "|".join(re.escape(text) for text in sorted(specials, key=len, reverse=True))
        cuts += [Cut(SPECIAL_TOKEN, match.start(), match.group()) for match in re.finditer(pattern, kept)]
    removed = {position for cut in cuts for position in range(cut.start, cut.start + len(cut.removed))}
    inside = [position for position in range(len(raw)) if position not in removed]
    first = next((n for n, position in enumerate(inside) if not raw[position].isspace()), len(inside))
    last = next((n for n in range(len(inside), first, -1) if not raw[inside[n - 1]].isspace()), first)
    cuts += _runs(raw, inside[:first]) + _runs(raw, inside[last:])
    return "".join(raw[position] for position in inside[first:last]), sorted(cuts, key=lambda cut: cut.start)


def restore(text: str, cuts: Sequence[Cut]) -> str:
    """The raw text, from the cleaned one and its cuts."""
    for cut in cuts:
        text = text[: cut.start] + cut.removed + text[cut.start :]
    return text


def _runs(raw: str, positions: Sequence[int]) -> list[Cut]:
    cuts: list[Cut] = []
    for position in positions:
        if cuts and cuts[-1].start + len(cuts[-1].removed) == position:
            cuts[-1] = Cut(WHITE_SPACE, cuts[-1].start, cuts[-1].removed + raw[position])
        else:
            cuts.append(Cut(WHITE_SPACE, position, raw[position]))
    return cuts
