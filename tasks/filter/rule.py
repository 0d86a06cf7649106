"""What a rule is: keep a row, or drop it with the evidence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
Evidence = dict[str, Any]

FIELDS = ("instruction", "output")
SHOWN_CHARACTERS = 80  # of a text quoted as evidence


class Rule(ABC):
    """Keeps a row, or drops it and says why.

    Attributes:
        name: what the waterfall calls the rule.
        settings: keys of the settings that decide how much it drops.
    """

    name: str
    settings: tuple[str, ...] = ()

    @abstractmethod
    def judge(self, row: Row) -> Evidence | None:
        """None keeps the row; evidence, in JSON's types, drops it."""
