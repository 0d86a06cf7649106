"""The folder that holds a study, on Drive or anywhere; every path in it is relative, so that it can move."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from storage.drive import lost_with_machine, unreachable
from storage.files import write_text


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


def open_workspace(root: Path) -> Workspace:
    """A workspace that can be written to; on Colab, one that would be lost with the machine is told on stderr.

    Raises:
        WorkspaceError: it cannot; nothing is left behind.
    """
    root = root.expanduser().absolute()
    if reason := unreachable(root):
        raise WorkspaceError(f"--workspace: {reason}, or name another")
    ancestor = root
    try:
        while not ancestor.exists():
            ancestor = ancestor.parent
        probe = ancestor / f".write-probe-{os.getpid()}"
        if not ancestor.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        write_text(probe, "")
        probe.unlink()
    except OSError as error:
        raise WorkspaceError(
            f"--workspace: got {root}, takes a folder that can be written to "
            f"({ancestor}: {error.strerror or error}); name another, free some space or mount the Drive again"
        ) from None
    if lost_with_machine(root):
        print(f"{root} is on this machine's own disk and lost with it: mount Drive to keep the study", file=sys.stderr)
    return Workspace(root)
