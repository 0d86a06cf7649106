"""Child processes that own a model: memory is really freed, a crash is an error to retry, no orphan goes on writing.

`run_in_child("tasks.demo.models:train_trunk", {...})` calls one function in a fresh process and returns its result.
`ModelProcess("tasks.engines.hf:HfEngine", {...})` keeps an object alive in a process and sends it calls.
Both speak JSON lines over pipes; a child whose parent is gone reads end-of-file on its input and exits at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tqdm import tqdm

from tasks.out_of_memory import says_out_of_memory

PROJECT = Path(__file__).resolve().parents[1]
# glibc gives large blocks back to the system at every free; a training step then spends 7% of its time on page faults
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_TOP_PAD_": str(2**26),
}
PYTHON = (sys.executable, "-m", "tasks.child")
FIRST_CALL = "TASKS_FIRST_CALL"
# what a launcher tells its processes: a study started by one must not hand it on to its children
LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", FIRST_CALL)


class ChildError(RuntimeError):
    """A child process failed; the message ends with what it last said, `reason` is one line without a traceback."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message.partition("\n")[0]


class ChildOutOfMemoryError(ChildError):
    """A child ran out of memory."""


_alive: weakref.WeakSet[ModelProcess] = weakref.WeakSet()
_ending = threading.Event()


