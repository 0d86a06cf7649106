"""What every generation engine answers: token ids in, completions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """One completion wanted; equal requests get equal noise, whatever else is in the batch."""

    prompt: list[int]
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """Token ids without the stop token, and why they ended."""

    tokens: list[int]
    finish_reason: FinishReason


class Engine(Protocol):
    """A model that completes several calls' requests; it may mix their rows and end them in any order."""

    @property
    def busy(self) -> bool:
        """Whether `step` has work."""

    def add(self, call: int, requests: list[Request], sampling: Sampling) -> None:
        """Take a call's requests."""

    def step(self) -> list[tuple[int, list[Completion]]]:
        """Work a little; return the calls that ended, each with one completion a request, in order."""

    def abandon(self) -> list[int]:
        """Give up what is under way after a failure; return those calls."""
