"""Colab's Drive: whether it is mounted, and what that means for a path."""

from __future__ import annotations

import os
from pathlib import Path

COLAB = Path("/content")
DRIVE = COLAB / "drive"  # where Colab mounts it
NAME = "synthetic-instruction-tuner"


def default_root() -> Path:
    """The study's folder on Colab's Drive, also where its mount is dead, else the folder `workspace`."""
    try:
        DRIVE.stat()
        there = os.path.ismount(DRIVE)
    except FileNotFoundError:
        there = False
    except OSError:
        there = True
    return DRIVE / "MyDrive" / NAME if there else Path("workspace")


def unreachable(root: Path) -> str | None:
    """Why nothing under `root` can be reached, and what to do, in one line; None where it can be or is not made yet."""
    try:
        root.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # no mount that is dead; whether a folder can be made there is another question
    except OSError as error:
        return f"{root} is gone ({error.strerror}): mount the Drive again and run the same command"
    if DRIVE in Path(os.path.realpath(root)).parents and not os.path.ismount(DRIVE):
        return f"no Drive is mounted at {DRIVE}, which {root} needs: mount it and run the same command"
    return None


def lost_with_machine(root: Path) -> bool:
    """Whether a folder is on the own disk of one of Colab's machines."""
    real = Path(os.path.realpath(root))
    return COLAB in real.parents and not any(os.path.ismount(at) for at in (real, *real.parents) if COLAB in at.parents)
