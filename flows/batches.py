"""How a flow runs cached, retryable tasks: each has a key, its result is a few bytes, and the disk has the last word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture
from prefect.utilities.annotations import quote
from tqdm import tqdm

RETRIES = 2
RETRY_SECONDS = 2


@dataclass(frozen=True)
class Unit:
    """One task run: what it is called, what it is keyed by, what it takes, and how the disk shows that it is done."""

    name: str
    key: str
    arguments: dict[str, Any]
    on_disk: Callable[[], Any]
    size: int = 1


class IncompleteError(RuntimeError):
    """Tasks ended but the disk does not hold what they say."""


def cached(function: Callable[..., Any], results: Path) -> Task[..., Any]:
    """A function as a Prefect task that is retried, and cached in the workspace under its unit's key."""

    @wraps(function)
    def body(unit_key: str, arguments: dict[str, Any]) -> Any:
        return function(**arguments)

    del body.__wrapped__  # Prefect binds the signature, which is the body's own
    return Task(
        fn=body,
        name=function.__name__,
        retries=RETRIES,
        retry_delay_seconds=RETRY_SECONDS,
        persist_result=True,
        result_storage=results,
        result_serializer="json",
        cache_key_fn=_unit_key,
        cache_result_in_memory=False,
    )


def run_units(
    function: Callable[..., Any], units: Sequence[Unit], results: Path, label: str, size_unit: str = "row"
) -> None:
    """Run every unit that the disk lacks, as many at once as the flow's task runner takes, and hold each against the disk.

    A cached record whose file is gone or torn is no result: the unit runs again.

    Raises:
        IncompleteError: a unit ended and the disk still lacks it.
        Exception: a unit's own failure, after its retries.
    """
    task = cached(function, results)
    total = sum(unit.size for unit in units)
    artifact = create_progress_artifact(progress=0.0, key=_slug(label), description=label)
    done = 0
    with tqdm(total=total, desc=label, unit=f" {size_unit}", dynamic_ncols=True, mininterval=0.5) as bar:
        futures = [(unit, _submit(task, unit, refresh=False)) for unit in units]
        for unit, future in futures:
            future.result()
            if unit.on_disk() is None:
                _submit(task, unit, refresh=True).result()
                if unit.on_disk() is None:
                    raise IncompleteError(f"{unit.name} ended, but its file is absent or fails its checksum")
            done += unit.size
            bar.update(unit.size)
            update_progress_artifact(artifact, progress=100.0 * done / total)  # type: ignore[arg-type]


def _submit(task: Task[..., Any], unit: Unit, *, refresh: bool) -> PrefectFuture[Any]:
    named = task.with_options(task_run_name=unit.name, refresh_cache=refresh)
    return named.submit(unit_key=unit.key, arguments=quote(unit.arguments))


def _unit_key(_: Any, parameters: dict[str, Any]) -> str:
    return str(parameters["unit_key"])


def _slug(label: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in label.lower())
