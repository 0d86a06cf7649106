"""How a run fits the memory: rows at once, and whether activations are stored or recomputed.

The plans are tried in the order of their speed. A process that runs out of memory ends, its parent writes the next plan
beside the checkpoints and starts it again; the optimizer's step sees the same rows in every plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from storage.files import read_json, write_json
from tasks.tune.methods import section_key

FILE = "plan.json"
MEMORY_SETTINGS = ("micro_batch", "gradient_checkpointing")


class Plan(TypedDict):
    """What is chosen by measuring."""

    processes: int
    """Processes, each with a GPU of its own."""
    micro_batch: int
    """Rows a process holds at once."""
    gradient_checkpointing: bool
    """Whether activations are recomputed in the backward pass: half as fast again, a fraction of the memory."""


class NothingFitsError(RuntimeError):
    """Even the smallest plan ran out of memory; the message says what to change."""


def plans(settings: Mapping[str, Any], processes: int) -> list[Plan]:
    """Every plan the settings leave open, fastest first: all rows at once, fewer, and then the same recomputing.

    Args:
        settings: a method's section of `TuningSettings`, dumped; what it pins is in every plan.
        processes: GPUs at most; the largest number that divides the batch is used.
    """
    batch, pinned = settings["batch_size"], settings["micro_batch"]
    used = next(count for count in range(processes, 0, -1) if batch % (count * (pinned or 1)) == 0)
    share = batch // used
    sizes = [pinned] if pinned else [size for size in range(share, 0, -1) if share % size == 0]
    recompute = settings["gradient_checkpointing"]
    return [
        Plan(processes=used, micro_batch=size, gradient_checkpointing=checkpointing)
        for checkpointing in ([False, True] if recompute is None else [recompute])
        for size in sizes
    ]


def current_plan(folder: Path, possible: list[Plan]) -> Plan:
    """The plan on record if it is still possible, else the first; it is on record afterwards."""
    plan = recorded_plan(folder)
    if plan not in possible:
        plan = possible[0]
        write_json(folder / FILE, plan)
    return plan


def recorded_plan(folder: Path) -> Plan | None:
    """The plan beside the checkpoints, or None."""
    try:
        plan: Plan = read_json(folder / FILE)
    except (OSError, ValueError):
        return None
    return plan


def smaller_plan(folder: Path, possible: list[Plan], method: str) -> Plan:
    """Put the next plan on record, the one before having run out of memory.

    Raises:
        NothingFitsError: there is none.
    """
    before = current_plan(folder, possible)
    later = possible[possible.index(before) + 1 :]
    if not later:
        raise NothingFitsError(
            f"{method} runs out of memory with {told(before)}, and no smaller plan is left: lower "
            f"{section_key(method)}.max_length, load models.base in nf4, or leave {section_key(method)}.micro_batch "
            "and .gradient_checkpointing to be chosen"
        )
    write_json(folder / FILE, later[0])
    return later[0]


def told(plan: Plan) -> str:
    """A plan in words."""
    rows = f"{plan['micro_batch']} row{'s' * (plan['micro_batch'] > 1)} at once"
    gpus = f" on each of {plan['processes']} GPUs" if plan["processes"] > 1 else ""
    return f"{rows}{gpus}, activations {'recomputed' if plan['gradient_checkpointing'] else 'stored'}"
