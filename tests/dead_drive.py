"""Run a command where `/content/drive` is a mount, a dead one or none, in a mount namespace of its own (root, Linux).

`python -m tests.dead_drive MODE COMMAND ...`; MODE is `none`, `alive`, `dead`, or the path of a file: the mount, alive
at first, dies when that file is there.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time

from flows.server import end_with_parent

NEW_NAMESPACE, PRIVATE = 0x20000, 0x4000 | 0x40000  # CLONE_NEWNS; MS_REC | MS_PRIVATE
libc = ctypes.CDLL(None, use_errno=True)


def check(code: int) -> None:
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(kind: bytes, target: bytes, options: bytes = b"") -> None:
    os.makedirs(target, exist_ok=True)
    check(libc.mount(kind, target, kind, ctypes.c_ulong(0), options))


def mount_dead() -> None:
    """A FUSE mount whose daemon is gone: Errno 107 for whoever asks, as when Colab loses its Drive."""
    device = os.open("/dev/fuse", os.O_RDWR)
    check(libc.mount(b"drive", b"/content/drive", b"fuse", ctypes.c_ulong(0),
                     f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()))  # fmt: skip
    os.close(device)


def main(mode: str, command: list[str]) -> int:
    check(libc.unshare(NEW_NAMESPACE))
    check(libc.mount(None, b"/", None, ctypes.c_ulong(PRIVATE), None))
    mount(b"tmpfs", b"/content")
    os.makedirs("/content/drive/MyDrive")
    if mode == "dead":
        mount_dead()
    elif mode != "none":
        mount(b"tmpfs", b"/content/drive")
        os.makedirs("/content/drive/MyDrive")
    child = subprocess.Popen(command, preexec_fn=end_with_parent)
    if mode.startswith("/"):
        while child.poll() is None and not os.path.exists(mode):
            time.sleep(0.1)
        mount_dead()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
