"""The quality score: a weighted sum of five parts in [0, 1], each computed from the row's two texts alone.

It needs no model and no other row. Every constant below is a property of English text or of the format, with its
source; none is fitted to a data set. What the score cannot see is whether an answer is true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from configs.settings import QualityWeights
from tasks.filter.compiled import compiled
from tasks.filter.lexicon import (
    ABBREVIATIONS,
    IMPOSSIBLE_AFTER,
    NEVER_LAST,
    OPENERS,
    QUESTION_WORDS,
    REQUEST_VERBS,
    STOP_WORDS,
)
from tasks.filter.text import FENCED_CODE, INLINE_CODE, QUOTATION, blank, words
from tasks.filter.tokens import TOKENS, WORDS, Column, Ints, tokens, word_numbers

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
_REQUESTS = REQUEST_VERBS | QUESTION_WORDS | {"please"}
_FIRST_WORDS = re.compile(r"(?:\A\s*\S*\d\)\s|\A|[.!:\n])[^\w.!:\n]*(\w+)")  # of sentences, and after `1)`
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
    score = sum(getattr(weights, name) * value for name, value in parts.items())
    return round(score, DIGITS), {name: round(value, DIGITS) for name, value in parts.items()}


def completeness(output: str) -> float:
    """Whether the response ends as a finished text, and how far it is developed.

    0.6 times the ending (see `ending`), 0.15 if brackets and fences close, 0.25 (1 - e^(-words / 50)).
    """
    prose = blank(output, FENCED_CODE, INLINE_CODE)
    closed = output.count("```") % 2 == 0 and all(prose.count(a) <= prose.count(b) for a, b in ("()", "[]", "{}"))
    return 0.6 * ending(output) + 0.15 * closed + 0.25 * _approach(len(tokens(output)), DEVELOPED_OUTPUT)


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
    count = len(tokens(text))
    length = _approach(count, DEVELOPED_INSTRUCTION) * min(1.0, LONG_INSTRUCTION / max(count, 1))
    form = 0.5 * (text[:1].isupper() or not text[:1].isalpha()) + 0.5 * (text[-1:] in tuple('.?!:"”`)'))
    return 0.5 * _request(text) + 0.35 * length + 0.15 * form


def variety(output: str) -> float:
    """Lexical variety: the moving-average type-token ratio of 50 words, from 0.4 (0) to 1 (1)."""
    said = word_numbers(output)
    if not said.size:
        return 0.0
    low, high = VARIETY_RANGE
    return _clip((_moving_type_token_ratio(said, VARIETY_WINDOW) - low) / (high - low))


def relevance(instruction: str, output: str) -> float:
    """Square root of the share of the instruction's content words that the response takes up.

    The root, since a good answer repeats a topic's words and not all of the request's; words match by their stem. An
    instruction without content words tells nothing: 0.5.
    """
    asked, said = (word_numbers(text.replace("_", " ")) for text in (instruction, output))
    share = _share_taken_up(asked, said, _TOPICAL.values(), _STEM.values())
    return math.sqrt(share) if share >= 0 else 0.5


@compiled
def _share_taken_up(asked: Any, said: Any, topical: Any, stem: Any) -> float:
    """Share of the distinct stems of the most topical words asked that are said; -1 if no word is topical."""
    most = 1
    for word in asked:
        most = max(most, topical[word])
    wanted = np.unique(np.array([stem[word] for word in asked if topical[word] == most], np.int32))
    heard = np.unique(stem[said])
    taken_up = 0
    for one in wanted:
        place = np.searchsorted(heard, one)
        taken_up += place < len(heard) and heard[place] == one
    return taken_up / len(wanted) if len(wanted) else -1.0


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
    return artifacts * _distinct_triples(word_numbers(output)) * ordinary * order


def disorder(prose: str) -> float:
    """Share of places where words cannot stand as they do, as in shuffled text.

    Places are the words after a function word that some words cannot follow, the words after a sentence's end, and
    capitalised openers of sentences. Wrong are a follower that cannot be, a sentence that starts small, an opener in
    mid-sentence.
    """
    running = blank(prose, QUOTATION)
    starts_line = np.zeros(len(tokens(running)) + 1, np.bool_)
    if len(lines := running.splitlines()) > 1:
        starts_line[np.cumsum([len(line.split()) for line in lines])] = True
    places, wrong = _misplaced(tokens(running), starts_line, _STANDING.values())
    return float(wrong / (places + SALAD_PRIOR))


# What is known of how a token stands, in bits: whether it opens sentences, ends one, is a small word, is of letters, is
# in small letters; then which of the sets of words it cannot be followed by, and which of them it is in itself.
_OPENS, _ENDS, _IS_SMALL, _IS_ALPHA, _IS_LOWER = (1 << bit for bit in range(5))
_FOLLOWERS = tuple(dict.fromkeys(IMPOSSIBLE_AFTER.values()))
_SETS = len(_FOLLOWERS)
_FIRST_SET = 5


def _standing(token: str) -> int:
    bare = token.strip("*_()[],;:.!?'’")
    small = token.lower()
    facts = (
        bare in OPENERS,
        _is_mark(token.rstrip("*_)'’")[-1:]) and small not in ABBREVIATIONS,
        token.isalpha() and token.islower(),
        bare.isalpha(),
        bare.islower(),
        *(IMPOSSIBLE_AFTER.get(small) is followers for followers in _FOLLOWERS),
        *(bare in followers for followers in _FOLLOWERS),
    )
    return sum(fact << bit for bit, fact in enumerate(facts))


_STANDING = Column(TOKENS, _standing, np.int32)


@compiled
def _misplaced(numbers: Any, starts_line: Any, standing: Any) -> tuple[int, int]:
    """Places where a word can be wrong, and at how many it is."""
    places = wrong = 0
    for place in range(1, len(numbers)):
        if starts_line[place]:
            continue
        before, here = standing[numbers[place - 1]], standing[numbers[place]]
        impossible = (before >> _FIRST_SET) & ((1 << _SETS) - 1)
        if impossible:
            places += 1
            wrong += (here >> (_FIRST_SET + _SETS)) & impossible != 0
        elif before & _ENDS and here & _IS_ALPHA:
            places += 1
            wrong += here & _IS_LOWER != 0
        if here & _OPENS:
            places += 1
            wrong += before & _IS_SMALL != 0
    return places, wrong


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
    if any(word.lower() in _REQUESTS for word in _FIRST_WORDS.findall(text)):
        return 1.0
    return 0.7 if POLITE_REQUEST.search(text.lower().replace("’", "'")) else 0.0


def _moving_type_token_ratio(said: Ints, window: int) -> float:
    if len(said) <= window:
        return len(np.unique(said)) / len(said)
    windows = len(said) - window + 1
    return float((windows * window - _repeats(said, window)) / (windows * window))


@compiled
def _repeats(said: Any, window: int) -> int:
    """Tokens that stood before in a window, summed over all windows."""
    windows = len(said) - window + 1
    repeats = 0
    for place in range(1, len(said)):
        for before in range(place - 1, max(place - window, -1), -1):
            if said[before] == said[place]:
                repeats += min(before, windows - 1) - max(place - window, -1)
                break
    return repeats


def _distinct_triples(said: Ints) -> float:
    if len(said) < 3:
        return 1.0
    if len(WORDS) >= 2**21:  # three numbers no longer fit 63 bits
        said = np.unique(said, return_inverse=True)[1].astype(np.int32)
    triples = _triples(said)
    triples.sort()
    return float((1 + np.count_nonzero(triples[1:] != triples[:-1])) / len(triples))


@compiled
def _triples(said: Any) -> Any:
    triples = np.empty(len(said) - 2, np.int64)
    for place in range(len(triples)):
        triples[place] = (np.int64(said[place]) << 42) + (np.int64(said[place + 1]) << 21) + said[place + 2]
    return triples


def _stem(word: str) -> str:
    for suffix in ("ings", "ing", "ies", "ied", "ers", "es", "ed", "er", "ly", "s", "e", "y"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


def _topical(word: str) -> int:
    """How much a word tells of a topic: 0 not at all, 1 as a verb of requests, 2 fully."""
    if len(word) < 3 or word in STOP_WORDS:
        return 0
    return 1 if word in REQUEST_VERBS else 2


_STEM = Column(WORDS, lambda word: WORDS[_stem(word)], np.int32)
_TOPICAL = Column(WORDS, _topical, np.int8)


def _approach(value: float, scale: float) -> float:
    return 1 - math.exp(-value / scale)


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def _is_mark(character: str) -> bool:
    """Whether a character ends a sentence: a mark, or a pictograph in a mark's place."""
    return character in tuple(".!?…") or (character != "" and (character >= "\U0001f300" or "☀" <= character <= "➿"))


def _is_item(line: str) -> bool:
    return _LIST_ITEM.match(line) is not None
