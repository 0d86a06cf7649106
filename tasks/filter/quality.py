"""The quality score: a weighted sum of five parts in [0, 1], each computed from the row's two texts alone.

It needs no model and no other row. Every constant below is a property of English text or of the format, with its
source; none is fitted to a data set. What the score cannot see is whether an answer is true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from configs.settings import QualityWeights
from tasks.filter.lexicon import (
    ABBREVIATIONS,
    IMPOSSIBLE_AFTER,
    NEVER_LAST,
    OPENERS,
    QUESTION_WORDS,
    REQUEST_VERBS,
    STOP_WORDS,
)
from tasks.filter.text import FENCED_CODE, INLINE_CODE, QUOTATION, Remembered, blank, word_count, words

PARTS = ("completeness", "clarity", "variety", "relevance", "cleanliness")
DIGITS = 6  # of a stored score; files are compared byte by byte

# Requirement 2.1 asks for outputs of 50 words and more and instructions of 20 to 150 words on average. The first two
# are the scale on which a text counts as developed (an exponential approach, 63% at the figure, so that more always
# counts and never saturates); instructions lose in proportion above the third. Eight words is a short full question.
DEVELOPED_OUTPUT = 50
DEVELOPED_INSTRUCTION = 8
LONG_INSTRUCTION = 150

# Moving-average type-token ratio (Covington and McFall, 2010, J. Quantitative Linguistics 17:94) over 50 words, the
# window of common use. English prose lies around 0.7 to 0.85; the ends of the range are three words in five being
# repeats within 50 words, and no repeat at all.
VARIETY_WINDOW = 50
VARIETY_RANGE = (0.4, 1.0)

# Share of places where a word stands that cannot ("the of", "they a"). Sound English has next to none. In shuffled
# English a follower is a function word as often as any word is, over 40% in running text (Brown corpus), and about a
# quarter of those are impossible after a given one: 0.1. Full disorder is set there.
SALAD = 0.1
SALAD_PRIOR = 5  # places imagined sound, so that one slip in a short text is no salad

# One artifact of these is already a broken generation, but of a text that may be sound for the rest.
ARTIFACT_FACTOR = 0.4

POLITE_REQUEST = re.compile(
    r"\b(?:please|can you|could you|would you|help me|tell me|i need|i want|i'd like|i would like|i am looking for)\b"
)
_CLOSERS = "\"'”’)]»*_ \t\n"
_EXTRAORDINARY = re.compile(r"[^\w\s.,;:!?'\"()’“”-]")
_ASCII_ORDINARY = dict.fromkeys(code for code in range(128) if not _EXTRAORDINARY.match(chr(code)))
_LIST_ITEM = re.compile(r"\s*(?:[-*+•|]|\d+[.)])\s*\S")
_ARTIFACTS = re.compile(
    r"""<\|[^|>\n]{1,40}\|>                                       # Llama-3 and ChatML control tokens
    |\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>
    |(?m:^\#\#\#\ (?:Instruction|Response|Input|Output|Human|Assistant):?)
    |(?m:^(?:Human|User|Assistant|AI|Instruction|Response|Output|Q|A):)  # a turn of a transcript
    |(?m:^(?:user|assistant|system)$)
    |\{\{[^}\n]{0,60}\}\}|\{%[^%\n]{0,60}%\}                      # an unfilled template
    |\[(?:insert|your|todo|placeholder|name|date|topic)\b[^\]\n]{0,40}\]|\bTODO\b|\blorem\ ipsum\b
    |</?(?:div|span|p|br|html|body|font|table|td|tr|li|ul|ol)\b[^>\n]{0,80}>   # markup outside code
    |�|Ã[\x80-\xbf©¨¤¶¼]|â€[™œ\x9d“”]?|&(?:amp|lt|gt|quot|nbsp|\#\d{2,4});   # text decoded wrongly
    """,
    re.VERBOSE | re.IGNORECASE,
)
# No artifact is without one of these; most texts are, and the pattern above is slow.
_ARTIFACT_SIGNS = ("<", "[", "{", "#", "&", "�", "ã", "â", "todo", "lorem ipsum")
_SPEAKERS = frozenset(["human", "user", "assistant", "ai", "instruction", "response", "output", "q", "a", "system"])


def quality(row: Mapping[str, Any], weights: QualityWeights) -> tuple[float, dict[str, float]]:
    """Score of a row in [0, 1] and its parts: the sum of each part times its weight."""
    instruction, output = row["instruction"], row["output"]
    values = (
        completeness(output),
        clarity(instruction),
        variety(output),
        relevance(instruction, output),
        cleanliness(output),
    )
    parts = dict(zip(PARTS, values, strict=True))
    share = weights.model_dump()
    score = sum(share[name] * value for name, value in parts.items())
    return round(score, DIGITS), {name: round(value, DIGITS) for name, value in parts.items()}


def completeness(output: str) -> float:
    """Whether the response ends as a finished text, and how far it is developed.

    0.6 times the ending (see `ending`), 0.15 if brackets and fences close, 0.25 (1 - e^(-words / 50)).
    """
    prose = blank(output, FENCED_CODE, INLINE_CODE)
    closed = output.count("```") % 2 == 0 and all(prose.count(a) <= prose.count(b) for a, b in ("()", "[]", "{}"))
    return 0.6 * ending(output) + 0.15 * closed + 0.25 * _approach(word_count(output), DEVELOPED_OUTPUT)


def ending(output: str) -> float:
    """How a text ends, in [0, 1].

    1 at a sentence's end or closed code; 0.8 at a line without a mark where most lines of its kind have none (lists,
    verse, a signature) or at a bracket that closes code; 0.6 for a single line without any mark; 0.2 where other
    sentences do end with a mark, so that this one was cut, and in open code; 0 after a comma, a colon or a word that
    cannot be last.
    """
    text = output.rstrip()
    if text.count("```") % 2:
        return 0.2
    bare = text.rstrip(_CLOSERS)
    if text.endswith("```") or _is_mark(bare[-1:]):
        return 1.0
    if text[-1:] in tuple(");}]"):
        return 0.8
    if bare[-1:] in tuple(",:;-–—([{&/") or NEVER_LAST.issuperset(words(bare[-30:])[-1:] or [""]):
        return 0.0
    *others, last = [line for line in text.splitlines() if line.strip()] or [""]
    kin = [_is_mark(line.rstrip(_CLOSERS)[-1:]) for line in others if _is_item(line) == _is_item(last)]
    if kin:
        return 0.8 if 2 * sum(kin) < len(kin) else 0.2
    return 0.2 if re.search(r"[.!?](?:\s|$)", last) else 0.6


def clarity(instruction: str) -> float:
    """Whether the instruction asks for something, at a sensible length, as a finished text.

    0.5 times the request (1 for a question or an imperative at a sentence's start, 0.7 for a polite phrase, else 0),
    0.35 (1 - e^(-words / 8)) with words over 150 counting against it, 0.15 for a capital and a final mark.
    """
    text = instruction.strip()
    count = word_count(text)
    length = _approach(count, DEVELOPED_INSTRUCTION) * min(1.0, LONG_INSTRUCTION / max(count, 1))
    form = 0.5 * (text[:1].isupper() or not text[:1].isalpha()) + 0.5 * (text[-1:] in tuple('.?!:"”`)'))
    return 0.5 * _request(text) + 0.35 * length + 0.15 * form


def variety(output: str) -> float:
    """Lexical variety: the moving-average type-token ratio of 50 words, from 0.4 (0) to 1 (1)."""
    tokens = words(output)
    if not tokens:
        return 0.0
    low, high = VARIETY_RANGE
    return _clip((_moving_type_token_ratio(tokens, VARIETY_WINDOW) - low) / (high - low))


def relevance(instruction: str, output: str) -> float:
    """Square root of the share of the instruction's content words that the response takes up.

    The root, since a good answer repeats a topic's words and not all of the request's; words match by their stem. An
    instruction without content words tells nothing: 0.5.
    """
    asked = _stems(instruction, STOP_WORDS | REQUEST_VERBS) or _stems(instruction, STOP_WORDS)
    return math.sqrt(len(asked & _stems(output, frozenset())) / len(asked)) if asked else 0.5


def cleanliness(output: str) -> float:
    """Absence of artifacts: the product of four factors, each 1 for a clean text.

    0.4 for each artifact (control token, template field, transcript turn, stray markup, wrongly decoded text); the
    share of word triples that occur once (repeats: Rae et al. 2021, Gopher, A1); the share of characters outside code
    that are letters, digits, spaces or ordinary punctuation; and `1 - (disorder / 0.1)²`, see `disorder`.
    """
    prose = blank(output, FENCED_CODE, INLINE_CODE)
    artifacts = ARTIFACT_FACTOR ** _count_artifacts(prose)
    ordinary = 1 - _count_extraordinary(prose) / max(len(prose), 1)
    order = 1 - min(1.0, disorder(prose) / SALAD) ** 2
    return artifacts * _distinct_triples(words(output)) * ordinary * order


def disorder(prose: str) -> float:
    """Share of places where words cannot stand as they do, as in shuffled text.

    Places are the words after a function word that some words cannot follow, the words after a sentence's end, and
    capitalised openers of sentences. Wrong are a follower that cannot be, a sentence that starts small, an opener in
    mid-sentence.
    """
    places = wrong = 0
    for line in blank(prose, QUOTATION).splitlines():
        impossible: frozenset[str] = frozenset()
        ends = small = False
        for place, (bare, opens, cannot_follow, ends_sentence, is_small) in enumerate(
            map(_STANDING.__getitem__, line.split())
        ):
            if impossible:
                places += 1
                wrong += bare in impossible
            elif ends and bare.isalpha():
                places += 1
                wrong += bare.islower()
            if opens and place:
                places += 1
                wrong += small
            impossible, ends, small = cannot_follow, ends_sentence, is_small
    return wrong / (places + SALAD_PRIOR)


def _standing(token: str) -> tuple[str, bool, frozenset[str], bool, bool]:
    """A token without marks, whether it opens sentences, what cannot follow, whether it ends one, is a small word."""
    bare = token.strip("*_()[],;:.!?'’")
    impossible = IMPOSSIBLE_AFTER.get(token.lower(), frozenset())
    ends = _is_mark(token.rstrip("*_)'’")[-1:]) and token.lower() not in ABBREVIATIONS
    return bare, bare in OPENERS, impossible, ends, token.isalpha() and token.islower()


_STANDING = Remembered(_standing)


def _count_artifacts(prose: str) -> int:
    folded = prose.casefold()
    if any(sign in folded for sign in _ARTIFACT_SIGNS) or any(
        line.partition(":")[0] in _SPEAKERS for line in folded.split("\n")
    ):
        return sum(1 for _ in _ARTIFACTS.finditer(prose))
    return 0


def _count_extraordinary(prose: str) -> int:
    return len(prose.translate(_ASCII_ORDINARY)) if prose.isascii() else len(_EXTRAORDINARY.findall(prose))


def _request(text: str) -> float:
    if "?" in text:
        return 1.0
    for sentence in re.split(r"[.!:\n]\s*|^\s*\S*\d[.)]\s+", text):
        tokens = words(sentence)[:2]
        if tokens and (tokens[0] in REQUEST_VERBS or tokens[0] in QUESTION_WORDS or tokens[0] == "please"):
            return 1.0
    return 0.7 if POLITE_REQUEST.search(text.lower().replace("’", "'")) else 0.0


def _moving_type_token_ratio(tokens: Sequence[str], window: int) -> float:
    if len(tokens) <= window:
        return len(set(tokens)) / len(tokens)
    windows = len(tokens) - window + 1
    last: dict[str, int] = {}
    repeats = 0  # a window has one type less for each token of it that stood before in it
    for place, token in enumerate(tokens):
        before = last.get(token, -window)
        if place - before < window:
            repeats += min(before, windows - 1) - max(place - window, -1)
        last[token] = place
    return (windows * window - repeats) / (windows * window)


def _distinct_triples(tokens: Sequence[str]) -> float:
    triples = set(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(triples) / (len(tokens) - 2) if triples else 1.0


def _stems(text: str, without: frozenset[str]) -> set[str]:
    """Words of three letters and more without their endings; identifiers are split at underscores."""
    return {_STEM[word] for word in set(words(text.replace("_", " "))) - without if len(word) > 2}


def _stem(word: str) -> str:
    for suffix in ("ings", "ing", "ies", "ied", "ers", "es", "ed", "er", "ly", "s", "e", "y"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


_STEM = Remembered(_stem)


def _approach(value: float, scale: float) -> float:
    return 1 - math.exp(-value / scale)


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def _is_mark(character: str) -> bool:
    """Whether a character ends a sentence: a mark, or a pictograph in a mark's place."""
    return character in tuple(".!?…") or (character != "" and (character >= "\U0001f300" or "☀" <= character <= "➿"))


def _is_item(line: str) -> bool:
    return _LIST_ITEM.match(line) is not None
