"""What can be known to fail before hours are spent: the machine, the models, the benchmarks, the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: the thing.
        state: a fail would end the study, a warning might surprise.
        told: what was found and, unless it is ok, what to do.
    """

    name: str
    state: Literal["ok", "warning", "fail"]
    told: str
