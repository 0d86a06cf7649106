"""Training checkpoints that survive a kill and a half-synced Drive: written aside, renamed, verified before use."""

from __future__ import annotations

import shutil
from pathlib import Path

from storage.files import folder_aside, read_json
from storage.seals import read_seal, seal


def seal_checkpoint(source: Path, folder: Path, step: int, keep: int) -> Path:
    """Copy a trainer's checkpoint folder to `folder/checkpoint-STEP` with a checksum of every file; keep the newest.

    Checkpoints of later steps go: they were torn, or the run would have gone on from them.

    Raises:
        OSError: the copy failed (disk full, mount gone); earlier checkpoints are untouched.
    """
    target = folder / f"checkpoint-{step}"
    with folder_aside(target) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True)
        seal(aside)
    found = _checkpoints(folder)
    newer = [path for path in found if checkpoint_step(path) > step]
    for old in newer + found[len(newer) + keep :]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose every file is there and passes its checksum, or None."""
    return next((path for path in _checkpoints(folder) if _whole(path)), None)


def checkpoint_step(path: Path) -> int:
    """The optimizer step of a checkpoint folder."""
    return int(path.name.rpartition("-")[2])


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=checkpoint_step, reverse=True)


def _whole(path: Path) -> bool:
    if read_seal(path) is None:
        return False
    try:
        return bool(read_json(path / "trainer_state.json")["global_step"] == checkpoint_step(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False
