"""Rows of several calls under way at once: what each has drawn, and which calls are whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.engines.protocol import Completion, FinishReason, Request, Sampling


@dataclass
class Row:
    """A row on its way: what was asked, what was drawn so far."""

    call: int
    number: int
    request: Request
    sampling: Sampling
    drawn: list[int] = field(default_factory=list)

    @property
    def context(self) -> list[int]:
        """Tokens that the next one follows."""
        return self.request.prompt + self.drawn

    @property
    def limit(self) -> int:
        """New tokens the row may have."""
        return self.sampling.limit(self.request)


class OpenCalls:
    """Calls that wait for some of their rows."""

    def __init__(self) -> None:
        """Begin with none."""
        self._completions: dict[int, list[Completion | None]] = {}

    @property
    def numbers(self) -> set[int]:
        """The open calls."""
        return set(self._completions)

    def open(self, call: int, rows: Sequence[object]) -> None:
        """Wait for a call's rows.

        Raises:
            ValueError: there are none.
        """
        if not rows:
            raise ValueError("a call without requests would never end")
        self._completions[call] = [None] * len(rows)

    def end(self, row: Row, tokens: list[int], reason: FinishReason) -> list[tuple[int, list[Completion]]]:
        """End a row; its call with all completions if it was the last one, else nothing."""
        completions = self._completions[row.call]
        completions[row.number] = Completion(tokens, reason)
        whole = [completion for completion in completions if completion]
        if len(whole) < len(completions):
            return []
        del self._completions[row.call]
        return [(row.call, whole)]

    def forget(self, call: int) -> None:
        """Wait for none of a call's rows."""
        del self._completions[call]

    def clear(self) -> None:
        """Forget every call."""
        self._completions.clear()
