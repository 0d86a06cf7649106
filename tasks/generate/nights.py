"""Generation in nights: the plan, what each night did, and when the end is to be expected. Read from the disk alone.

`.state/nights/plan.json` holds what was asked for and the quota that follows from it; beside it lies one record a
night, written once when the night ends. How many nights are left follows from the rows on disk, never from a count of
nights: one that was missed or killed is made up for by a longer plan.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim

from configs.settings import Settings
from storage.files import read_json, write_json
from storage.workspace import Workspace
from tasks.generate.budget import Budget

MARGIN_HOURS = 0.5  # of a session, for loading the model before a night and for the batches under way at its end
GRACE_MINUTES = 60.0
START_SECONDS = 60.0
SHOWN = 7

Stopped = Literal["quota", "time", "complete", "failed", "interrupted"]


@dataclass(frozen=True)
class Asked:
    """What the command line asked for; as long as it asks the same, the plan stays.

    Attributes:
        profile: name of the profile.
        seed: the study's seed.
        rows: rows wanted in all.
        cron: when nights begin; none where `every` says it, or where nights are begun by hand.
        every: seconds between the beginnings of two nights.
        timezone: IANA name of the zone that `cron` means.
        nights: over how many nights to spread the work.
        rows_per_night: quota; none derives it from `nights`.
        hours_per_night: time budget [h]; none derives it from the session's length.
        grace_minutes: a night that would begin later than this is missed [min]; none takes an hour, or `every` where
            that is shorter, but at least a minute: a night's process alone takes seconds to start.
    """

    profile: str
    seed: int
    rows: int
    cron: str | None
    every: float | None
    timezone: str
    nights: int
    rows_per_night: int | None = None
    hours_per_night: float | None = None
    grace_minutes: float | None = None


@dataclass(frozen=True)
class Plan:
    """What was asked for and what follows from it.

    Attributes:
        asked: the command line.
        planned: when.
        rows_done: rows on disk then.
        quota: rows a night finishes, whole batches.
        hours: hours after which a night begins no further batch.
        grace: seconds after its time at which a night still begins.
        batch: rows a batch.
    """

    asked: Asked
    planned: datetime
    rows_done: int
    quota: int
    hours: float
    grace: float
    batch: int

    def budget(self, rows_done: int) -> Budget:
        """What the night that begins now may do; the rows on disk afterwards are whole batches."""
        rows = _whole_batches(rows_done + self.quota, self.batch) - rows_done
        return Budget(rows=rows, deadline=time.monotonic() + 3600 * self.hours)

    def missed(self, scheduled: datetime, now: datetime) -> bool:
        """Whether a night begins too late to be worked: after downtime Prefect replays every late run, oldest first."""
        return (now - scheduled).total_seconds() > self.grace

    def starts(self, after: datetime) -> Iterator[datetime]:
        """When nights begin, in the plan's zone, later than `after`; nothing where they are begun by hand."""
        zone = ZoneInfo(self.asked.timezone)
        if self.asked.cron:
            yield from CronSim(self.asked.cron, after.astimezone(zone))
        elif self.asked.every:
            number = int((after - self.planned).total_seconds() // self.asked.every)
            while True:
                number += 1
                yield _later(self.planned.astimezone(zone), number * self.asked.every / 3600)

    def serves(self, settings: Settings) -> bool:
        """Whether it was made for these settings."""
        asked = self.asked
        return (asked.profile, asked.seed, asked.rows) == (settings.profile, settings.seed, settings.generation.rows)


@dataclass(frozen=True)
class Night:
    """What one night did.

    Attributes:
        scheduled: when it should have begun.
        started: when it did.
        ended: when it ended.
        rows_before: rows on disk when it began.
        rows_after: rows on disk when it ended.
        stopped: why it ended.
    """

    scheduled: datetime
    started: datetime
    ended: datetime
    rows_before: int
    rows_after: int
    stopped: Stopped


@dataclass(frozen=True)
class Forecast:
    """What is to be expected, if every coming night works as planned.

    Attributes:
        nights: nights left, one that is at work now not counted.
        last: when the last one begins; none where nights are begun by hand.
        end: when the last row is done: at the measured speed, or at the last night's time limit where none is known.
        rows_per_hour: measured over the nights so far; none before the first.
    """

    nights: int
    last: datetime | None
    end: datetime | None
    rows_per_hour: float | None


def make_plan(asked: Asked, settings: Settings, rows_done: int, now: datetime) -> Plan:
    """The plan that follows from what was asked for; quotas are rounded up to whole batches."""
    batch = settings.generation.rows_per_shard
    session = settings.hardware.session_hours
    grace = 60 * (GRACE_MINUTES if asked.grace_minutes is None else asked.grace_minutes)
    if asked.every and asked.grace_minutes is None:
        grace = min(grace, max(asked.every, START_SECONDS))
    rows = asked.rows_per_night or -(-max(1, asked.rows - rows_done) // asked.nights)
    return Plan(
        asked=asked,
        planned=now.replace(microsecond=0),
        rows_done=rows_done,
        quota=_whole_batches(rows, batch),
        hours=asked.hours_per_night or max(session - MARGIN_HOURS, session / 2),
        grace=grace,
        batch=batch,
    )


def keep_plan(workspace: Workspace, asked: Asked, settings: Settings, rows_done: int, now: datetime) -> Plan:
    """The workspace's plan if it was made for the same request, else a new one in its place."""
    plan = read_plan(workspace)
    if plan and plan.asked == asked:
        return plan
    plan = make_plan(asked, settings, rows_done, now)
    write_json(_folder(workspace) / "plan.json", asdict(plan) | {"planned": plan.planned.isoformat()})
    return plan


def read_plan(workspace: Workspace) -> Plan | None:
    """The plan, or None where there is none that can be read."""
    try:
        values = read_json(_folder(workspace) / "plan.json")
        planned = datetime.fromisoformat(values["planned"])
        return Plan(**values | {"asked": Asked(**values["asked"]), "planned": planned})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_night(workspace: Workspace, night: Night) -> Path:
    """Write a night's record, and never over another: a night that is run again has a record of its own."""
    stem = night.scheduled.astimezone(ZoneInfo("UTC")).strftime("%Y%m%dT%H%M%SZ")
    path, number = _folder(workspace) / f"{stem}.json", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{stem}-{number}.json")
    write_json(path, _night_json(night))
    return path


def read_nights(workspace: Workspace, since: datetime) -> list[Night]:
    """Records of the nights that began since a time, oldest first; a record that cannot be read is left out."""
    found = (_read_night(path) for path in _folder(workspace).glob("[0-9]*.json"))
    return sorted((night for night in found if night and night.started >= since), key=lambda night: night.started)


def rows_per_hour(nights: Sequence[Night]) -> float | None:
    """Measured speed, loading the model included; None where no night finished a row."""
    worked = [night for night in nights if night.rows_after > night.rows_before]
    hours = sum((night.ended - night.started).total_seconds() for night in worked) / 3600
    return sum(night.rows_after - night.rows_before for night in worked) / hours if hours > 0 else None


def forecast(plan: Plan, nights: Sequence[Night], rows_done: int, now: datetime) -> Forecast | None:
    """When the end is to be expected; None where no row is left."""
    left = plan.asked.rows - rows_done
    if left <= 0:
        return None
    rate = rows_per_hour(nights)
    a_night = min(plan.quota, max(1, int(rate * plan.hours))) if rate else plan.quota
    count = -(-left // a_night)
    last = next(islice(plan.starts(now), count - 1, None), None)
    hours = (left - (count - 1) * a_night) / rate if rate else plan.hours
    return Forecast(count, last, last and _later(last, hours), rate)


def plan_lines(plan: Plan, nights: Sequence[Night], rows_done: int, now: datetime) -> list[str]:
    """The plan in words: what was asked for, what was done, what is to be expected."""
    lines = [
        f"nights   {_when(plan.asked)}: {plan.quota} rows a night, {plan.hours:g} h at most; "
        f"planned {_day(plan.planned, plan)} with {plan.rows_done} of {plan.asked.rows} rows on disk"
    ]
    for night in nights[-SHOWN:]:
        hours = (night.ended - night.started).total_seconds() / 3600
        lines.append(
            f"  worked {_day(night.started, plan)}: {night.rows_before} → {night.rows_after} rows "
            f"in {hours:.2g} h, stopped: {night.stopped}"
        )
    expected = forecast(plan, nights, rows_done, now)
    if expected is None:
        return [*lines, "  no row is left to draw"]
    lines += [f"  coming {_day(start, plan)}" for start in islice(plan.starts(now), min(expected.nights, SHOWN))]
    if expected.nights > SHOWN and expected.last:
        lines.append(f"    … and {expected.nights - SHOWN} more, the last {_day(expected.last, plan)}")
    basis = (
        f"at {expected.rows_per_hour:,.0f} rows/h as measured"
        if expected.rows_per_hour
        else "if each reaches its quota; no speed is measured yet"
    )
    done = f", done {'about' if expected.rows_per_hour else 'by'} {_day(expected.end, plan)}" if expected.end else ""
    word = "night" if expected.nights == 1 else "nights"
    return [*lines, f"  forecast: {expected.nights} more {word}{done} ({basis})"]


def plan_json(plan: Plan, nights: Sequence[Night], rows_done: int, now: datetime) -> dict[str, Any]:
    """The same as plain JSON; times in ISO format with their zone."""
    expected = forecast(plan, nights, rows_done, now)
    following = next(plan.starts(now), None) if expected else None
    return {
        "plan": asdict(plan) | {"planned": plan.planned.isoformat()},
        "worked": [_night_json(night) for night in nights],
        "next": following and following.isoformat(),
        "forecast": expected
        and asdict(expected)
        | {
            "last": expected.last and expected.last.isoformat(),
            "end": expected.end and expected.end.isoformat(),
        },
    }


def _folder(workspace: Workspace) -> Path:
    return workspace.state / "nights"


def _whole_batches(rows: int, batch: int) -> int:
    return -(-rows // batch) * batch


def _night_json(night: Night) -> dict[str, Any]:
    times = {name: getattr(night, name).isoformat() for name in ("scheduled", "started", "ended")}
    return asdict(night) | times


def _read_night(path: Path) -> Night | None:
    try:
        values = read_json(path)
        times = {name: datetime.fromisoformat(values[name]) for name in ("scheduled", "started", "ended")}
        return Night(**values | times)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _later(start: datetime, hours: float) -> datetime:
    # hours pass, whatever the clocks on the wall are put to meanwhile
    return (start.astimezone(ZoneInfo("UTC")) + timedelta(hours=hours)).astimezone(start.tzinfo)


def _when(asked: Asked) -> str:
    if asked.cron:
        return f'cron "{asked.cron}" ({asked.timezone})'
    return f"every {asked.every:g} s" if asked.every else "begun by hand"


def _day(time: datetime, plan: Plan) -> str:
    shape = "%a %d %b %H:%M:%S" if plan.asked.every else "%a %d %b %H:%M"
    return time.astimezone(ZoneInfo(plan.asked.timezone)).strftime(shape)
