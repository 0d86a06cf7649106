"""Files that are either whole or absent: written aside, flushed, renamed, never edited."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.drive import unreachable


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, and its parents.

    Raises:
        OSError: it cannot be made, or Colab's Drive, which it belongs on, is no longer mounted: made on the machine's
            own disk, it would be lost and keep the Drive from being mounted again.
    """
    if not folder.is_dir():
        if reason := unreachable(folder):
            raise OSError(reason)
        folder.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a machine after a crash, sees all of it or none.

    Raises:
        OSError: no space, no permission, or the mount is gone; nothing is left at `path`.
    """
    make_folder(path.parent)
    aside = _aside(path)
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def jsonl(rows: Iterable[Any]) -> str:
    """Rows as JSON lines, keys in the order the rows give them."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON lines."""
    write_text(path, jsonl(rows))


def read_jsonl(path: Path) -> list[Any]:
    """Read every row of a JSON-lines file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield an empty sibling folder that becomes `path` when the block ends well, and vanishes when it does not."""
    make_folder(path.parent)
    aside = _aside(path)
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            old = _aside(path)
            path.rename(old)
            aside.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            aside.rename(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep_leftovers(root: Path, min_age_seconds: float) -> list[Path]:
    """Delete what killed processes had written aside; a younger one may belong to a process that is still at work."""
    young = time.time() - min_age_seconds
    leftovers = [path for path in root.rglob(".*.tmp") if path.stat().st_mtime < young]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return leftovers


def sha256_bytes(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any, length: int = 16) -> str:
    """First `length` hex digits of the sha256 of a JSON-shaped value; the same in every process and on every mount.

    Raises:
        TypeError: the value holds something that is not JSON (a set, a path, a tensor), whose order or place may vary.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return sha256_bytes(text.encode())[:length]


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network mounts cannot sync a folder; the rename is then as durable as the mount makes it
    finally:
        os.close(handle)
