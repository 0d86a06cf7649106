"""How far a study is, told from the disk alone: `python -m flows.status --workspace W [--json]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from configs.settings import Settings, SettingsError
from flows.cli import DONE, WRONG_SETTINGS, parse
from storage.workspace import Workspace, WorkspaceError
from tasks.progress import stage_progress
from tasks.stages import study_stages


def status(settings: Settings, workspace: Workspace) -> list[dict[str, Any]]:
    """Each stage: `state` (done, stale, partial or missing), `done` and `total` of its unit, and why it is stale."""
    rows = []
    for name, stage in study_stages(settings, workspace).items():
        held = stage.state()
        done, total, unit = stage_progress(stage, settings, workspace, held.done)
        state = "done" if held.done else "stale" if held.reasons else "partial" if done else "missing"
        rows.append(
            {"stage": name, "state": state, "done": done, "total": total, "unit": unit, "reasons": held.reasons}
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the status; exit code 0, or 2 for wrong settings."""
    try:
        settings, workspace, options = parse("status", __doc__ or "", arguments)
    except (SettingsError, WorkspaceError) as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    rows = status(settings, workspace)
    if options.json:
        print(json.dumps({"workspace": str(workspace.root), "profile": settings.profile, "stages": rows}, indent=2))
        return DONE
    print(f"{workspace.root} · profile {settings.profile} · seed {settings.seed}")
    for row in rows:
        print(f"{row['stage']:<24}{row['state']:<9}{row['done']:>6} / {row['total']:<6} {row['unit']}")
        for reason in row["reasons"]:
            print(f"{'':<24}  {reason}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
