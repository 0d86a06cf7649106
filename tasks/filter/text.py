"""What the rules and the score mean by a word, by code and by a quotation."""

from __future__ import annotations

import re

WORD = re.compile(r"\w+")
FENCED_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]+`")
QUOTATION = re.compile(r'"[^"\n]*"|“[^”\n]*”')


def words(text: str) -> list[str]:
    r"""Lowercased runs of `\w`: the tokens that texts are compared by."""
    return WORD.findall(text.lower())


def word_count(text: str) -> int:
    """Words as the requirements count them: separated by white space."""
    return len(text.split())


def blank(text: str, *patterns: re.Pattern[str]) -> str:
    """Overwrite every match with spaces, so that what is left stays at its offset."""
    for pattern in patterns:
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    return text
