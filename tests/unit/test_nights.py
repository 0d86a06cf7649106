"""Nights: the plan follows from the disk, a missed night is made up for, two runs never share a workspace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from configs.settings import Settings, load_settings
from flows import schedule, status
from storage.lock import WorkspaceBusyError, only_one
from storage.workspace import Workspace
from tasks.generate.nights import (
    Asked,
    Night,
    Plan,
    forecast,
    keep_plan,
    make_plan,
    plan_json,
    plan_lines,
    read_nights,
    read_plan,
    rows_per_hour,
    write_night,
)

PROJECT = Path(__file__).parents[2]
BERLIN = ZoneInfo("Europe/Berlin")
EVENING = datetime(2026, 10, 22, 18, tzinfo=BERLIN)
SIZES = {"generation.rows": 1500, "generation.rows_per_shard": 32, "hardware.session_hours": 12}
SETTINGS: Settings = load_settings("t4", SIZES)


def asked(**changes: Any) -> Asked:
    usual = Asked("t4", 0, 1500, cron="0 23 * * *", every=None, timezone="Europe/Berlin", nights=3)
    return replace(usual, **changes)


def plan(rows_done: int = 0, **changes: Any) -> Plan:
    return make_plan(asked(**changes), SETTINGS, rows_done, EVENING)


def worked(day: int, before: int, after: int, hours: float = 8, **changes: Any) -> Night:
    begun = EVENING.replace(hour=23) + timedelta(days=day)
    return replace(Night(begun, begun, begun + timedelta(hours=hours), before, after, "quota"), **changes)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.mark.parametrize(
    ("rows_done", "changes", "quota"),
    [(0, {}, 512), (0, {"nights": 4}, 384), (700, {}, 288), (1500, {}, 32), (0, {"rows_per_night": 100}, 128)],
)
def test_a_quota_is_whole_batches(rows_done: int, changes: dict[str, Any], quota: int) -> None:
    assert plan(rows_done, **changes).quota == quota


def test_a_night_after_one_that_ran_out_of_time_ends_on_a_whole_batch() -> None:
    assert plan().budget(0).rows == 512
    assert plan().budget(500).rows == 1024 - 500


def test_a_night_ends_before_the_session_does() -> None:
    assert plan().hours == 11.5
    assert plan(hours_per_night=3).hours == 3
    short = load_settings("t4", SIZES | {"hardware.session_hours": 0.4})
    assert make_plan(asked(), short, 0, EVENING).hours == 0.2


def test_a_night_replayed_after_downtime_is_missed() -> None:
    assert not plan().missed(EVENING, EVENING + timedelta(minutes=59))
    assert plan().missed(EVENING, EVENING + timedelta(minutes=61))
    assert plan(grace_minutes=5).missed(EVENING, EVENING + timedelta(minutes=6))
    often = plan(cron=None, every=300.0)
    assert not often.missed(EVENING, EVENING + timedelta(seconds=299))
    assert often.missed(EVENING, EVENING + timedelta(seconds=301))
    assert not plan(cron=None, every=5.0).missed(EVENING, EVENING + timedelta(seconds=59))


def test_the_plan_stays_while_the_request_does(workspace: Workspace) -> None:
    """Else every restart would spread what is left over three further nights."""
    first = keep_plan(workspace, asked(), SETTINGS, 0, EVENING)
    assert keep_plan(workspace, asked(), SETTINGS, 700, EVENING + timedelta(days=1)) == first
    assert read_plan(workspace) == first
    assert keep_plan(workspace, asked(nights=2), SETTINGS, 700, EVENING).quota == 416


def test_a_torn_plan_is_made_again(workspace: Workspace) -> None:
    keep_plan(workspace, asked(), SETTINGS, 0, EVENING)
    path = workspace.state / "nights" / "plan.json"
    path.write_bytes(path.read_bytes()[:40])
    assert read_plan(workspace) is None
    assert keep_plan(workspace, asked(), SETTINGS, 0, EVENING).quota == 512


def test_the_evening_stays_the_evening_when_the_clocks_change() -> None:
    """Europe/Berlin goes from +02:00 to +01:00 on 25 October 2026."""
    starts = list(islice(plan().starts(EVENING), 4))
    assert [start.isoformat() for start in starts] == [
        "2026-10-22T23:00:00+02:00",
        "2026-10-23T23:00:00+02:00",
        "2026-10-24T23:00:00+02:00",
        "2026-10-25T23:00:00+01:00",
    ]
    late = EVENING.replace(day=24)
    expected = forecast(plan(), [worked(0, 0, 512)], 512 + 512, late)
    assert expected and expected.end and expected.nights == 1
    # 476 rows at 64 an hour are 7.44 hours, one of which the clocks show twice
    assert expected.end.isoformat(timespec="minutes") == "2026-10-25T05:26+01:00"


def test_an_interval_counts_seconds_that_pass() -> None:
    nightly = make_plan(asked(cron=None, every=86400.0), SETTINGS, 0, EVENING.replace(day=24))
    assert next(nightly.starts(EVENING.replace(day=24))).isoformat() == "2026-10-25T17:00:00+01:00"


def test_the_forecast_follows_the_quota_until_a_speed_is_measured() -> None:
    expected = forecast(plan(), [], 0, EVENING)
    assert expected and (expected.nights, expected.rows_per_hour) == (3, None)
    assert expected.last == datetime(2026, 10, 24, 23, tzinfo=BERLIN)


def test_nights_slower_than_planned_make_the_plan_longer() -> None:
    slow = [worked(0, 0, 230, hours=11.5, stopped="time")]
    expected = forecast(plan(), slow, 230, EVENING + timedelta(days=1))
    assert expected and expected.rows_per_hour == pytest.approx(20)
    assert expected.nights == 6  # 1270 rows at 230 a night


def test_a_missed_or_killed_night_is_made_up_for() -> None:
    """What is left is counted on the disk: after one night worked of three that passed, two are still to come."""
    expected = forecast(plan(), [worked(0, 0, 512)], 512, EVENING + timedelta(days=3))
    assert expected and expected.nights == 2


def test_nothing_is_forecast_once_every_row_is_there() -> None:
    assert forecast(plan(), [], 1500, EVENING) is None
    assert plan_json(plan(), [], 1500, EVENING)["next"] is None


def test_nights_begun_by_hand_have_a_number_and_no_date() -> None:
    by_hand = plan(cron=None)
    expected = forecast(by_hand, [], 0, EVENING)
    assert expected and (expected.nights, expected.last, expected.end) == (3, None, None)
    assert "3 more nights (if each" in plan_lines(by_hand, [], 0, EVENING)[-1]


def test_speed_ignores_nights_that_made_nothing() -> None:
    assert rows_per_hour([]) is None
    assert rows_per_hour([worked(0, 0, 0, stopped="failed")]) is None
    assert rows_per_hour([worked(0, 0, 80), worked(1, 80, 80, stopped="failed")]) == pytest.approx(10)


def test_records_are_kept_in_order_and_torn_ones_left_out(workspace: Workspace) -> None:
    nights = [worked(0, 0, 512), worked(1, 512, 1024), worked(2, 1024, 1500, stopped="complete")]
    paths = [write_night(workspace, night) for night in reversed(nights)]
    assert read_nights(workspace, EVENING) == nights
    assert read_nights(workspace, nights[1].started) == nights[1:]
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    paths[0].write_text("[]")
    assert read_nights(workspace, EVENING) == nights[:1]


def test_a_record_is_never_written_over(workspace: Workspace) -> None:
    assert write_night(workspace, worked(0, 0, 32)) != write_night(workspace, worked(0, 32, 64))
    assert len(read_nights(workspace, EVENING)) == 2


def test_status_shows_the_plan_and_says_what_is_forecast(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--profile", "t4", "--generation.rows", "1500", "--workspace", str(workspace.root)]
    assert status.main(arguments) == 0
    assert "nights" not in capsys.readouterr().out
    keep_plan(workspace, asked(), SETTINGS, 0, EVENING)
    write_night(workspace, worked(0, 0, 512))
    assert status.main(arguments) == 0
    told = capsys.readouterr().out
    for words in (
        'cron "0 23 * * *" (Europe/Berlin)',
        "512 rows a night",
        "0 → 512 rows",
        "stopped: quota",
        "forecast:",
    ):
        assert words in told
    assert status.main(["--profile", "t4", "--generation.rows", "9000", "--workspace", str(workspace.root)]) == 0
    assert "planned for other settings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cron", "0 25 * * *"], ["--cron", "0 25 * * *", "Bad hour"]),
        (["--cron", "nightly"], ["--cron", "nightly", "five fields"]),
        (["--timezone", "Mars/Base"], ["--timezone", "Mars/Base", "Europe/Berlin"]),
        (["--nights", "0"], ["--nights", "'0'", "whole number above 0"]),
        (["--rows-per-night", "many"], ["--rows-per-night", "many", "whole number"]),
        (["--hours-per-night", "nan"], ["--hours-per-night", "nan", "above 0"]),
        (["--every", "5", "--cron", "0 1 * * *"], ["--cron", "not allowed with", "--every"]),
        (["--generation.rowz", "3"], ["generation.rowz"]),
    ],
)
def test_a_wrong_schedule_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    assert schedule.main(["--workspace", str(tmp_path / "w"), *arguments]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    for word in words:
        assert word in told
    assert list(tmp_path.iterdir()) == []


def test_one_run_at_a_time_whatever_path_leads_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with only_one(tmp_path, "python -m flows.generate"):
        busy = pytest.raises(WorkspaceBusyError, match=rf"flows.generate \(pid {os.getpid()}\)")
        with busy, only_one(tmp_path / "link", "a night"):
            pass
        with only_one(tmp_path / "elsewhere", "a night"), only_one(tmp_path, "a schedule", "schedule"):
            pass
    with only_one(tmp_path, "a night"):
        pass


def test_a_second_run_says_who_is_at_work_and_exits_with_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.full_pipeline", "--workspace", str(tmp_path)]
    with only_one(tmp_path, "a night"):
        ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"a night (pid {os.getpid()}) is at work" in ended.stderr and f"kill {os.getpid()}" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_frees_its_workspace_although_a_child_lives_on(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; from pathlib import Path; from storage.lock import only_one\n"
        "with only_one(Path(sys.argv[1]), 'a run'):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=0)\n"
        "    print(child.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdout and run.stdin
    child = int(run.stdout.readline())
    with pytest.raises(WorkspaceBusyError, match=f"kill {run.pid}"), only_one(tmp_path, "another"):
        pass
    run.send_signal(signal.SIGKILL)
    run.wait()
    os.kill(child, 0)  # alive
    with only_one(tmp_path, "another"):
        pass
    run.stdin.close()  # ends the child
    run.stdout.close()
