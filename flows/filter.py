"""Five rules, a quality score and the splits: raw rows become training data (2.2, 4.2).

Run alone: `python -m flows.filter --profile demo`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow

from configs.settings import Settings
from flows.batches import Unit, run_units, show_table
from flows.cli import run
from storage.files import read_json
from storage.workspace import Workspace
from tasks.filter.work import filter_raw_rows
from tasks.stages import study_stages


@flow(name="filter", flow_run_name="filter-{settings.profile}-{settings.seed}", persist_result=False)
def filter_rows(settings: Settings, workspace: Path) -> None:
    """Judge every raw row by every rule, score what is kept, fix its split, publish kept and dropped rows."""
    place = Workspace(workspace)
    stage = study_stages(settings, place)["filter"]
    if stage.state().done:
        return
    unit = Unit(
        "filter-rows",
        f"filter-{stage.require_key().fingerprint}",
        {"settings": settings, "workspace": place, "stage": stage},
        lambda: stage.state().done or None,
    )
    run_units(filter_raw_rows, [unit], place.state / "prefect", "filter", "stage")
    show_table("filter", read_json(place.filtered / "stats.json")["waterfall"], "What each rule dropped")


if __name__ == "__main__":
    sys.exit(run(filter_rows, "filter", ["filter"]))
