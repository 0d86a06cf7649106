"""Filters anyone's JSON lines by the study's rules; a line that is no row is reported and costs no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.settings import FilterSettings
from storage.files import folder_aside, jsonl, write_json, write_jsonl
from tasks.filter.run import judge_rows

OUTPUTS = frozenset({"kept.jsonl", "dropped.jsonl", "malformed.jsonl", "stats.json"})


class ForeignRowsError(ValueError):
    """The file or the folder of the result cannot be used; the message says why and what to do."""


def filter_file(source: Path, folder: Path, settings: FilterSettings) -> dict[str, Any]:
    """Judge each row of a file and publish kept, dropped and malformed lines with the statistics.

    A row is an object with the texts `instruction` and `output`; an `id` (its line if absent), a `finish_reason`
    (`stop` if absent) and further fields may stand beside them. Kept rows keep every field.

    Args:
        source: JSON lines in UTF-8; blank lines are passed over.
        folder: takes kept.jsonl, dropped.jsonl, malformed.jsonl and stats.json; an earlier result is replaced whole.
        settings: thresholds and weights.

    Returns:
        The statistics: `rows`, `kept`, `dropped`, `waterfall` and, by `line` and `reason`, `malformed`.

    Raises:
        ForeignRowsError: no such file, or the folder holds something that is no earlier result.
        OSError: the file cannot be read, or the result not be written; an earlier result is still there.
    """
    if not source.is_file():
        raise ForeignRowsError(f"--input {source}: no such file; give a JSON-lines file")
    if folder.exists() and (not folder.is_dir() or {entry.name for entry in folder.iterdir()} - OUTPUTS):
        raise ForeignRowsError(f"{folder} exists and is no result of this command; name another with --output")
    rows, malformed = _read(source)
    judgement = judge_rows([_judged(row, row_id) for row_id, (_, row) in rows.items()], settings)
    stats = {
        "rows": len(rows),
        "kept": len(judgement.survivors),
        "dropped": len(judgement.dropped),
        "waterfall": [step.as_json() for step in judgement.waterfall],
        "malformed": malformed,
    }
    kept = []
    for survivor in judgement.survivors:
        score, parts = judgement.scored[survivor["id"]]
        kept.append((rows[survivor["id"]], {"quality": score, "quality_parts": parts}))
    kept.sort(key=lambda pair: pair[0][0])
    dropped = [{"line": rows[drop["id"]][0], **drop} for drop in judgement.dropped]
    with folder_aside(folder) as aside:
        write_jsonl(aside / "kept.jsonl", ({**row, **score} for (_, row), score in kept))
        write_jsonl(aside / "dropped.jsonl", sorted(dropped, key=lambda drop: int(drop["line"])))
        write_jsonl(aside / "malformed.jsonl", malformed)
        write_json(aside / "stats.json", stats)
    return stats


def _read(source: Path) -> tuple[dict[str, tuple[int, dict[str, Any]]], list[dict[str, Any]]]:
    """Line number and row by id, and what is wrong with the other lines."""
    rows: dict[str, tuple[int, dict[str, Any]]] = {}
    malformed = []
    for number, line in _lines(source):
        try:
            row = _parse(line)
            row_id = str(row.get("id", f"line-{number:09d}"))
            if row_id in rows:
                raise ValueError(f"id {row_id!r} is already that of line {rows[row_id][0]}")
        except (ValueError, RecursionError) as error:
            malformed.append({"line": number, "reason": _reason(error)})
        else:
            rows[row_id] = number, row
    return rows, malformed


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield number, text


def _parse(line: bytes) -> dict[str, Any]:
    row = json.loads(line.decode(), parse_constant=_no_number)
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__} instead of an object with instruction and output")
    for field in ("instruction", "output"):
        if field not in row:
            raise ValueError(f"no {field!r}")
        if not isinstance(row[field], str):
            raise ValueError(f"{field!r} is a {type(row[field]).__name__} instead of a text")
    jsonl([row]).encode()  # half a surrogate pair is a text that no file can hold
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


def _judged(row: dict[str, Any], row_id: str) -> dict[str, Any]:
    return {
        "id": row_id,
        "instruction": row["instruction"],
        "output": row["output"],
        "finish_reason": row.get("finish_reason", "stop"),
    }
