"""One scheduled night of generation: it works until its quota or its time is met, and leaves a record.

`python -m flows.schedule` serves it; a worker of one's own runs it from `prefect.yaml`.
"""

from __future__ import annotations

import os
import signal
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from prefect import flow, runtime
from prefect.states import Completed

from configs.settings import Settings
from flows.cli import LEFTOVER_SECONDS, show_warnings
from flows.generate import generate
from flows.schedule import parse_schedule, plan_of, rows_done
from flows.server import end_with_parent
from storage.files import sweep_leftovers
from storage.lock import WorkspaceBusyError, only_one
from storage.workspace import Workspace
from tasks.generate.nights import Night, Plan, Stopped, write_night
from tasks.stages import study_stages

SCHEDULE_PID = "SIT_SCHEDULE_PID"


def _run_name() -> str:
    return f"night-{datetime.now():%Y-%m-%d-%H%M%S}"


@flow(name="night", flow_run_name=_run_name, persist_result=False)
def night(arguments: list[str]) -> Any:
    """Work one night; what is left is read from the disk.

    Args:
        arguments: the command line of `flows.schedule`.

    Returns:
        Why it stopped: "quota", "time" or "complete"; "missed" where it came too late, "refused" where another run is
        at work in its workspace. Prefect shows these two by that name: a state of failure would make its engine print
        a page of traceback.
    """
    _end_with_schedule()
    settings, workspace, options = parse_schedule(arguments)
    plan = plan_of(settings, workspace, options)
    now = _now(plan)
    scheduled = datetime.fromtimestamp(runtime.flow_run.scheduled_start_time.timestamp(), now.tzinfo)
    if plan.missed(scheduled, now):
        late = f"it was due {scheduled.isoformat()}; a later night makes up for it"
        return Completed(name="Missed", message=late, data="missed")
    try:
        with only_one(workspace.root, "a night"):
            sweep_leftovers(workspace.root, LEFTOVER_SECONDS)
            return _work(settings, workspace, plan, scheduled)
    except WorkspaceBusyError as error:
        return Completed(name="Refused", message=str(error), data="refused")


def _work(settings: Settings, workspace: Workspace, plan: Plan, scheduled: datetime) -> Stopped:
    if study_stages(settings, workspace)["generate"].state().done:
        return "complete"
    show_warnings(settings, workspace)
    started, before = _now(plan), rows_done(settings, workspace)
    stopped: Stopped = "interrupted"
    budget = plan.budget(before)
    try:
        published = generate(settings, workspace.root, budget)
        stopped = "complete" if published else "time" if budget.spent() else "quota"
    except Exception:
        stopped = "failed"
        raise
    finally:
        after = rows_done(settings, workspace)
        write_night(workspace, Night(scheduled, started, _now(plan), before, after, stopped))
    return stopped


def _now(plan: Plan) -> datetime:
    return datetime.now(ZoneInfo(plan.asked.timezone))


def _end_with_schedule() -> None:
    """Where a schedule began this process: end when it is killed, so that nobody works unseen and unasked."""
    schedule = os.environ.get(SCHEDULE_PID)
    if schedule is None or os.getpid() == int(schedule):
        return
    end_with_parent(signal.SIGKILL)  # the server goes, too: a gentler end would wait minutes for it, with the lock held
    if os.getppid() != int(schedule):
        raise RuntimeError("the schedule that began this night is gone")
