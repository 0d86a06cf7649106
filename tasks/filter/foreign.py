"""Filters anyone's JSON lines by the study's rules; a line that is no row is reported and costs no other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from configs.settings import FilterSettings
from storage.files import folder_aside, jsonl, write_json, write_jsonl
from tasks.filter.judge import Verdicts, verdicts_of
from tasks.filter.parts import BYTE_ORDER_MARK, PartJudge
from tasks.filter.quality import PARTS
from tasks.filter.rules import row_rules
from tasks.filter.run import Judgement, conclude, with_names
from tasks.process import ModelPool

PART_BYTES = 8 * 2**20
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
    ids: list[str] = []
    malformed: list[dict[str, Any]] = []
    batches = _numbered(_judged_parts(source, settings), ids, malformed)
    judgement = conclude(batches, ids, row_rules(settings), settings)
    malformed.sort(key=lambda line: int(line["line"]))
    stats = {
        "rows": len(judgement.kept) + len(judgement.dropped),
        "kept": len(judgement.kept),
        "dropped": len(judgement.dropped),
        "waterfall": [step.as_json() for step in judgement.waterfall],
        "malformed": malformed,
    }
    with folder_aside(folder) as aside:
        _write_rows(source, aside, judgement, ids)
        write_jsonl(aside / "malformed.jsonl", malformed)
        write_json(aside / "stats.json", stats)
    return stats


def _judged_parts(source: Path, settings: FilterSettings) -> Iterator[dict[str, Any]]:
    """Judge the parts of a file in their order, by as many processes as there are processors."""
    arguments: dict[str, Any] = {"source": str(source), "settings": settings.model_dump()}
    parts = _parts(source)
    if len(parts) == 1:  # a child takes longer to start
        yield PartJudge(**arguments).judge(*parts[0])
        return
    workers = min(len(parts), os.cpu_count() or 1)
    target = f"{PartJudge.__module__}:{PartJudge.__name__}"
    with ThreadPoolExecutor(workers) as threads, ModelPool(target, arguments, threads=1, size=workers) as pool:
        calls = [threads.submit(pool.call, "judge", start=start, end=end) for start, end in parts]
        calls.reverse()
        while calls:
            yield calls.pop().result()


def _parts(source: Path) -> list[tuple[int, int]]:
    """Where each part of about `PART_BYTES`, of whole lines, starts and ends."""
    edges, size = [0], source.stat().st_size
    with source.open("rb") as file:
        while edges[-1] < size:
            file.seek(edges[-1] + PART_BYTES)
            file.readline()
            edges.append(min(file.tell(), size))
    return list(pairwise(edges)) or [(0, 0)]


def _numbered(parts: Iterable[dict[str, Any]], ids: list[str], malformed: list[dict[str, Any]]) -> Iterator[Verdicts]:
    """Number lines through the whole file and set aside rows whose id an earlier row has; fills `ids`, `malformed`."""
    line_of: dict[str, int] = {}
    for part in parts:
        first = len(ids)
        ids += [f"line-{number:09d}" if given is None else given for number, given in enumerate(part["ids"], first + 1)]
        malformed += [{"line": first + number + 1, "reason": reason} for number, reason in part["malformed"]]
        verdicts = verdicts_of(part["verdicts"])
        again = set()
        for number in sorted([row.number for row in verdicts["kept"]] + [row.number for row in verdicts["dropped"]]):
            row_id, line = ids[first + number], first + number + 1
            if line_of.setdefault(row_id, line) != line:
                again.add(number)
                malformed.append({"line": line, "reason": f"id {row_id!r} is already that of line {line_of[row_id]}"})
        yield {
            "kept": [row._replace(number=first + row.number) for row in verdicts["kept"] if row.number not in again],
            "dropped": [
                row._replace(number=first + row.number) for row in verdicts["dropped"] if row.number not in again
            ],
            "vocabulary": verdicts["vocabulary"],
        }


def _write_rows(source: Path, folder: Path, judgement: Judgement, ids: Sequence[str]) -> None:
    kept_rows = zip(judgement.kept.tolist(), judgement.scores.tolist(), strict=True)
    next_kept, scores = next(kept_rows, (-1, []))
    with (
        source.open("rb") as lines,
        (folder / "kept.jsonl").open("wb", 2**20) as kept,
        (folder / "dropped.jsonl").open("wb") as dropped,
    ):
        for number, line in enumerate(lines):
            if drop := judgement.dropped.get(number):
                record = {"line": number + 1, "id": ids[number], "rule": drop.rule, "evidence": drop.evidence}
                dropped.write(jsonl([record]).encode())
            elif number == next_kept:
                kept.write(_with_quality(line.removeprefix(BYTE_ORDER_MARK), scores))
                next_kept, scores = next(kept_rows, (-1, []))


_QUALITY = b', "quality": %r, "quality_parts": {' + ", ".join(f'"{part}": %r' for part in PARTS).encode() + b"}}\n"


def _with_quality(line: bytes, scores: Sequence[float]) -> bytes:
    if b'"quality' in line:
        return jsonl([json.loads(line) | with_names(scores)]).encode()
    return line.rstrip()[:-1] + _QUALITY % tuple(scores)  # the user's own bytes, and a tenth of the time
