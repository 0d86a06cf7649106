"""What every generation engine answers: token ids in, completions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """One completion wanted.

    Attributes:
        prompt: token ids.
        seed: equal requests with equal seeds get equal noise, whatever else is in the batch.
        max_new_tokens: a limit below the call's, or none.
    """

    prompt: list[int]
    seed: int
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; temperature 0 is greedy, and no completion begins with a suppressed token."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    suppressed_first: tuple[int, ...] = ()

    def limit(self, request: Request) -> int:
        """New tokens the request may have."""
        return min(self.max_new_tokens, request.max_new_tokens or self.max_new_tokens)


@dataclass(frozen=True)
class Completion:
    """Token ids without the stop token, and why they ended."""

    tokens: list[int]
    finish_reason: FinishReason


@dataclass
class Work:
    """What an engine has done since it was loaded, for the eye of the user."""

    rows: int = 0
    tokens: int = 0


class Engine(Protocol):
    """A model that completes several calls' requests; it may mix their rows and end them in any order."""

    work: Work

    @property
    def calls(self) -> set[int]:
        """Calls under way; `step` has work while there are any."""

    def add(self, call: int, requests: list[Request], sampling: Sampling) -> None:
        """Take a call's requests."""

    def step(self) -> list[tuple[int, list[Completion]]]:
        """Work a little; return the calls that ended, each with one completion a request, in order."""

    def abandon(self) -> None:
        """After a failed step: give up the calls that it may have spoilt."""
