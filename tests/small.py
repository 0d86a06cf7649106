"""A study of 100 rows in a world of few training steps: every stage for real, in minutes."""

from __future__ import annotations

import socket

SMALL: list[str] = []


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
