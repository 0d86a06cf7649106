"""The study's data for others: `python -m flows.export`, after the filter and preference stages.

`--push-to-hub OWNER/NAME` uploads them too, with the token in the environment variable HF_TOKEN.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from configs.settings import SettingsError
from flows.cli import DONE, FAILED, INTERRUPTED, WRONG_SETTINGS, parse
from storage.lock import WorkspaceBusyError, only_one
from storage.workspace import WorkspaceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and push if asked to; exit code 0, 1 failed, 2 wrong settings, 130 interrupted."""
    try:
        settings, workspace, options = parse("export", __doc__ or "", arguments, _add_options)
        token = _require_token(options.push_to_hub)
    except (SettingsError, WorkspaceError) as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS

    from tasks.export import ExportError, export_data, push

    try:
        with only_one(workspace.root, "python -m flows.export"):
            folder = export_data(settings, workspace)
            print(f"{folder}: parquet, sharegpt, alpaca, conversational, preference")
            if options.push_to_hub:
                print(push(folder, options.push_to_hub, token, public=options.public))
    except (ExportError, WorkspaceBusyError, OSError) as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return INTERRUPTED
    return DONE


def _require_token(repository: str | None) -> str:
    if repository is None:
        return ""

    from tasks.export import ExportError, require_repository

    try:
        require_repository(repository)
    except ExportError as error:
        raise SettingsError(str(error)) from None
    token = os.environ.get("HF_TOKEN", "")
    if not token:
        raise SettingsError("--push-to-hub: HF_TOKEN is not set; put a token with write access into the environment")
    return token


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload to this dataset; needs HF_TOKEN")
    parser.add_argument("--public", action="store_true", help="a dataset that the push creates is public")


if __name__ == "__main__":
    sys.exit(main())
