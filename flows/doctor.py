"""Whether a study would run here, told in one pass: `python -m flows.doctor --profile t4 [--workspace W]`.

Machine, packages, every model, every benchmark, disk and workspace: a line each. The other commands look at the same
before they begin.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from configs.settings import SettingsError
from flows.cli import DONE, FAILED, INTERRUPTED, WRONG_SETTINGS, parse
from storage.workspace import WorkspaceError
from tasks.doctor.examine import examine


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every check; exit code 0, 1 if one fails, 2 for wrong settings."""
    try:
        settings, workspace, _ = parse("doctor", __doc__ or "", arguments)
    except (SettingsError, WorkspaceError) as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    print(f"doctor · profile {settings.profile} · workspace {workspace.root}", flush=True)
    try:
        checks = examine(settings, workspace)
    except KeyboardInterrupt:
        return INTERRUPTED
    for check in checks:
        print(f"{check.state:<9}{check.name:<14}{check.told}")
    failed = sum(check.state == "fail" for check in checks)
    print(f"{failed} of {len(checks)} checks fail." if failed else "Nothing stands in the way.")
    return FAILED if failed else DONE


if __name__ == "__main__":
    sys.exit(main())
