"""How much one night of generation may do."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A row quota, a time budget, both or neither.

    Attributes:
        rows: rows to finish beyond those that lie on disk.
        deadline: `time.monotonic()` from which no further batch is begun; batches under way end.
    """

    rows: int | None = None
    deadline: float | None = None

    def spent(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() >= self.deadline
