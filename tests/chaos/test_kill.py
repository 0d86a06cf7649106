"""A killed study goes on: SIGKILL in three stages, another folder, no Prefect database, the same bytes at the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.small import finish_study, start_study

REACH_SECONDS = 900


def outputs(workspace: Path) -> dict[str, str]:
    """sha256 of every file that identifies a result, by its path in the workspace."""
    found = {}
    for manifest in sorted(workspace.glob("*/**/manifest.json")):
        folder = manifest.parent.relative_to(workspace)
        for name, entry in json.loads(manifest.read_text())["outputs"].items():
            found[f"{folder}/{name}"] = entry["sha256"]
    return found


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unkilled")
    run = start_study(folder / "workspace", folder / "prefect", folder / "log")
    finish_study(run, folder / "log")
    return folder / "workspace"


def kill_when(run: subprocess.Popen[bytes], reached: Callable[[], bool], delay: float, log: Path) -> None:
    """Kill the process group a while after a point is reached; every child must then be gone by itself."""
    deadline = time.monotonic() + REACH_SECONDS
    while not reached():
        assert run.poll() is None, f"ended before the point: {log.read_text()[-4000:]}"
        assert time.monotonic() < deadline, "the point was never reached"
        time.sleep(0.05)
    time.sleep(delay)
    family = psutil.Process(run.pid).children(recursive=True)
    assert any("tasks.child" in " ".join(child.cmdline()) for child in family), "no model's process was at work"
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == [], f"left behind: {[child.cmdline() for child in alive]}"


def shards(workspace: Path, kind: str) -> int:
    return len([*workspace.glob(f".state/rows/{kind}-*/*.jsonl")])


def answering_models(workspace: Path) -> int:
    """Models with a response on disk: first the teacher, then each responder; rows drawn again make no new one."""
    return len({path.parent for path in workspace.glob(".state/rows/responses-*/*.jsonl")})


def points(chance: random.Random) -> Iterator[tuple[str, Callable[[Path], bool]]]:
    """Moments in different stages, the exact one by chance."""
    first = chance.randint(1, 3)
    yield "generate", lambda place: shards(place, "instructions") >= first
    yield "prefer", lambda place: answering_models(place) > first
    yield "tune", lambda place: any(place.glob(".state/checkpoints/tune-sft-*/checkpoint-*"))


def test_three_kills_lose_nothing(unkilled: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"chance seed {seed}")
    chance = random.Random(seed)
    log = tmp_path / "log"
    place = tmp_path / "mount-0"
    for number, (stage, reached) in enumerate(points(chance)):
        run = start_study(place, tmp_path / f"prefect-{number}", log)
        kill_when(run, partial(reached, place), chance.uniform(0, 0.5), log)
        before = {path: path.read_bytes() for path in place.glob(".state/rows/*/*.jsonl")}
        moved = tmp_path / f"mount-{number + 1}"
        shutil.move(place, moved)
        print(f"killed in {stage} with {len(before)} shards on disk")
        place = moved
    run = start_study(place, tmp_path / "prefect-last", log)
    finish_study(run, log)
    assert outputs(place) == outputs(unkilled)
    ids = [json.loads(line)["id"] for line in (place / "data/raw/raw.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 100
    assert not [path for path in place.rglob("*") if ".tmp" in path.name and ".state" not in path.parts]


def test_a_torn_shard_is_remade_and_nothing_else(unkilled: Path, tmp_path: Path) -> None:
    place = tmp_path / "workspace"
    shutil.copytree(unkilled, place)
    shutil.rmtree(place / "data" / "raw")
    shards_before = {path: path.stat().st_mtime_ns for path in place.glob(".state/rows/responses-*/*.jsonl")}
    torn = sorted(place.glob(".state/rows/instructions-*/*.jsonl"))[0]
    content = torn.read_bytes()
    torn.write_bytes(content[: len(content) // 2])
    run = start_study(place, tmp_path / "prefect", tmp_path / "log")
    finish_study(run, tmp_path / "log")
    assert torn.read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in shards_before} == shards_before
    assert outputs(place) == outputs(unkilled)
