"""Compiles functions over arrays, and keeps what was compiled where that can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from numba import njit

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile a function at its first call; the next process finds it beside the source or in the user's cache."""
    try:
        quick: Callable[Arguments, Result] = njit(cache=True)(function)
    except RuntimeError:  # neither folder can be written: seconds are lost, and nothing else
        quick = njit(function)
    return quick
