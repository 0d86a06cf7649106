"""Prefect for real: retries finish the job, a cache hit runs nothing, a torn shard is remade, no claim is believed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.artifacts import Artifact
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.testing.utilities import prefect_test_harness

from configs.settings import GenerationSettings, load_settings
from flows import batches
from flows.batches import IncompleteError, Unit, run_units
from storage.shards import Batch, RowStore
from tasks.generate import rows as magpie
from tasks.process import ChildError, ModelPool

SETTINGS: GenerationSettings = load_settings("demo", {"generation.instruction.max_new_tokens": 4}).generation


@pytest.fixture(scope="module", autouse=True)
def prefect_server() -> Iterator[None]:
    with prefect_test_harness():
        yield


@pytest.fixture(scope="module")
def pool(tiny_model: Path) -> Iterator[ModelPool]:
    arguments = {
        "engine": "hf",
        "source": str(tiny_model),
        "revision": None,
        "precision": "fp32",
        "memory_share": 0.3,
        "eager": True,
    }
    with ModelPool("tasks.generate.chat:ChatModel", arguments, threads=1) as pool:
        yield pool


def write(pool: ModelPool, store: RowStore, batch: Batch, log: Path, kills: int = 0) -> dict[str, Any]:
    """Write a batch as the flow does, and leave a mark for every time the body runs; kill the child a few times."""
    marks = len(list(log.glob(f"{batch.name}*")))
    (log / f"{batch.name}-{marks}").touch()
    if marks < kills:
        pool.start()
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
    return magpie.write_instructions(pool, store, batch, SETTINGS, seed=0)


def run(pool: ModelPool, place: Path, kills: int = 0) -> RowStore:
    """A flow over three batches."""
    store = RowStore(place / "rows")
    log = place / "marks"
    log.mkdir(exist_ok=True)
    batches = store.plan([magpie.attempt_id(row, 0) for row in range(6)], 2)
    units = [
        Unit(
            f"instructions-b{number:05d}",
            batch.name,
            {"pool": pool, "store": store, "batch": batch, "log": log, "kills": kills * (number == 0)},
            lambda batch=batch: store.done(batch),  # type: ignore[misc]
            2,
        )
        for number, batch in enumerate(batches)
    ]

    @flow(name="batches", persist_result=False, task_runner=ThreadPoolTaskRunner(max_workers=2))
    def batches_flow() -> None:
        run_units(write, units, place / "prefect", "batches")

    batches_flow()
    return store


def marks(place: Path) -> int:
    return len(list((place / "marks").iterdir()))


def test_a_task_that_fails_twice_is_retried_to_the_end(pool: ModelPool, tmp_path: Path) -> None:
    store = run(pool, tmp_path, kills=2)
    tries = Counter(path.name.rpartition("-")[0] for path in (tmp_path / "marks").iterdir())
    assert max(tries.values()) == 3
    assert len(store.rows()) == 6


def test_a_task_that_fails_for_good_fails_the_flow_and_keeps_the_rest(pool: ModelPool, tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="ended with code -9"):
        run(pool, tmp_path, kills=99)
    store = run(pool, tmp_path, kills=0)
    assert len(store.rows()) == 6


def test_a_second_run_takes_everything_from_the_cache(pool: ModelPool, tmp_path: Path) -> None:
    run(pool, tmp_path)
    assert marks(tmp_path) == 3
    run(pool, tmp_path)
    assert marks(tmp_path) == 3


def test_a_torn_shard_is_remade_and_only_that_one(pool: ModelPool, tmp_path: Path) -> None:
    store = run(pool, tmp_path)
    shards = sorted((tmp_path / "rows").glob("*.jsonl"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in shards}
    torn = shards[1]
    torn.write_bytes(before[torn][0][:-7])
    run(pool, tmp_path)
    assert marks(tmp_path) == 4
    assert torn.read_bytes() == before[torn][0]
    unchanged = [path for path in shards if path.stat().st_mtime_ns == before[path][1]]
    assert unchanged == [path for path in shards if path != torn]
    assert len(store.rows()) == 6


def test_a_lost_cache_costs_nothing_while_the_shards_are_there(pool: ModelPool, tmp_path: Path) -> None:
    run(pool, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").glob("*.jsonl")}
    shutil.rmtree(tmp_path / "prefect")
    run(pool, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def claims(path: Path) -> dict[str, str]:
    """A task that says it wrote a file and did not."""
    return {"path": path.name}


def test_the_disk_has_the_last_word(tmp_path: Path) -> None:
    unit = Unit("claim", "claim-key", {"path": tmp_path / "shard"}, lambda: None)

    @flow(name="claiming", persist_result=False)
    def claiming() -> None:
        run_units(claims, [unit], tmp_path / "prefect", "claims")

    with pytest.raises(IncompleteError, match="claim ended"):
        claiming()


def ask(pool: ModelPool, arguments: dict[str, Any]) -> None:
    pool.call("instruct", **arguments)


def test_a_failure_that_ends_nothing_is_told_in_a_line_without_a_traceback(tmp_path: Path) -> None:
    """It is published, where files of this machine have no place."""
    failures: dict[str, str] = {}
    pool = ModelPool("tasks.report.nothing:Nothing", {}, threads=1)

    @flow(name="failing", persist_result=False)
    def failing() -> None:
        unit = Unit("ask", "ask-key", {"pool": pool, "arguments": {}}, lambda: None)
        assert not run_units(ask, [unit], tmp_path / "prefect", "asks", failures=failures)

    failing()
    assert failures == {"ask": "ModuleNotFoundError: No module named 'tasks.report.nothing'"}


def test_a_stop_ends_between_batches_and_the_rest_is_left_for_later(pool: ModelPool, tmp_path: Path) -> None:
    store = RowStore(tmp_path / "rows")
    log = tmp_path / "marks"
    log.mkdir()

    def units() -> list[Unit]:
        return [
            Unit(
                f"instructions-b{number:05d}",
                batch.name,
                {"pool": pool, "store": store, "batch": batch, "log": log},
                lambda batch=batch: store.done(batch),  # type: ignore[misc]
                2,
            )
            for number, batch in enumerate(store.plan([magpie.attempt_id(row, 0) for row in range(60)], 2))
        ]

    @flow(name="stopping", persist_result=False, task_runner=ThreadPoolTaskRunner(max_workers=2))
    def stopping(stop: bool) -> bool:
        enough = lambda: stop and len(store.rows()) >= 4  # noqa: E731
        return run_units(write, units(), tmp_path / "prefect", "stopping", meter=lambda: pool.progress, stop=enough)

    assert stopping(True) is False
    made = len(store.rows())
    assert 4 <= made < 60
    assert made == 2 * marks(tmp_path), "what was begun was ended and kept"
    assert stopping(False) is True
    assert len(store.rows()) == 60
    assert marks(tmp_path) == 30, "nothing was made twice"


def told_in_the_ui(name: str, other: str, place: Path) -> dict[str, Any]:
    """Tell a loss, wait until both units' stand in the UI, and keep what stands there."""
    (place / name).write_text("1.832")
    end, text = time.monotonic() + 60, ""
    while text.count("loss 1.832") < 2 and time.monotonic() < end:
        artifact = Artifact.get("noted")
        text = artifact.description or "" if artifact else ""
    (place / f"{name}-saw").write_text(text)
    while not (place / f"{other}-saw").exists() and time.monotonic() < end:
        time.sleep(0.05)  # with this unit its note would go
    return {}


def test_units_at_work_tell_how_it_goes_beside_the_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batches, "ARTIFACT_SECONDS", 0)

    def unit(name: str, other: str) -> Unit:
        loss, saw = tmp_path / name, tmp_path / f"{name}-saw"
        return Unit(
            name,
            f"noted-{name}",
            {"name": name, "other": other, "place": tmp_path},
            lambda: saw.exists() or None,
            note=lambda: f"{name} loss {loss.read_text()}" if loss.exists() else "",
        )

    @flow(name="noted", persist_result=False, task_runner=ThreadPoolTaskRunner(max_workers=2))
    def noted() -> None:
        run_units(told_in_the_ui, [unit("sft", "dpo"), unit("dpo", "sft")], tmp_path / "prefect", "noted")

    noted()
    both = "sft loss 1.832 · dpo loss 1.832"
    assert [(tmp_path / f"{name}-saw").read_text() for name in ("sft", "dpo")] == [f"noted · {both}"] * 2
    assert both in capsys.readouterr().err
    ended = Artifact.get("noted")
    assert ended and ended.description == "noted", "what has ended has nothing more to tell"
