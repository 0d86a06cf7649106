"""Names, units and numbers as the report, the charts and the terminal write them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from configs.settings import Settings, study_arguments
from tasks.tune.methods import METHODS

NOT_MEASURED = "not measured"
METHOD_NAMES = {"base": "Base model", **{name: method.title for name, method in METHODS.items()}}
BENCHMARK_NAMES = {"mmlu": "MMLU", "hellaswag": "HellaSwag", "arc_easy": "ARC-Easy", "truthfulqa": "TruthfulQA"}


def study_command(settings: Settings) -> str:
    """The command that repeats a study, as a shell takes it."""
    return shlex.join(["python", "-m", "flows.full_pipeline", *study_arguments(settings)])


def method_name(method: str, seed: int | None = None) -> str:
    """A method as people call it, with its seed where that needs telling."""
    name = METHOD_NAMES.get(method, method)
    return name if seed is None else f"{name} (seed {seed})"


def benchmark_name(benchmark: str) -> str:
    """A benchmark as people call it."""
    return BENCHMARK_NAMES.get(benchmark, benchmark)


def count(value: Any) -> str:
    """A whole number with separators."""
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def number(value: Any, digits: int = 3) -> str:
    """A number to so many decimals; small ones to two significant digits."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or float(value).is_integer() and abs(value) >= 1000:
        return f"{value:,.0f}"
    if value and abs(value) < 10**-digits:
        return f"{value:.2g}"
    return f"{value:,.{digits}f}"


def percent(value: Any, digits: int = 1) -> str:
    """A share in per cent."""
    return NOT_MEASURED if value is None else f"{100 * value:.{digits}f}%"


def points(value: Any, digits: int = 1) -> str:
    """A difference of shares in percentage points, signed."""
    return NOT_MEASURED if value is None else f"{100 * value:+.{digits}f}"


def interval_name(alpha: float) -> str:
    """An interval by its level, 95% at an alpha of 0.05."""
    return f"{100 * (1 - alpha):.4g}% interval"


def probability(value: Any) -> str:
    """A p value."""
    if value is None:
        return NOT_MEASURED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def size(value: Any) -> str:
    """Bytes in the unit that suits them."""
    if value is None:
        return NOT_MEASURED
    amount = float(value)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def duration(value: Any) -> str:
    """Seconds in the unit that suits them."""
    if value is None:
        return NOT_MEASURED
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def listed(names: Sequence[str], word: str = "and") -> str:
    """Names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def plural(amount: int, one: str, many: str = "") -> str:
    """So many of a thing."""
    return f"{amount or 'no'} {one if amount == 1 else many or f'{one}s'}"


def short(model: str) -> str:
    """A model's name without its owner."""
    return model.rsplit("/", 1)[-1]


def few(names: Sequence[str]) -> str:
    """Up to two names, else how many."""
    return ", ".join(names) if len(names) <= 2 else f"{len(names)} models"


def capital(text: str) -> str:
    """A sentence's beginning."""
    return text[:1].upper() + text[1:]