class ModelProcess:
    """An object living in a child process.

    Each public method of the object can be called with JSON-shaped keyword arguments; an object with a `step` method
    is an engine: it is handed calls as they come and says by itself which have ended.
    """

    def __init__(
        self,
        target: str,
        arguments: dict[str, Any],
        *,
        threads: int,
        launcher: Sequence[str] = PYTHON,
        processes: int = 1,
        online: bool = False,
    ) -> None:
        """Start the child and send it the construction of `target` ("module:Name").

        Args:
            target: class, or function, to call with `arguments`.
            arguments: JSON-shaped keyword arguments.
            threads: CPU threads of the child.
            launcher: command that starts `tasks.child`, such as `accelerate launch -m tasks.child`.
            processes: how many of it the launcher starts; the first answers, the others only do the same.
            online: whether it may ask the hub; what a stage reads is fetched before, and without a network each
                question would be repeated for minutes.
        """
        if _ending.is_set():
            raise ChildError("the run is ending")
        self._log = tempfile.NamedTemporaryFile("w+b", prefix="child-", suffix=".log")  # noqa: SIM115 - closed in close
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCH} | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            **KEEP_FREED_MEMORY,
            "PYTHONHASHSEED": "0",
            **({} if online else {"HF_HUB_OFFLINE": "1"}),
            **({FIRST_CALL: json.dumps({"target": target, "arguments": arguments})} if processes > 1 else {}),
            "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        self._process = subprocess.Popen(
            launcher,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # a Ctrl-C is for the parent, which ends its children in order
        )
        _alive.add(self)
        self._processes = processes
        self._lock = threading.Lock()
        self._calls: dict[int, Future[Any]] = {}
        self._next = 0
        self.progress: dict[str, int] = {}
        self._dead: ChildError | None = None
        threading.Thread(target=self._listen, daemon=True).start()
        self.ready = self.submit("", target=target, arguments=arguments)

    def submit(self, method: str, **arguments: Any) -> Future[Any]:
        """Send a call; the future ends with its result, or with a `ChildError`."""
        future: Future[Any] = Future()
        with self._lock:
            if self._dead:
                raise self._dead
            self._calls[self._next] = future
            message = json.dumps({"call": self._next, "method": method, "arguments": arguments}) + "\n"
            self._next += 1
            # the child is gone or killed: the listener fails every open call with what it last said
            with suppress(OSError, ValueError):
                _pipe(self._process.stdin).write(message.encode())
                _pipe(self._process.stdin).flush()
        return future

    def call(self, method: str, **arguments: Any) -> Any:
        """Send a call and wait for its result.

        Raises:
            ChildError: the child failed in the call, or died.
        """
        return self.submit(method, **arguments).result()

    @property
    def alive(self) -> bool:
        """Whether calls can still be sent."""
        return self._dead is None

    def close(self) -> None:
        """Close the child's input, which ends it, and wait; a child that lingers is killed."""
        with suppress(BrokenPipeError):  # it died with a call unread
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._log.close()

    def kill(self) -> None:
        """End the child and what it started at once; open calls fail."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # torch's launcher starts each of several processes in a session of its own: they end with their input
        with suppress(OSError):
            _pipe(self._process.stdin).close()

    def __enter__(self) -> ModelProcess:
        """Use as a context manager: the child ends with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child."""
        self.close()

    def _listen(self) -> None:
        try:
            self._read_replies()
        finally:
            self._end()

    def _read_replies(self) -> None:
        for line in _pipe(self._process.stdout):
            if not line.endswith(b"\n"):
                return  # killed in the middle of a reply
            reply = json.loads(line)
            if "progress" in reply:
                self.progress = reply["progress"]
                continue
            if "warning" in reply:
                tqdm.write(f"warning: {reply['warning']}", file=sys.stderr)
                continue
            with self._lock:
                future = self._calls.pop(reply["call"])
            if "error" in reply:
                failure = ChildOutOfMemoryError if reply["out_of_memory"] else ChildError
                future.set_exception(failure(reply["error"], reply["reason"]))
            else:
                future.set_result(reply["result"])

    def _end(self) -> None:
        code = self._process.wait()
        with self._lock:
            # one of several processes, whose error nobody could be told; the launcher has a word about each of them
            tail = self._tail(3000 * self._processes)
            failure = ChildOutOfMemoryError if says_out_of_memory(tail) else ChildError
            self._dead = failure(f"the child process ended with code {code}\n{tail}")
            waiting, self._calls = self._calls, {}
        for future in waiting.values():
            future.set_exception(self._dead)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def _tail(self, limit: int) -> str:
        try:
            return Path(self._log.name).read_bytes()[-limit:].decode(errors="replace")
        except OSError:
            return ""


class ModelPool:
    """Children with the same model, started when first called, replaced when they die.

    A call goes to a child that is free; with one child it goes there at once, whatever it is doing, so that an engine
    can mix the rows of several calls.
    """

    def __init__(self, target: str, arguments: dict[str, Any], *, threads: int, size: int = 1) -> None:
        """Nothing is started yet: work that is all on disk loads no model."""
        self._target, self._arguments, self._threads = target, arguments, threads
        self._children: list[ModelProcess | None] = [None] * size
        self._locks = [threading.Lock() for _ in range(size)]
        self._load = [0] * size
        self._failed: list[ChildError | None] = [None] * size
        self._choice = threading.Lock()
        self._closed = False
        self.device: dict[str, Any] = {}
        """What the newest child computes on, as `tasks.device.computing_device` tells."""
        self._replaced: Counter[str] = Counter()
        self._lapped = time.monotonic()

    def call(self, method: str, **arguments: Any) -> Any:
        """Send a call to the least busy child and wait.

        Raises:
            ChildError: the call failed, or the child died; the next call starts a new one.
        """
        with self._choice:
            slot = self._load.index(min(self._load))
            self._load[slot] += 1
        try:
            return self._child(slot).call(method, **arguments)
        finally:
            with self._choice:
                self._load[slot] -= 1

    @property
    def progress(self) -> Counter[str]:
        """What the children say they did, the dead ones included: for an engine its rows and tokens."""
        total = self._replaced.copy()
        for child in self._children:
            total.update(child.progress if child else {})
        return total

    def lap(self) -> float:
        """Seconds of work since the last lap, or since the newest child had loaded its model."""
        with self._choice:
            seconds, self._lapped = time.monotonic() - self._lapped, time.monotonic()
            return seconds

    def start(self) -> None:
        """Start every child now, as the first calls would."""
        for slot in range(len(self._children)):
            self._child(slot)

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that are alive."""
        return [child.pid for child in self._children if child and child.alive]

    def close(self) -> None:
        """End every child, and start no other."""
        self._closed = True
        for slot, child in enumerate(self._children):
            if child:
                child.close()
                self._replaced.update(child.progress)
                self._children[slot] = None

    def __enter__(self) -> ModelPool:
        """Use as a context manager: the children end with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every child."""
        self.close()

    def _child(self, slot: int) -> ModelProcess:
        before = self._failed[slot]
        with self._locks[slot]:
            child = self._children[slot]
            if child is None or not child.alive:
                if self._closed:
                    raise ChildError("the run is ending")
                failed = self._failed[slot]
                if failed and failed is not before:
                    raise failed  # it failed to start while this call waited for it
                if child:
                    self._replaced.update(child.progress)
                    child.close()
                child = ModelProcess(self._target, self._arguments, threads=self._threads)
                self._children[slot] = child
                try:
                    self.device = child.ready.result() or self.device
                except ChildError as error:
                    self._failed[slot] = error
                    self._children[slot] = None
                    child.close()
                    raise
                self.lap()
            return child


def end_children() -> None:
    """End every child at once and let no other start: what they had under way is given up, as in a kill."""
    _ending.set()
    for child in list(_alive):
        child.kill()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_in_child(
    target: str,
    arguments: dict[str, Any],
    *,
    threads: int,
    launcher: Sequence[str] = PYTHON,
    processes: int = 1,
    online: bool = False,
) -> dict[str, Any]:
    """Call a function in a fresh process and return its JSON-shaped result; the arguments are `ModelProcess`'s.

    Raises:
        ChildError: it failed or died.
    """
    started = ModelProcess(target, arguments, threads=threads, launcher=launcher, processes=processes, online=online)
    with started as child:
        result: dict[str, Any] = child.ready.result()
        return result


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ChildError("the child was started without pipes")
    return pipe
