"""Folders that prove they are whole: a seal lists the sha256 of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.files import read_json, sha256_file, write_json

SEAL = "seal.json"


def seal(folder: Path, note: dict[str, Any] | None = None) -> None:
    """Write the folder's seal; `note` is kept with it."""
    files = {path.relative_to(folder).as_posix(): sha256_file(path) for path in sealed_files(folder)}
    write_json(folder / SEAL, {"files": files, "note": note or {}})


def sealed_files(folder: Path) -> list[Path]:
    """Every file but the seal, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)


def read_seal(folder: Path) -> dict[str, Any] | None:
    """The note of a folder whose every file passes its checksum, or None."""
    try:
        content = read_json(folder / SEAL)
        if not content["files"] or any(
            sha256_file(folder / name) != digest for name, digest in content["files"].items()
        ):
            return None
        note: dict[str, Any] = content["note"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return note
