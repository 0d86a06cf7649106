"""`python -m flows.filter --input`: malformed lines are told by number and reason and cost no good row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.filter import MALFORMED_LINES, main
from storage.files import read_json, read_jsonl
from tests.unit.test_filter_run import made_rows

GOOD = made_rows(4)


def write(path: Path, *lines: Any) -> Path:
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"instruction": "a", "output": "b", "quality": 1, "score": 1e999}', "not JSON compliant"),
        (b'{"instruction": "a"', "not JSON"),
        (b"not json at all", "not JSON"),
        (b"[1, 2]", "a list instead of an object"),
        (b'{"instruction": "a"}', "no 'output'"),
        (b'{"instruction": null, "output": "b"}', "'instruction' is a NoneType"),
        (b'{"instruction": "a", "output": "b", "score": NaN}', "NaN is no JSON number"),
        (b'{"instruction": "\xff", "output": "b"}', "not UTF-8"),
        (b'{"instruction": "\\ud800", "output": "b"}', "surrogate"),
        (b"[" * 200_000, "nested too deeply"),
        (json.dumps(GOOD[0]).encode(), "already that of line 1"),
    ],
)
def test_malformed_line_is_told_and_good_rows_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, reason: str
) -> None:
    """The exit code says that a line was lost, the message which and why; rows before and after it are filtered."""
    source = write(tmp_path / "rows.jsonl", GOOD[0], line, b"", GOOD[1])
    assert main(["--input", str(source)]) == MALFORMED_LINES
    told = capsys.readouterr().err
    assert f"{source}:2: " in told and reason in told
    folder = tmp_path / "rows-filtered"
    assert [row["id"] for row in read_jsonl(folder / "kept.jsonl")] == [GOOD[0]["id"], GOOD[1]["id"]]
    assert [row["line"] for row in read_jsonl(folder / "malformed.jsonl")] == [2]


def test_sound_file_ends_with_zero_and_keeps_every_field(tmp_path: Path) -> None:
    """Rows need only the two texts; what else they carry stays, and the waterfall accounts for all of them."""
    rows = [{"instruction": row["instruction"], "output": row["output"], "note": {"n": 1}} for row in GOOD]
    source = write(tmp_path / "rows.jsonl", *rows, {"instruction": "Say something.", "output": "Short."})
    assert main(["--input", str(source), "--output", str(tmp_path / "out")]) == 0
    assert all(row["note"] == {"n": 1} for row in read_jsonl(tmp_path / "out" / "kept.jsonl"))
    stats = read_json(tmp_path / "out" / "stats.json")
    assert stats["rows"] == stats["kept"] + sum(step["dropped"] for step in stats["waterfall"]) == 5
    assert [(drop["line"], drop["rule"]) for drop in read_jsonl(tmp_path / "out" / "dropped.jsonl")] == [(5, "length")]


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts judged in several processes give the files of one part, line numbers and repeated ids included."""
    rows = [{key: row[key] for key in ("instruction", "output")} | {"id": row["id"]} for row in made_rows(120)]
    rows[90]["id"] = rows[10]["id"]
    del rows[50]["id"]
    lines: list[Any] = [b"\xef\xbb\xbf" + json.dumps(rows[0]).encode(), *rows[1:60], b"", b"no row", *rows[60:]]
    source = write(tmp_path / "rows.jsonl", *lines)
    assert main(["--input", str(source), "--output", str(tmp_path / "one")]) == MALFORMED_LINES
    monkeypatch.setattr("tasks.filter.foreign.PART_BYTES", 4000)
    assert main(["--input", str(source), "--output", str(tmp_path / "many")]) == MALFORMED_LINES
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "many" / file.name).read_bytes() == file.read_bytes() != b""
    assert [line["line"] for line in read_jsonl(tmp_path / "many" / "malformed.jsonl")] == [62, 93]


def test_empty_file_has_an_empty_result(tmp_path: Path) -> None:
    """Nothing in, nothing out, and no error."""
    source = write(tmp_path / "rows.jsonl")
    assert main(["--input", str(source)]) == 0
    assert read_jsonl(tmp_path / "rows-filtered" / "kept.jsonl") == []
    assert read_json(tmp_path / "rows-filtered" / "stats.json")["waterfall"][-1]["out"] == 0


def test_foreign_folder_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped --output must not cost somebody's files; an earlier result is replaced."""
    source = write(tmp_path / "rows.jsonl", GOOD[0])
    precious = tmp_path / "thesis" / "chapter.txt"
    precious.parent.mkdir()
    precious.write_text("years")
    assert main(["--input", str(source), "--output", str(precious.parent)]) == 1
    assert precious.read_text() == "years" and "--output" in capsys.readouterr().err
    assert [main(["--input", str(source)]) for _ in range(2)] == [0, 0]


def test_missing_file_and_wrong_setting_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are told before any work."""
    assert main(["--input", str(tmp_path / "none.jsonl")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["--input", "x.jsonl", "--filter.min_wrods", "3"]) == 2
