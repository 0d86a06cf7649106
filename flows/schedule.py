"""Generation in nights: `python -m flows.schedule --profile t4 --cron "0 23 * * *" --nights 3`.

Each night works until its row quota or its hours are met and stops between batches; what is left is read from the
disk, so that a night that was missed, killed or moved to another machine costs nothing but its time. The command ends
by itself when the last row is on disk. `--now` works one night at once and ends: for Colab, where the machine is there
only while it is open.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from configs.settings import Settings, SettingsError, is_path, profile_file
from flows.cli import DONE, FAILED, INTERRUPTED, WRONG_SETTINGS, parse, show_warnings
from storage.drive import unreachable
from storage.files import fingerprint
from storage.lock import only_one
from storage.workspace import Workspace, WorkspaceError
from tasks.generate.nights import Asked, Plan, keep_plan, plan_lines, read_nights, read_plan
from tasks.progress import stage_progress
from tasks.stages import study_stages

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

CRON = "0 23 * * *"
NIGHTS = 3
POLL_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the schedule, or work one night now; exit code 0 done, 1 failed, 2 wrong settings, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        settings, workspace, options = parse_schedule(words)
    except (SettingsError, WorkspaceError) as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    if study_stages(settings, workspace)["generate"].state().done:
        print(f"Nothing to do: the raw data are complete in {workspace.root} for these settings.")
        return DONE
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    words += ["--workspace", str(workspace.root)]  # the night may be run from another folder
    if is_path(options.profile):
        words += ["--profile", str(profile_file(options.profile).absolute())]
    try:
        show_warnings(settings, workspace)
        if options.now:
            return _work_now(settings, workspace, options, words)
        with only_one(workspace.root, "python -m flows.schedule", "schedule"):
            return _serve(settings, workspace, options, words)
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is lost. Run the same command again to go on.", file=sys.stderr)
        return INTERRUPTED
    except SettingsError as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    except Exception as error:  # noqa: BLE001 - the one place where a failure becomes an exit code
        gone = unreachable(workspace.root)
        print(f"\n{gone or f'{type(error).__name__}: {error}'}", file=sys.stderr)
        print("What was finished is kept. Run the same command again to go on.", file=sys.stderr)
        return FAILED


def parse_schedule(arguments: Sequence[str] | None) -> tuple[Settings, Workspace, argparse.Namespace]:
    """Settings, workspace and options of the schedule's command line; `parse` says what it raises."""
    return parse("schedule", __doc__ or "", arguments, _add_options)


def plan_of(settings: Settings, workspace: Workspace, options: argparse.Namespace) -> Plan:
    """The workspace's plan, made or renewed where the command line asks for another one."""
    held = read_plan(workspace)
    asked = Asked(
        profile=settings.profile,
        seed=settings.seed,
        rows=settings.generation.rows,
        cron=None if options.every else options.cron or CRON,
        every=options.every,
        timezone=options.timezone or (held.asked.timezone if held else local_zone()),
        nights=options.nights,
        rows_per_night=options.rows_per_night,
        hours_per_night=options.hours_per_night,
        grace_minutes=options.grace_minutes,
    )
    if options.now and not (options.cron or options.every):
        when = (held.asked.cron, held.asked.every, held.asked.timezone) if held else (None, None, asked.timezone)
        asked = replace(asked, cron=when[0], every=when[1], timezone=when[2])
    now = datetime.now(ZoneInfo(asked.timezone))
    return keep_plan(workspace, asked, settings, rows_done(settings, workspace), now)


def rows_done(settings: Settings, workspace: Workspace) -> int:
    """Rows that lie finished on disk."""
    stage = study_stages(settings, workspace)["generate"]
    return stage_progress(stage, settings, workspace, stage.state().done)[0]


def local_zone() -> str:
    """The machine's time zone by its IANA name, UTC where it tells none."""
    for name in (
        os.environ.get("TZ", "").removeprefix(":"),
        os.path.realpath("/etc/localtime").partition("zoneinfo/")[2],
    ):
        with suppress(ValueError, OSError, KeyError):
            return ZoneInfo(name).key
    return "UTC"


def _work_now(settings: Settings, workspace: Workspace, options: argparse.Namespace, words: list[str]) -> int:
    plan = plan_of(settings, workspace, options)
    _begin(settings, workspace, plan, options.keep_ui)

    from flows.night import night

    ended: Any = night(words, return_state=True)
    stopped = ended.result(raise_on_failure=True)
    if stopped == "refused":
        print(f"\n{ended.message}", file=sys.stderr)
        return FAILED
    print(f"This night is over ({stopped}): {rows_done(settings, workspace)} of {plan.asked.rows} rows are on disk.")
    if stopped != "complete":
        print("Run the same command again for the next night.")
    return DONE


def _serve(settings: Settings, workspace: Workspace, options: argparse.Namespace, words: list[str]) -> int:
    plan = plan_of(settings, workspace, options)
    _begin(settings, workspace, plan, options.keep_ui)
    print("Nights begin while this command runs; stop it with Ctrl-C.", flush=True)
    manifest = workspace.raw / "manifest.json"
    seen = [-1]

    def complete() -> bool:
        changed, before = _changed(manifest), seen[0]
        seen[0] = changed
        return changed != before and study_stages(settings, workspace)["generate"].state().done

    finished = asyncio.run(_run_nights(_deployment(plan, workspace, words), plan, complete))
    if not finished:
        raise KeyboardInterrupt
    print(f"The raw data are complete: {workspace.relative(workspace.raw / 'raw.jsonl')} in {workspace.root}.")
    return DONE


