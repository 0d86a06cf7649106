"""How a flow runs cached, retryable tasks: each has a key, a result of a few bytes, and the disk has the last word."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.futures import PrefectConcurrentFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import allow_failure, quote
from tqdm import tqdm

from tasks.process import ChildError, end_children

RETRIES = 2
RETRY_SECONDS = 2
REFRESH_SECONDS = 0.5
SEPARATOR = " · "
ARTIFACT_SECONDS = 5  # every telling is a request to the server, which shares a small machine with the models


def never() -> bool:
    """For work that nothing stops."""
    return False


def no_progress() -> float:
    """For a unit that is done or not."""
    return 0.0


def no_note() -> str:
    """For a unit that has nothing to tell."""
    return ""


@dataclass(frozen=True)
class Unit:
    """One task run.

    Attributes:
        name: what the run is called.
        key: what its work is keyed by.
        arguments: what the function takes.
        on_disk: tells whether its result lies whole on disk; None where not.
        size: how much of the stage's progress it is.
        progress: share of it that is done while it runs, from 0 to 1.
        note: a few words on how it goes while it runs, shown beside the progress.
        after: names of units listed before it that must have ended, well or not.
    """

    name: str
    key: str
    arguments: dict[str, Any]
    on_disk: Callable[[], Any]
    size: int = 1
    progress: Callable[[], float] = no_progress
    note: Callable[[], str] = no_note
    after: tuple[str, ...] = ()


class IncompleteError(RuntimeError):
    """A task ended but the disk does not hold what it says."""


def run_units(
    function: Callable[..., Any],
    units: Sequence[Unit],
    results: Path,
    label: str,
    size_unit: str = "row",
    *,
    meter: Callable[[], Mapping[str, int]] | None = None,
    stop: Callable[[], bool] = never,
    failures: dict[str, str] | None = None,
) -> bool:
    """Run a function once a unit, as many at once as the flow's task runner takes, and hold each against the disk.

    A cached record whose file is gone or torn is no result: its unit runs again.

    Args:
        function: plain function that does a unit's work.
        units: what to do.
        results: folder of Prefect's result records.
        label: title of the progress bar and of the UI's progress artifact.
        size_unit: what a unit's size counts.
        meter: `rows` and `tokens` that an engine has done so far, unfinished units included.
        stop: when it turns true, no further unit is begun; those under way end.
        failures: takes a line on each unit that fails, by its name, instead of the first one ending the run.

    Returns:
        Whether every unit is on disk.

    Raises:
        IncompleteError: a unit ended and the disk still lacks it.
        Exception: a unit's own failure, after its retries.
    """
    if not units:
        return True
    if stop():
        return False
    task = cached(function, results)
    with _ended_on_interrupt(), _Progress(label, units, size_unit, meter) as progress:
        futures: dict[str, PrefectConcurrentFuture[Any]] = {}
        for unit in units:
            futures[unit.name] = _submit(
                task, unit, [futures[name] for name in unit.after], refresh=unit.on_disk() is None
            )
        running = [(unit, futures[unit.name]) for unit in units]
        done = 0.0
        for position, (unit, future) in enumerate(running):
            ended = False
            while not ended:
                if stop():
                    for _, later in running[position:]:
                        later.wrapped_future.cancel()  # those that a worker has begun are not cancelled by this
                ended = not wait([future.wrapped_future], timeout=REFRESH_SECONDS).not_done
                progress.show(done + _partial(running[position:]), _notes(running[position:]))
            if future.wrapped_future.cancelled():
                continue
            try:
                _require(task, unit, future)
            except Exception as error:
                if failures is None:
                    raise
                failures[unit.name] = _reason(error)
            done += unit.size
            progress.show(done + _partial(running[position + 1 :]), _notes(running[position + 1 :]))
        return not failures and not any(future.wrapped_future.cancelled() for future in futures.values())


def _reason(error: Exception) -> str:
    """One line, without a traceback, whose files are those of this machine."""
    if isinstance(error, ChildError):
        return error.reason
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _require(task: Task[..., Any], unit: Unit, future: PrefectConcurrentFuture[Any]) -> None:
    """A unit's result on disk, or its failure."""
    future.result()
    if unit.on_disk() is not None:
        return
    _submit(task, unit, [], refresh=True).result()
    if unit.on_disk() is None:
        raise IncompleteError(f"{unit.name} ended, but its file is absent or fails its checksum")


