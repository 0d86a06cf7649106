"""How far a study is, told from the disk alone: `python -m flows.status --workspace W [--json]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from configs.settings import Settings, SettingsError
from flows.cli import DONE, WRONG_SETTINGS, parse
from storage.workspace import Workspace, WorkspaceError
from tasks.generate.nights import plan_json, plan_lines, read_nights, read_plan
from tasks.progress import stage_progress
from tasks.stages import study_stages


def status(settings: Settings, workspace: Workspace) -> list[dict[str, Any]]:
    """Each stage: `state` (done, stale, partial or missing), `done` and `total` of its unit, and why it is stale."""
    rows = []
    for name, stage in study_stages(settings, workspace).items():
        held = stage.state()
        done, total, unit = stage_progress(stage, settings, workspace, held.done)
        partial = done or held.failures
        state = "done" if held.done else "stale" if held.reasons else "partial" if partial else "missing"
        reasons = held.reasons + [f"{part} failed: {why}" for part, why in held.failures.items()]
        rows.append({"stage": name, "state": state, "done": done, "total": total, "unit": unit, "reasons": reasons})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the status; exit code 0, or 2 for wrong settings."""
    try:
        settings, workspace, options = parse("status", __doc__ or "", arguments)
    except (SettingsError, WorkspaceError) as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    rows = status(settings, workspace)
    drawn = next(row["done"] for row in rows if row["stage"] == "generate")
    plan = read_plan(workspace)
    ours = plan if plan and plan.serves(settings) else None
    nights = read_nights(workspace, ours.planned) if ours else []
    now = datetime.now(ZoneInfo("UTC"))
    if options.json:
        told = {
            "workspace": str(workspace.root),
            "profile": settings.profile,
            "stages": rows,
            "nights": plan_json(ours, nights, drawn, now) if ours else None,
        }
        print(json.dumps(told, indent=2))
        return DONE
    print(f"{workspace.root} · profile {settings.profile} · seed {settings.seed}")
    width = max(24, *(len(row["stage"]) + 2 for row in rows))
    for row in rows:
        print(f"{row['stage']:<{width}}{row['state']:<9}{row['done']:>6} / {row['total']:<6} {row['unit']}")
        for reason in row["reasons"]:
            print(f"{'':<{width}}  {reason}")
    if ours:
        print("\n".join(plan_lines(ours, nights, drawn, now)))
    elif plan:
        asked = plan.asked
        print(f"nights   planned for other settings: profile {asked.profile}, seed {asked.seed}, {asked.rows} rows")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
