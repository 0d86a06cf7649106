"""How many rows an engine decodes at once: the profile's number, halved whenever the memory did not hold them.

The smaller number is kept in the workspace, by accelerator, so that the next session does not run into the same wall.
"""

from __future__ import annotations

import logging
from pathlib import Path

from storage.files import read_json, write_json

log = logging.getLogger(__name__)


class RowsAtOnce:
    """A number of rows that survives the process; none is the engine's own choice."""

    def __init__(self, wanted: int | None = None, memory: Path | None = None) -> None:
        """`memory` is the file that keeps a halved number; none keeps it in this process only."""
        self._memory = memory
        self._device = _device()
        remembered = self._remembered().get(self._device)
        self.count = min((count for count in (wanted, remembered) if count), default=None)

    def halve(self, tried: int) -> bool:
        """Go on with half of what was tried, and keep that; False where it was one row."""
        if tried == 1:
            return False
        self.count = tried // 2
        kept = f", kept in {self._memory}" if self._memory else ""
        log.warning("out of memory on %s: going on with %d rows at once%s", self._device, self.count, kept)
        if self._memory:
            write_json(self._memory, self._remembered() | {self._device: self.count})
        return True

    def _remembered(self) -> dict[str, int]:
        try:
            return dict(read_json(self._memory)) if self._memory else {}
        except (OSError, ValueError, TypeError):
            return {}


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
