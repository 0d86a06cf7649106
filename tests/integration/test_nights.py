"""Nights for real: a server, a schedule of seconds, a tiny teacher; row by row towards the end, one night at a time."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from storage.files import write_jsonl, write_text
from storage.lock import only_one
from storage.workspace import Workspace
from tasks.generate.nights import Night, read_nights, read_plan
from tasks.process import PROJECT, free_port
from tests.tiny import build_tiny_model

ROWS = 24
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Server:
    """A Prefect server with a home and a port of its own."""

    home: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        api = f"http://127.0.0.1:{self.port}/api"
        return os.environ | {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": api, "DO_NOT_TRACK": "1"}

    def states(self, workspace: Path) -> Counter[str]:
        """How the server saw the nights of a workspace end."""
        query = "select state_name, count(*) from flow_run where name like 'night-%' and parameters like ? group by 1"
        with closing(sqlite3.connect(f"file:{self.home / 'prefect.db'}?mode=ro", uri=True)) as database:
            return Counter(dict(database.execute(query, [f"%{workspace}%"])))


@dataclass
class Scheduled:
    """The real command, as a user types it."""

    folder: Path
    settings: list[str]
    server: Server
    runs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / "workspace")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flows.schedule", "--workspace", str(self.workspace.root)]
        with (self.folder / "log").open("ab") as log:
            run = subprocess.Popen(
                [*command, *self.settings, *arguments],
                cwd=PROJECT,
                env=self.server.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.runs.append(run)
        return run

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def nights(self) -> list[Night]:
        return read_nights(self.workspace, LONG_AGO)

    def ids(self) -> list[str]:
        return [json.loads(line)["id"] for line in (self.workspace.raw / "raw.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    made = Server(folder / "prefect", free_port())
    address = ["--host", "127.0.0.1", "--port", str(made.port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", *address],
            env=made.environment,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{made.port}/api/health", timeout=5):
                break
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield made
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def models(tiny_model: Path, tiny_reward: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a study that needs no hub: a night begins only where the whole study could go on."""
    folder = tmp_path_factory.mktemp("models")
    responders = [tiny_model, *(build_tiny_model(folder / name, seed=seed) for seed, name in enumerate("ab", 1))]
    write_jsonl(folder / "legs.jsonl", [{"asked": "How many legs has a cat?", "told": 0}])
    write_text(
        folder / "tasks" / "legs.yaml",
        f"task: own_legs\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'legs.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{asked}}'\ndoc_to_choice: ['four', 'two']\n"
        "doc_to_target: '{{told}}'\nmetric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n",
    )
    return [
        *("--models.teacher.name", str(tiny_model), "--models.base.name", str(tiny_model)),
        *("--models.responders", json.dumps([{"name": str(path)} for path in responders])),
        *("--models.reward.name", str(tiny_reward), "--evaluation.forgetting", "null"),
        *("--evaluation.task_folders", json.dumps([str(folder / "tasks")])),
        *("--evaluation.benchmarks", json.dumps({"legs": {"task": "own_legs", "metric": "acc"}})),
    ]


@pytest.fixture
def scheduled(models: list[str], server: Server, tmp_path: Path) -> Iterator[Scheduled]:
    settings = [
        *("--profile", "smol", *models, "--hardware.threads", "1"),
        *("--generation.rows", str(ROWS), "--generation.rows_per_shard", "4", "--generation.max_attempts", "1"),
        *("--generation.instruction.max_new_tokens", "4", "--generation.response.max_new_tokens", "4"),
        *("--filter.train_rows", "8", "--filter.val_rows", "4"),
    ]
    made = Scheduled(tmp_path, settings, server)
    yield made
    for run in made.runs:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()


def model_at_work(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every process under a schedule once its night has begun to load the model; nothing before that."""
    family = psutil.Process(run.pid).children(recursive=True)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            # not the schedule's own child, which looks at what the study needs
            if "tasks.child" in " ".join(process.cmdline()) and process.ppid() != run.pid:
                return family
    return []


def test_three_nights_finish_the_rows_one_at_a_time(scheduled: Scheduled) -> None:
    """A night lasts longer than the interval here: the nights that the schedule asks for meanwhile are refused."""
    run = scheduled.start("--every", "3", "--nights", "3")
    assert run.wait(timeout=180) == 0, scheduled.log()[-4000:]
    nights = scheduled.nights()
    assert [(night.rows_before, night.rows_after, night.stopped) for night in nights] == [
        (0, 8, "quota"),
        (8, 16, "quota"),
        (16, 24, "complete"),
    ]
    for earlier, later in zip(nights, nights[1:], strict=False):
        assert earlier.ended <= later.started
    assert sorted(scheduled.ids()) == [f"{row:06d}" for row in range(ROWS)]
    plan = read_plan(scheduled.workspace)
    assert plan and plan.quota == 8
    states = scheduled.server.states(scheduled.workspace.root)
    assert set(states) == {"Completed"} and states["Completed"] >= 3, states
    again = scheduled.start("--every", "3", "--nights", "3")
    assert again.wait(timeout=60) == 0
    assert "Nothing to do" in scheduled.log() and len(scheduled.nights()) == 3


def test_a_stopped_schedule_leaves_no_process_and_goes_on_when_started_again(scheduled: Scheduled) -> None:
    run = scheduled.start("--every", "2", "--nights", "1")
    deadline = time.monotonic() + 90
    while not (family := model_at_work(run)):
        assert run.poll() is None and time.monotonic() < deadline, scheduled.log()[-4000:]
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 130, scheduled.log()[-4000:]
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    (night,) = scheduled.nights()
    assert (night.rows_before, night.stopped) == (0, "interrupted")

    again = scheduled.start("--every", "2", "--nights", "1")
    assert again.wait(timeout=120) == 0, scheduled.log()[-4000:]
    assert scheduled.nights()[-1].stopped == "complete"
    assert sorted(scheduled.ids()) == [f"{row:06d}" for row in range(ROWS)]


def test_a_night_by_hand_works_its_quota_and_is_refused_while_another_run_is_at_work(scheduled: Scheduled) -> None:
    with only_one(scheduled.workspace.root, "a test"):
        refused = scheduled.start("--now")
        assert refused.wait(timeout=60) == 1, scheduled.log()[-4000:]
    assert f"a test (pid {os.getpid()}) is at work" in scheduled.log() and not scheduled.nights()
    by_hand = scheduled.start("--now")
    assert by_hand.wait(timeout=60) == 0, scheduled.log()[-4000:]
    (night,) = scheduled.nights()
    assert (night.rows_before, night.rows_after, night.stopped) == (0, 8, "quota")
