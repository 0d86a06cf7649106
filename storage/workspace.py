"""The folder that holds a study, on Drive or anywhere; every path in it is relative, so that it can move."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from storage.files import write_text

COLAB_DRIVE = Path("/content/drive/MyDrive")
NAME = "synthetic-instruction-tuner"


class WorkspaceError(OSError):
    """The workspace cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Workspace:
    """Where things lie (requirements 5.2)."""

    root: Path

    @property
    def raw(self) -> Path:
        """Raw pairs."""
        return self.root / "data" / "raw"

    @property
    def filtered(self) -> Path:
        """Kept and dropped rows, SFT splits."""
        return self.root / "data" / "filtered"

    @property
    def preference(self) -> Path:
        """Responses, pairs, DPO splits."""
        return self.root / "data" / "preference"

    @property
    def models(self) -> Path:
        """Adapters, and the demo's world."""
        return self.root / "models"

    @property
    def world(self) -> Path:
        """The demo's models, tokenizer and benchmarks."""
        return self.models / "world"

    @property
    def evaluation(self) -> Path:
        """Results, metrics, figures and the report."""
        return self.root / "evaluation"

    @property
    def hub(self) -> Path:
        """The hub's commits that the study uses."""
        return self.root / "hub.json"

    @property
    def state(self) -> Path:
        """Work in progress: shards, Prefect results, checkpoints; safe to delete once a stage is published."""
        return self.root / ".state"

    def adapter(self, method: str, seed: int) -> Path:
        """Where a method's adapter is published."""
        return self.models / method / f"seed-{seed}"

    def search(self, method: str) -> Path:
        """Where the search for a method's learning rate is published."""
        return self.models / method / "search"

    def relative(self, path: Path) -> str:
        """A path as files may name it: relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()


def default_root() -> Path:
    """The mounted Drive where there is one, else the folder `workspace`."""
    return COLAB_DRIVE / NAME if COLAB_DRIVE.is_dir() else Path("workspace")


def open_workspace(root: Path) -> Workspace:
    """A workspace that can be written to.

    Raises:
        WorkspaceError: it cannot; nothing is left behind.
    """
    root = root.expanduser().absolute()
    ancestor = next(folder for folder in (root, *root.parents) if folder.exists())
    probe = ancestor / f".write-probe-{os.getpid()}"
    try:
        if not ancestor.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        write_text(probe, "")
        probe.unlink()
    except OSError as error:
        raise WorkspaceError(
            f"--workspace: got {root}, takes a folder that can be written to "
            f"({ancestor}: {error.strerror or error}); name another, free some space or mount the Drive again"
        ) from None
    return Workspace(root)
