"""How far the filter's rules agree with a careful reader of real rows: `tests/labels` says what was labelled, and how.

    python -m tests.benchmarks.real_rows FOLDER     # of the JSON-lines files that the labels name

Precision of a rule: of the labelled rows that it drops now, the share that should go for its reason. The last line: of
the rows drawn as kept, the share that should have gone and is kept now.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from configs.settings import FilterSettings
from storage.files import read_jsonl, write_jsonl
from tasks.filter.foreign import filter_file
from tests.benchmarks.generation import print_table

LABELS = Path(__file__).parents[1] / "labels" / "real_rows.jsonl"
REASONS = {"refusal": {"refusal", "refusal_then_helps"}}


def main() -> int:
    """Filter all rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    labels = read_jsonl(LABELS)
    found = dropped_by(parser.parse_args().folder, labels)
    verdicts = [found[row["file"], row["line"]] for row in labels]
    table = [["rule", "labelled rows it drops", "right", "precision"]]
    for rule in sorted({rule for rule in verdicts if rule}):
        judged = [row for row, verdict in zip(labels, verdicts, strict=True) if verdict == rule]
        right = sum(bool(REASONS.get(rule, {rule}) & set(row["gone"])) for row in judged)
        table.append([rule, str(len(judged)), str(right), f"{right / len(judged):.2f}"])
    print_table(table)
    drawn = [(row, verdict) for row, verdict in zip(labels, verdicts, strict=True) if row["drawn"] == "kept"]
    missed = sum(bool(row["gone"]) and verdict is None for row, verdict in drawn)
    print(f"kept rows that should have gone: {missed} of {len(drawn)}, {missed / len(drawn):.2%}")
    return 0


def dropped_by(folder: Path, labels: list[dict[str, Any]]) -> dict[tuple[str, int], str | None]:
    """The rule that drops each labelled row among all rows of its folder; None where it is kept.

    Raises:
        ValueError: a line is not the one that was labelled.
    """
    rows, places = [], []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
            rows.append(json.loads(line) | {"id": f"{len(rows):06}"})
            places.append((path.name, number, hashlib.sha256(line.encode()).hexdigest()[:16]))
    known = {(name, number): digest for name, number, digest in places}
    for row in labels:
        if known.get((row["file"], row["line"])) != row["hash"]:
            raise ValueError(f"{row['file']}:{row['line']} is not the line that was labelled")
    with tempfile.TemporaryDirectory(prefix="real-rows-") as scratch:
        write_jsonl(Path(scratch) / "rows.jsonl", rows)
        filter_file(Path(scratch) / "rows.jsonl", Path(scratch) / "out", FilterSettings())
        dropped = {row["id"]: row["rule"] for row in read_jsonl(Path(scratch) / "out" / "dropped.jsonl")}
    return {(name, number): dropped.get(f"{place:06}") for place, (name, number, _) in enumerate(places)}


if __name__ == "__main__":
    sys.exit(main())
