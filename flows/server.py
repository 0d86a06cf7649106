"""The Prefect server a run reports to: a configured one, a live local one, or one of our own for as long as we run."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

START_SECONDS = 90
SERVICES = {  # without the first three the UI lags minutes behind a thousand tasks; the rest nothing here needs
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
}


class ServerError(RuntimeError):
    """No Prefect server can be reached or started; the message says what to do."""


def ensure_server(keep: bool) -> str:
    """The UI's address of a live server; one started here ends with this process unless `keep`.

    Raises:
        ServerError: a remote server does not answer, or a local one does not start.
    """
    api = os.environ.get("PREFECT_API_URL") or _profile_api()
    ui = api.removesuffix("/").removesuffix("/api")
    if _healthy(api):
        return ui
    address = urlsplit(api)
    if address.hostname not in ("127.0.0.1", "localhost"):
        raise ServerError(f"the Prefect server at {api} does not answer; check PREFECT_API_URL, or unset it")
    log = Path(tempfile.gettempdir()) / f"prefect-server-{address.port}.log"  # not on Drive: it is appended to
    server = _start(address.port or 4200, log, keep)
    if keep:
        atexit.register(print, f"Prefect UI stays at {ui}; stop it with: kill {server.pid}")
    else:
        # at exit, because Prefect sends its last logs and events when the interpreter ends, just before
        atexit.register(_stop, server)
    _await(api, server, log)
    return ui


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=15)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _start(port: int, log: Path, keep: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | SERVICES,
            start_new_session=True,  # a Ctrl-C is for the flow, which stops the server after its last report
            preexec_fn=None if keep else end_with_parent,
        )


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent ends, however it ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG: a killed run leaves no server behind


def _await(api: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _healthy(api):
            return
        if server.poll() is not None:
            break
        time.sleep(0.2)
    server.kill()
    port = urlsplit(api).port
    raise ServerError(
        f"no Prefect server came up at {api}; its last words are in {log}:\n{_tail(log)}\n"
        f"If another program uses port {port}, choose one: PREFECT_API_URL=http://127.0.0.1:4201/api"
    )


def _healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api.removesuffix('/')}/health", timeout=5) as answer:
            return bool(answer.read().strip() == b"true")
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _profile_api() -> str:
    from prefect.settings import get_current_settings

    return str(get_current_settings().api.url)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])
