"""The report stage: metrics, charts, report, slides and notebook, in `evaluation/` beside the results they show."""

from __future__ import annotations

from typing import Any

from configs.settings import Settings
from storage.stages import write_manifest
from storage.workspace import Workspace
from tasks.provenance import provenance
from tasks.report.charts import write_charts
from tasks.report.html import write_html
from tasks.report.notebook import NOTEBOOK, NotebookError, write_notebook
from tasks.report.pdf import write_pdf
from tasks.report.report import write_metrics, write_report
from tasks.report.slides.write import write_slides
from tasks.stages import Stage


def publish_report(settings: Settings, workspace: Workspace, stage: Stage) -> dict[str, Any]:
    """Write everything anew from the published results.

    Raises:
        NotebookError: a cell of the notebook failed; all else is written, and the stage is not done.
    """
    write_metrics(workspace, settings)
    charts = write_charts(workspace, settings)
    write_slides(workspace, settings)  # which the checklist asks for, and which show the checklist
    report = write_report(workspace, settings)
    documents = [report, write_html(workspace), write_pdf(workspace), write_slides(workspace, settings)]
    failure = None
    try:
        documents.append(write_notebook(workspace, settings))
    except NotebookError as error:
        failure = error
    metrics = sorted((workspace.evaluation / "metrics").glob("*.json"))
    write_manifest(
        workspace.evaluation,
        stage.require_key(),
        provenance(settings, workspace),
        [*metrics, *charts, *documents],
        ["*"],  # all of it shows durations, which two equal runs do not share
        {NOTEBOOK: str(failure)} if failure else None,
    )
    if failure:
        raise failure
    return {"report": workspace.relative(report), "charts": len(charts)}