def at_once(tasks: int) -> Any:
    """A task runner of so many threads; typed loosely, since Prefect's own type of it does not fit its `flow`."""
    return ThreadPoolTaskRunner(max_workers=tasks)


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
        cache_key_fn=lambda _, parameters: str(parameters["unit_key"]),
        cache_result_in_memory=False,
    )


def show_table(key: str, figures: Mapping[str, Any] | Sequence[Mapping[str, Any]], title: str) -> None:
    """A table in the Prefect UI: rows, or the plain figures of a mapping."""
    if isinstance(figures, Mapping):
        plain = (str, int, float, type(None))
        rows = [{"figure": name, "value": value} for name, value in figures.items() if isinstance(value, plain)]
    else:
        rows = [dict(row) for row in figures]
    create_table_artifact(table=rows, key=key, description=title)


@contextmanager
def _ended_on_interrupt() -> Iterator[None]:
    try:
        yield
    except Exception:
        raise
    except BaseException:  # Ctrl-C or SIGTERM: otherwise the task runner would wait for every running task to end
        end_children()
        raise


class _Progress:
    """A bar in the terminal and an artifact in the UI: how much is done, how fast, how long it will take."""

    def __init__(
        self, label: str, units: Sequence[Unit], size_unit: str, meter: Callable[[], Mapping[str, int]] | None
    ) -> None:
        self._label, self._size_unit, self._total = label, size_unit, sum(unit.size for unit in units)
        self._meter = meter
        self._first = Counter(meter() if meter else {})
        self._begun = self._told = time.monotonic()
        self._notes: Sequence[str] = ()
        self._bar = tqdm(total=self._total, desc=f"{label:<34}", unit=f" {size_unit}", dynamic_ncols=True)
        key = "".join(character if character.isalnum() else "-" for character in label.lower())
        self._artifact: Any = create_progress_artifact(progress=0.0, key=key, description=label)

    def show(self, done: float, notes: Sequence[str]) -> None:
        """Move to `done`, or further where the meter counts rows of unfinished units; notes stand beside it."""
        drawn = Counter(self._meter() if self._meter else {})
        drawn.subtract(self._first)
        done = min(float(self._total), max(done, drawn["rows"])) if self._meter else done
        seconds = time.monotonic() - self._begun
        rates = [f"{drawn['tokens'] / seconds:,.0f} tokens/s"] if drawn["tokens"] and seconds else []
        self._bar.set_postfix_str(SEPARATOR.join([*rates, *notes]), refresh=False)
        if int(done) != self._bar.n:
            self._bar.update(int(done) - self._bar.n)
        elif notes != self._notes:
            self._bar.refresh()
        self._notes = notes
        if time.monotonic() - self._told > ARTIFACT_SECONDS or done == self._total:
            self._told = time.monotonic()
            self._tell(done, drawn["tokens"], seconds)

    def _tell(self, done: float, tokens: int, seconds: float) -> None:
        text = SEPARATOR.join([self._label, *self._notes])
        rate = done / seconds if seconds else 0.0
        if self._meter and rate > 0:
            left = timedelta(seconds=round((self._total - done) / rate))
            text += f": {rate:,.2f} {self._size_unit}s/s, {tokens / seconds:,.0f} tokens/s, {left} left"
        update_progress_artifact(self._artifact, progress=min(100.0, 100.0 * done / self._total), description=text)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _submit(
    task: Task[..., Any], unit: Unit, after: Sequence[PrefectConcurrentFuture[Any]], *, refresh: bool
) -> PrefectConcurrentFuture[Any]:
    named = task.with_options(task_run_name=unit.name, refresh_cache=refresh)
    return named.submit(
        unit_key=unit.key, arguments=quote(unit.arguments), wait_for=[allow_failure(future) for future in after]
    )  # type: ignore[return-value]


def _partial(running: Sequence[tuple[Unit, PrefectConcurrentFuture[Any]]]) -> float:
    return sum(unit.size * (1.0 if future.wrapped_future.done() else unit.progress()) for unit, future in running)


def _notes(running: Sequence[tuple[Unit, PrefectConcurrentFuture[Any]]]) -> list[str]:
    return [note for unit, future in running if future.wrapped_future.running() and (note := unit.note())]
