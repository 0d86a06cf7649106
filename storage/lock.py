"""One run at a time in a workspace, on one machine: a lock that the kernel frees when its holder dies."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.files import fingerprint


class WorkspaceBusyError(RuntimeError):
    """Another process is at work in the workspace; the message names it and says what to do."""


@contextmanager
def only_one(root: Path, name: str, kind: str = "run") -> Iterator[None]:
    """Hold the workspace while the block runs.

    The lock file lies in the machine's temporary folder: on a mounted Drive locks are not reliable and never expire.
    Its descriptor is not inherited by child processes, so none of them can keep the lock of a killed parent.

    Args:
        root: the workspace's folder, under whatever path it is reached.
        name: what the holder is, for the message to whoever comes second.
        kind: locks of different kinds do not exclude each other.

    Raises:
        WorkspaceBusyError: another process, or another block of this one, holds it.
    """
    path = lock_path(root, kind)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, _, pid = os.pread(handle, 200, 0).decode(errors="replace").strip().rpartition(" ")
            raise WorkspaceBusyError(
                f"{holder or 'another run'} (pid {pid or 'unknown'}) is at work in {root}, where one {kind} at a time "
                f"can be; wait for it to end, or stop it with: kill {pid or 'PID'}"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{name} {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def lock_path(root: Path, kind: str = "run") -> Path:
    """Where a workspace's lock file lies; it is never deleted, since another process may be about to lock it."""
    return Path(tempfile.gettempdir()) / f"sit-{os.getuid()}-{kind}-{fingerprint(str(root.resolve()))}.lock"
