"""Checksums of files that are no part of a workspace, such as a model of 16 GB: read once for as long as they stay."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage.files import read_json, sha256_file, write_json


def local_digests(files: Iterable[Path]) -> dict[Path, str]:
    """sha256 of each file; one whose path, size and time of change are those of before is not read again.

    The record lies in the machine's temporary folder: it tells of this machine's paths.
    """
    record = Path(tempfile.gettempdir()) / f"sit-{os.getuid()}-digests.json"
    known = _known(record)
    digests: dict[Path, str] = {}
    news = {}
    for path in files:
        status = path.stat()
        mark = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        if mark not in known:
            known[mark] = news[mark] = sha256_file(path)
        digests[path] = known[mark]
    if news:
        write_json(record, _known(record) | news)
    return digests


def _known(record: Path) -> dict[str, Any]:
    try:
        known = read_json(record)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
