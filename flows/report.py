"""Comparison tables, charts, the checklist and the report, all from files under `evaluation/` (2.5.2, 3.4, 9).

Run alone: `python -m flows.report --profile demo`.
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
from tasks.report.beyond import not_used
from tasks.report.work import publish_report
from tasks.stages import study_stages


@flow(name="report", flow_run_name="report-{settings.profile}-{settings.seed}", persist_result=False)
def report(settings: Settings, workspace: Path) -> None:
    """Compare the methods, hold the study against the requirements' checklist, draw, and write the report."""
    place = Workspace(workspace)
    stage = study_stages(settings, place)["report"]
    if stage.state().done:
        return
    unit = Unit(
        "write-report",
        f"report-{stage.require_key().fingerprint}",
        {"settings": settings, "workspace": place, "stage": stage},
        lambda: stage.state().done or None,
    )
    run_units(publish_report, [unit], place.state / "prefect", "report", "stage")
    metrics = place.evaluation / "metrics"
    told = {part: read_json(metrics / f"{part}.json") for part in ("tests", "human", "attached")}
    for name, reason in not_used(told):
        print(f"not used: {name}: {reason}", file=sys.stderr)
    print(f"Report, slides and notebook: {place.evaluation}")
    show_table("scores", read_json(metrics / "comparison.json")["scores"], "Benchmark scores")
    show_table("checklist", read_json(metrics / "checklist.json")["items"], "The requirements' checklist")


if __name__ == "__main__":
    sys.exit(run(report, "report", ["report"], needs_models=False))