def _begin(settings: Settings, workspace: Workspace, plan: Plan, keep_ui: bool) -> None:
    from flows.server import ensure_server

    print(f"schedule · profile {settings.profile} · seed {settings.seed} · workspace {workspace.root}")
    now = datetime.now(ZoneInfo(plan.asked.timezone))
    nights = read_nights(workspace, plan.planned)
    print("\n".join(plan_lines(plan, nights, rows_done(settings, workspace), now)), flush=True)
    print(f"Prefect UI {ensure_server(keep_ui)}/deployments", flush=True)


def _deployment(plan: Plan, workspace: Workspace, words: list[str]) -> RunnerDeployment:
    """One deployment a workspace, with a schedule, and with a limit that cancels a night while another one works."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Cron, Interval
    from prefect.types.entrypoint import EntrypointType

    from flows.night import night

    asked = plan.asked
    schedule = (
        Cron(asked.cron, timezone=asked.timezone, slug="nights")
        if asked.cron
        else Interval(timedelta(seconds=asked.every or 0), anchor_date=plan.planned, slug="nights")
    )
    deployment = night.to_deployment(
        name=f"{workspace.root.name}-{fingerprint(str(workspace.root), 8)}",
        schedule=schedule,
        paused=False,  # a schedule that was stopped left it paused
        parameters={"arguments": words},
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return deployment  # type: ignore[return-value]  # Prefect's own type of it is a coroutine's, too


async def _run_nights(deployment: RunnerDeployment, plan: Plan, complete: Callable[[], bool]) -> bool:
    """Run nights as they come; True when the raw data are complete, False when a signal asks to stop."""
    from prefect.runner import Runner
    from prefect.settings import PREFECT_API_URL

    from flows.night import SCHEDULE_PID

    os.environ[SCHEDULE_PID] = str(os.getpid())
    poll = min(POLL_SECONDS, plan.asked.every / 4) if plan.asked.every else POLL_SECONDS
    # two slots, so that a night whose time comes while another works is offered to the server, which cancels it; with
    # one, it would wait and be run late
    runner = Runner(query_seconds=poll, prefetch_seconds=0, limit=2)
    identity = await runner.aadd_deployment(deployment)
    await _close_lost_nights(identity)
    serving = asyncio.create_task(runner.start())
    while not runner.started and not serving.done():
        await asyncio.sleep(0.05)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    finished = False
    while not (finished or stop.is_set() or serving.done()):
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), timeout=poll)
        finished = await asyncio.to_thread(complete)
    if finished:
        await _await_last_night(runner, identity, stop)
    if not serving.done():
        await runner.astop()
    try:
        await serving
    except Exception as error:
        raise RuntimeError(f"Prefect's runner gave up; is its server at {PREFECT_API_URL.value()} alive?") from error
    return finished


async def _await_last_night(runner: Runner, deployment: UUID, stop: asyncio.Event) -> None:
    """Ask for no further night and let the last one report its end: a runner that stops cancels what it runs."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        await client.pause_deployment(deployment)
    manager = getattr(runner, "_process_manager", None)  # Prefect has no public way to ask for processes
    while manager and manager.flow_run_ids() and not stop.is_set():
        await asyncio.sleep(0.2)


async def _close_lost_nights(deployment: UUID) -> None:
    """Nights of a killed schedule still hold the limit's one slot: tell the server that they are gone."""
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    async with get_client() as client:
        limit = (await client.read_deployment(deployment)).global_concurrency_limit
        if limit is None or limit.limit != 1:
            raise RuntimeError("the Prefect server did not take the limit of one night at a time; update the server")
        for run in await _nights_at_work(client, deployment):
            await client.set_flow_run_state(run.id, Crashed(message="the schedule was killed"))


async def _nights_at_work(client: Any, deployment: UUID) -> list[Any]:
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    at_work = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    found: list[Any] = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=at_work))),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
    )
    return found


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    nights = parser.add_argument_group("nights")
    when = nights.add_mutually_exclusive_group()
    when.add_argument("--cron", type=_cron, help=f'when nights begin (default: "{CRON}")')
    when.add_argument("--every", type=_positive, metavar="SECONDS", help="begin a night every so often, to try it out")
    nights.add_argument(
        "--nights", type=_whole, default=NIGHTS, help=f"spread the rows over N nights (default: {NIGHTS})"
    )
    nights.add_argument("--timezone", type=_zone, help="zone of --cron, such as Europe/Berlin (default: the machine's)")
    nights.add_argument("--rows-per-night", type=_whole, help="quota (default: the rows left by --nights)")
    nights.add_argument("--hours-per-night", type=_positive, help="time limit (default: hardware.session_hours - 0.5)")
    nights.add_argument("--grace-minutes", type=_positive, help="a night later than this is missed (default: 60)")
    nights.add_argument("--now", action="store_true", help="work one night at once, without a schedule")


def _cron(text: str) -> str:
    from cronsim import CronSim, CronSimError

    try:
        if len(text.split()) != 5:
            raise CronSimError("it needs five fields")
        next(CronSim(text, datetime.now()))
    except (CronSimError, StopIteration) as error:
        raise argparse.ArgumentTypeError(
            f'got {text!r}, takes minute, hour, day, month, weekday such as "{CRON}" ({error})'
        ) from None
    return text


def _zone(text: str) -> str:
    try:
        return ZoneInfo(text).key
    except (ValueError, OSError, KeyError):
        raise argparse.ArgumentTypeError(f"got {text!r}, takes an IANA name such as Europe/Berlin or UTC") from None


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"got {text!r}, takes a whole number above 0")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, takes a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
