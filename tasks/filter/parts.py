"""Judges parts of a file of anyone's rows in a process of its own, which imports no more than that takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.settings import FilterSettings
from storage.files import jsonl
from tasks.filter.judge import judge_batch
from tasks.filter.rule import Row
from tasks.filter.rules import row_rules

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class PartJudge:
    """Judges parts of a file; lives in a child process."""

    def __init__(self, source: str, settings: dict[str, Any]) -> None:
        """Take the file and the filter's settings as `FilterSettings.model_dump` gives them."""
        self._source = Path(source)
        ours = FilterSettings(**settings)
        self._rules, self._weights = row_rules(ours), ours.quality

    def judge(self, start: int, end: int) -> dict[str, Any]:
        """Judge the lines between two bytes, numbered from 0.

        Returns:
            `verdicts`, `ids` (of each line; None where it names none) and `malformed` (numbers and reasons).
        """
        with self._source.open("rb") as file:
            file.seek(start)
            lines = file.read(end - start).split(b"\n")
        if not lines[-1]:
            lines.pop()
        if start == 0 and lines:
            lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
        ids: list[str | None] = [None] * len(lines)
        malformed: list[tuple[int, str]] = []

        def rows() -> Iterator[tuple[int, Row]]:
            for number, line in enumerate(lines):
                if not line.strip():
                    continue
                try:
                    row = _parse(line)
                except (ValueError, RecursionError) as error:
                    malformed.append((number, _reason(error)))
                else:
                    ids[number] = str(row["id"]) if "id" in row else None
                    yield number, {"finish_reason": "stop", **row}

        verdicts = judge_batch(rows(), self._rules, self._weights)
        return {"verdicts": verdicts, "ids": ids, "malformed": malformed}


def _parse(line: bytes) -> dict[str, Any]:
    row = json.loads(line.decode(), parse_constant=_no_number)
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__} instead of an object with instruction and output")
    for field in ("instruction", "output"):
        if field not in row:
            raise ValueError(f"no {field!r}")
        if not isinstance(row[field], str):
            raise ValueError(f"{field!r} is a {type(row[field]).__name__} instead of a text")
    jsonl([row]).encode()  # half a surrogate pair is a text, and 1e999 a number, that no file can hold
    return row


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start + 1}"
    if isinstance(error, UnicodeEncodeError):
        return "half a surrogate pair, which is no character"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
