"""Rows made in batches, each batch one immutable shard that counts only if it passes its checksum.

A `RowStore` belongs to one key (what makes the rows). Asking it for row ids plans batches over the rows that are
still missing, so that a killed run goes on with the same batches and ends with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.files import fingerprint, jsonl, sha256_bytes, write_text

Row = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """What a task returns about the shard it made: a few bytes, checked against the disk before it is believed."""

    path: str
    rows: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """The manifest as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Batch:
    """The rows one task makes."""

    name: str
    ids: tuple[str, ...]


def write_shard(path: Path, rows: Sequence[Row]) -> Shard:
    """Write rows under a header line that holds their count and sha256."""
    body = jsonl(rows)
    digest = sha256_bytes(body.encode())
    write_text(path, json.dumps({"rows": len(rows), "sha256": digest}) + "\n" + body)
    return Shard(path.name, len(rows), digest)


def read_shard(path: Path) -> list[Row] | None:
    """Rows of a shard, or None where it is absent, torn or altered."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        header = json.loads(head)
        if header["sha256"] != sha256_bytes(body):
            return None
        rows = [json.loads(line) for line in body.splitlines()]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    return rows if len(rows) == header["rows"] else None


def check_shard(path: Path) -> Shard | None:
    """The shard's manifest if it is whole on disk, else None."""
    rows = read_shard(path)
    if rows is None:
        return None
    return Shard(path.name, len(rows), json.loads(path.read_bytes().partition(b"\n")[0])["sha256"])


class RowStore:
    """Shards of rows that share one key; each row has an `id`."""

    def __init__(self, folder: Path) -> None:
        """`folder` need not exist yet."""
        self.folder = folder

    def plan(self, ids: Iterable[str], rows_per_batch: int) -> list[Batch]:
        """Batches that complete the store for `ids`, the same ones however often it is asked and killed.

        Rows are grouped first and left out where they are on disk second, so that a group is whole or as it was. Ids
        asked for twice are made once.
        """
        wanted = list(dict.fromkeys(ids))
        have = self.rows()
        groups = [wanted[i : i + rows_per_batch] for i in range(0, len(wanted), rows_per_batch)]
        missing = [[row_id for row_id in group if row_id not in have] for group in groups]
        return [Batch(f"{fingerprint(group)}.jsonl", tuple(group)) for group in missing if group]

    def path(self, batch: Batch) -> Path:
        """Where a batch's shard lies."""
        return self.folder / batch.name

    def done(self, batch: Batch) -> Shard | None:
        """The batch's manifest if its shard is whole and holds exactly its ids."""
        rows = read_shard(self.path(batch))
        if rows is None or [row["id"] for row in rows] != list(batch.ids):
            return None
        return check_shard(self.path(batch))

    def write(self, batch: Batch, rows: Sequence[Row]) -> Shard:
        """Persist a batch.

        Raises:
            ValueError: the rows are not exactly the batch's, in its order.
        """
        ids = [row["id"] for row in rows]
        if ids != list(batch.ids):
            raise ValueError(
                f"shard {batch.name} wants {len(batch.ids)} rows {batch.ids[:2]}…, got {len(ids)} {ids[:2]}…"
            )
        return write_shard(self.path(batch), rows)

    def rows(self) -> dict[str, Row]:
        """Every row of every whole shard, by id."""
        found: dict[str, Row] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for row in read_shard(path) or []:
                found.setdefault(row["id"], row)
        return found

    def collect(self, ids: Iterable[str]) -> list[Row]:
        """The rows of `ids`, in that order.

        Raises:
            LookupError: some are not there; the message counts them.
        """
        wanted = list(ids)
        have = self.rows()
        missing = [row_id for row_id in wanted if row_id not in have]
        if missing:
            raise LookupError(f"{len(missing)} of {len(wanted)} rows are not in {self.folder.name}: {missing[:3]}…")
        return [have[row_id] for row_id in wanted]
