"""The loss curve: thinned for the report, and a stated test of whether it converged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Any

POINTS = 50
FEWEST_STEPS = 16
FLAT_SHARE = 0.1

CONVERGENCE_TEST = (
    "Over single steps: the loss fell (mean of the first eighth minus mean of the last quarter is above 2 standard "
    "errors), and it has flattened (from the third quarter to the last it fell by at most a tenth of that, or by less "
    "than 2 standard errors)."
)


def thin(losses: Sequence[float], points: int = POINTS) -> list[list[float]]:
    """The curve as at most `points` pairs of a window's last step and its mean loss [nats]."""
    window = max(1, math.ceil(len(losses) / points))
    return [[min(i + window, len(losses)), fmean(losses[i : i + window])] for i in range(0, len(losses), window)]


def convergence(losses: Sequence[float]) -> dict[str, Any]:
    """Apply `CONVERGENCE_TEST` to the loss of every step.

    Returns:
        `converged` (None for a run too short to tell), and the figures it rests on [nats].
    """
    if len(losses) < FEWEST_STEPS:
        return {"converged": None, "test": CONVERGENCE_TEST, "fall": None, "late_fall": None}
    quarter, eighth = len(losses) // 4, len(losses) // 8
    first, third, last = losses[:eighth], losses[-2 * quarter : -quarter], losses[-quarter:]
    fall, fall_error = _difference(first, last)
    late, late_error = _difference(third, last)
    fell = fall > 2 * fall_error
    flat = late <= max(FLAT_SHARE * fall, 2 * late_error)
    return {
        "converged": fell and flat,
        "test": CONVERGENCE_TEST,
        "fall": fall,
        "fall_standard_error": fall_error,
        "late_fall": late,
        "late_fall_standard_error": late_error,
    }


def _difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    return fmean(before) - fmean(after), error
