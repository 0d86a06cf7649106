"""What one hands in, out of the workspace: `python -m flows.deliver --to FOLDER`, after the report.

The report in its three formats, its charts and figures, the slides and the notebook; `examples/` was made so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.settings import SettingsError
from flows.cli import DONE, FAILED, INTERRUPTED, WRONG_SETTINGS, parse
from storage.workspace import WorkspaceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy the deliverables; exit code 0, 1 failed, 2 wrong settings, 130 interrupted."""
    try:
        settings, workspace, options = parse("deliver", __doc__ or "", arguments, _add_options)
    except (SettingsError, WorkspaceError) as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS

    from tasks.report.deliver import NothingToDeliverError, deliver

    try:
        files = deliver(settings, workspace, options.to)
    except (NothingToDeliverError, OSError) as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return INTERRUPTED
    total = sum(path.stat().st_size for path in files)
    print(f"{options.to}: {len(files)} files, {total / 1e6:.1f} MB, the largest {files[-1].name}")
    return DONE


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="folder to write; it is replaced")


if __name__ == "__main__":
    sys.exit(main())
