"""Colab's Drive as a real mount that is absent, or whose daemon is gone: only what needs it stops, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.process import PROJECT, free_port
from tests.small import SMALL

Run = Callable[..., subprocess.CompletedProcess[str]]
FLOWS = sorted(file.stem for file in (PROJECT / "flows").glob("*.py") if "__main__" in file.read_text())
HELP = """
import runpy, sys
for name in sys.argv.pop().split():
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(f"flows.{name}", run_name="__main__")
    except SystemExit as end:
        print(f"exit {name} {end.code}")
"""


@pytest.fixture
def at_drive(tmp_path: Path) -> Iterator[Run]:
    """Runs Python where the Drive is as asked; skips where no mount can be made."""
    made = not os.path.exists("/content")

    def run(mode: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.dead_drive", mode, sys.executable, *words]
        api = f"http://127.0.0.1:{free_port()}/api"
        environment = os.environ | {
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "PREFECT_API_URL": api,
            "TMPDIR": str(tmp_path),
        }
        return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)

    probe = run("dead", "-c", "")
    if probe.returncode:
        pytest.skip(f"no FUSE mount can be made here: {probe.stderr.strip().splitlines()[-1]}")
    yield run
    if made:
        os.rmdir("/content")


def test_with_a_dead_mount_every_command_still_helps(at_drive: Run) -> None:
    ended = at_drive("dead", "-c", HELP, " ".join(FLOWS))
    codes = [line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("exit ")]
    assert codes == [[name, "0"] for name in FLOWS], ended.stderr


@pytest.mark.parametrize("mode", ["dead", "none"])
def test_what_needs_the_drive_says_so_and_the_rest_works(mode: str, at_drive: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Name a colour of the sky.", "output": "Blue, by day."}\n')
    assert at_drive(mode, "-m", "flows.filter", "--input", str(tmp_path / "rows.jsonl")).returncode == 0
    assert at_drive(mode, "-m", "flows.status", "--workspace", str(tmp_path / "other")).returncode == 0
    for name in ("status", "full_pipeline"):
        ended = at_drive(mode, "-m", f"flows.{name}", "--workspace", "/content/drive/MyDrive/study")
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1 and "mount" in ended.stderr
    drive, elsewhere = "/content/drive/MyDrive", str(tmp_path / "other")
    for words in (
        ("filter", "--input", f"{drive}/rows.jsonl"),
        ("filter", "--input", str(tmp_path / "rows.jsonl"), "--output", f"{drive}/kept"),
        ("status", "--workspace", elsewhere, "--models.base.name", f"{drive}/llama"),
        ("status", "--workspace", elsewhere, "--evaluation.task_folders", f"[{drive}/tasks]"),
        ("status", "--workspace", elsewhere, "--profile", f"{drive}/study.yaml"),
    ):
        ended = at_drive(mode, "-m", f"flows.{words[0]}", *words[1:])
        assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
        assert drive in ended.stderr
    if mode == "dead":  # the study is there, so another folder is no default
        ended = at_drive(mode, "-m", "flows.status")
        assert ended.returncode == 2 and "/content/drive/MyDrive" in ended.stderr


def test_a_drive_that_dies_under_a_study_ends_it_in_one_line(at_drive: Run) -> None:
    begun = "/content/drive/MyDrive/synthetic-instruction-tuner/.state/prefect"
    ended = at_drive(begun, "-m", "flows.full_pipeline", *SMALL, "--world.trunk.steps", "2")
    assert ended.returncode == 1, ended.stderr
    assert "mount the Drive again and run the same command" in ended.stderr.strip().splitlines()[-1]
