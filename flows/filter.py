"""Five rules, a quality score and the splits: raw rows become training data (2.2, 4.2).

Run alone: `python -m flows.filter --profile demo`. On anyone's rows, without a study:
`python -m flows.filter --input rows.jsonl`, one JSON object with `instruction` and `output` a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from configs.settings import Settings, SettingsError
from flows.batches import Unit, run_units, show_table
from flows.cli import DONE, FAILED, INTERRUPTED, WRONG_SETTINGS, parse_settings, run
from storage.drive import unreachable
from storage.files import read_json
from storage.workspace import Workspace
from tasks.evaluate.work import fetch_benchmarks
from tasks.filter.foreign import ForeignRowsError, filter_file
from tasks.filter.work import filter_raw_rows
from tasks.process import ChildError
from tasks.stages import study_stages

MALFORMED_LINES = 3
SHOWN_LINES = 20


@flow(name="filter", flow_run_name="filter-{settings.profile}-{settings.seed}", persist_result=False)
def filter_rows(settings: Settings, workspace: Path) -> None:
    """Judge every raw row by every rule, score what is kept, fix its split, publish kept and dropped rows."""
    place = Workspace(workspace)
    stage = study_stages(settings, place)["filter"]
    if stage.state().done:
        return
    fetch_benchmarks(settings, place)
    unit = Unit(
        "filter-rows",
        f"filter-{stage.require_key().fingerprint}",
        {"settings": settings, "workspace": place, "stage": stage},
        lambda: stage.state().done or None,
    )
    run_units(filter_raw_rows, [unit], place.state / "prefect", "filter", "stage")
    show_table("filter", read_json(place.filtered / "stats.json")["waterfall"], "What each rule dropped")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage, or filter a file: exit codes as of `run`, and 3 if the file has lines that are no rows."""
    try:
        settings, options = parse_settings("filter", filter_rows.__doc__ or "", arguments, _add_options)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    if options.input is None:
        return run(filter_rows, "filter", ["filter"], arguments, _add_options, needs_models=False)
    folder = options.output or options.input.with_suffix("").with_name(options.input.stem + "-filtered")
    if reason := unreachable(options.input) or unreachable(folder):
        print(reason, file=sys.stderr)
        return WRONG_SETTINGS
    try:
        result = filter_file(options.input, folder, settings.filter)
    except (ForeignRowsError, ChildError, OSError) as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"interrupted; {folder} is as it was", file=sys.stderr)
        return INTERRUPTED
    print(f"{'rule':<12}{'in':>9}{'dropped':>9}{'out':>9}")
    for step in result["waterfall"]:
        print(f"{step['rule']:<12}{step['in']:>9}{step['dropped']:>9}{step['out']:>9}")
    print(f"{result['kept']} of {result['rows']} rows kept, in {folder}")
    for line in result["malformed"][:SHOWN_LINES]:
        print(f"{options.input}:{line['line']}: {line['reason']}", file=sys.stderr)
    if not result["malformed"]:
        return DONE
    print(f"{len(result['malformed'])} lines are no rows, all in {folder / 'malformed.jsonl'}", file=sys.stderr)
    return MALFORMED_LINES


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", type=Path, help="filter this JSON-lines file instead of the study's rows")
    parser.add_argument("--output", type=Path, help="folder for the result of --input (default: NAME-filtered beside)")


if __name__ == "__main__":
    sys.exit(main())
