"""The child's side of `tasks.process`: `python -m tasks.child`, JSON lines in, JSON lines out, gone with its parent."""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO

from tasks.out_of_memory import is_out_of_memory
from tasks.process import FIRST_CALL

PROGRESS_SECONDS = 1.0


def main() -> None:
    """Build what the first line asks for, then answer calls until end-of-file."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # the launcher watches over its processes, and they over it
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if int(os.environ.get("RANK", "0")):
        os.dup2(2, 1)  # the replies are the first process's
        _build([], **json.loads(os.environ[FIRST_CALL]))
        return
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up between two replies
    calls: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, calls), daemon=True).start()

    logging.getLogger("tasks").addHandler(_Warnings(replies))
    first = calls.get()
    built: list[Any] = []
    _answer(replies, first["call"], lambda: _build(built, **first["arguments"]))
    if not built:
        return
    model = built[0]
    if hasattr(model, "step"):
        _serve_engine(replies, model, calls)
    while True:
        call = calls.get()
        _answer(replies, call["call"], partial(getattr(model, call["method"]), **call["arguments"]))


def _serve_engine(replies: BinaryIO, engine: Any, calls: queue.Queue[dict[str, Any]]) -> None:
    told = time.monotonic()
    unanswered: set[int] = set()
    while True:
        with suppress(queue.Empty):
            call = calls.get(block=not unanswered)
            unanswered.add(call["call"])
            try:
                engine.submit(call["call"], call["method"], **call["arguments"])
            except Exception as error:  # noqa: BLE001 - every failure of the model is the parent's to handle
                _fail(replies, call["call"], error)
                unanswered.remove(call["call"])
        if not unanswered:
            continue
        try:  # also while calls wait to be taken: the first one's rows need not wait for the last
            ended = dict(engine.step())
            unanswered -= ended.keys()
            if time.monotonic() - told > PROGRESS_SECONDS or not unanswered:
                told = time.monotonic()
                _send(replies, {"progress": engine.progress})  # first: after the last result the parent may close us
            for call_number, result in ended.items():
                _send(replies, {"call": call_number, "result": result})
        except Exception as error:  # noqa: BLE001
            engine.abandon()
            for lost in sorted(unanswered - engine.calls):
                _fail(replies, lost, error)
                unanswered.remove(lost)


class _Warnings(logging.Handler):
    """Passes our warnings on to the parent, since nobody reads what a child prints unless it fails."""

    def __init__(self, replies: BinaryIO) -> None:
        super().__init__(logging.WARNING)
        self._replies = replies

    def emit(self, record: logging.LogRecord) -> None:
        _send(self._replies, {"warning": record.getMessage()})


def _read(source: BinaryIO, calls: queue.Queue[dict[str, Any]]) -> None:
    for line in source:
        calls.put(json.loads(line))
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1  # else the launcher must see a failure, and end the others
    # the parent is gone or done: stop at once, whatever is under way, so that nobody writes twice
    os._exit(0 if alone else 1)


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)


def _build(built: list[Any], target: str, arguments: dict[str, Any]) -> Any:
    module, _, name = target.partition(":")
    made = getattr(importlib.import_module(module), name)(**arguments)
    built.append(made)
    return made if isinstance(made, (dict, list)) else getattr(made, "device", None)


def _answer(replies: BinaryIO, call: int, work: Any) -> None:
    try:
        result = work()
    except Exception as error:  # noqa: BLE001
        _fail(replies, call, error)
    else:
        _send(replies, {"call": call, "result": result})


def _fail(replies: BinaryIO, call: int, error: Exception) -> None:
    text = "".join(traceback.format_exception(error))[-4000:]
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    _send(replies, {"call": call, "error": text, "reason": reason, "out_of_memory": is_out_of_memory(error)})


def _send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
