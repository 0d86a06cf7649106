"""What the rules and the score mean by a word, by code and by a quotation.

A row's rules and its score ask for the same things of the same text, one after the other: the last few are remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

WORD = re.compile(r"\w+")
FENCED_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]+`")
QUOTATION = re.compile(r'"[^"\n]*"|“[^”\n]*”')

Known = TypeVar("Known")

_LAST_TEXTS = 8
_ASCII = [chr(code) for code in range(128)]
_WORDS_ONLY = str.maketrans({character: character.lower() if WORD.match(character) else " " for character in _ASCII})


@lru_cache(_LAST_TEXTS)
def words(text: str) -> tuple[str, ...]:
    r"""Lowercased runs of `\w`: the tokens that texts are compared by."""
    if text.isascii():  # the same, four times as fast
        return tuple(text.translate(_WORDS_ONLY).split())
    return tuple(WORD.findall(text.lower()))


@lru_cache(_LAST_TEXTS)
def word_count(text: str) -> int:
    """Words as the requirements count them: separated by white space."""
    return len(text.split())


@lru_cache(_LAST_TEXTS)
def blank(text: str, *patterns: re.Pattern[str]) -> str:
    """Overwrite every match with spaces, so that what is left stays at its offset."""
    for pattern in patterns:
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    return text


class Remembered(dict[str, Known]):
    """What a function says of each token, looked up as `remembered[token]`.

    When full it forgets everything: `lru_cache`, which keeps an order, takes three times as long for a known token.
    """

    def __init__(self, function: Callable[[str], Known], tokens: int = 2**17) -> None:
        self._function, self._most = function, tokens

    def __missing__(self, token: str) -> Known:
        if len(self) >= self._most:
            self.clear()
        known = self[token] = self._function(token)
        return known
