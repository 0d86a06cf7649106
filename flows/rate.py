"""A page on which people rate the methods' answers: `python -m flows.rate`, after the evaluation.

evaluation/human/rate.html shows blinded pairs, a method's answer beside the base model's, in any browser and without a
network. key.json beside it says which is which: keep it from the raters. Each rater saves a file ratings-NAME.json; put
it into that folder and run `python -m flows.report`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from configs.settings import Settings, SettingsError
from flows.cli import DONE, FAILED, INTERRUPTED, WRONG_SETTINGS, parse
from storage.lock import WorkspaceBusyError, only_one
from storage.stages import doubts
from storage.workspace import Workspace, WorkspaceError
from tasks.evaluate.results import study_methods
from tasks.human.files import PAGE, human_folder
from tasks.human.page import PageError, write_page
from tasks.stages import study_stages


def main(arguments: Sequence[str] | None = None) -> int:
    """Write page and key; exit code 0, 1 failed, 2 wrong settings, 130 interrupted."""
    try:
        settings, workspace, options = parse("rate", __doc__ or "", arguments, _add_options)
        wanted = settings.evaluation.human_pairs if options.pairs is None else options.pairs
        if wanted < 1:
            raise SettingsError(f"--pairs: got {wanted}, takes a number from 1")
    except (SettingsError, WorkspaceError) as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS

    try:
        with only_one(workspace.root, "python -m flows.rate"):
            _require_current_answers(settings, workspace)
            key = write_page(settings, workspace, wanted)
    except (PageError, WorkspaceBusyError, OSError) as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return INTERRUPTED
    folder = human_folder(workspace)
    print(f"{folder / PAGE}: {len(key.pairs)} pairs; {len(key.identical)} more answers equal the base model's, ties")
    if missing := [method for method in study_methods(settings) if method not in key.answers]:
        print(f"not on the page, since they have no answers: {', '.join(missing)}", file=sys.stderr)
    print(f"Put each rater's ratings-NAME.json into {folder} and run `python -m flows.report`.")
    return DONE


def _require_current_answers(settings: Settings, workspace: Workspace) -> None:
    for stage in study_stages(settings, workspace).values():
        if stage.kind == "judge" and (reasons := doubts(stage.folder, stage.key())):
            raise PageError(
                f"the answers of {stage.method} are not those of these settings ({'; '.join(reasons)}); "
                "run `python -m flows.judge` with them first"
            )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, metavar="N", help="instructions to show (default: evaluation.human_pairs)")


if __name__ == "__main__":
    sys.exit(main())
