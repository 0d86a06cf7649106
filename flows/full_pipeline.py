"""The whole study, stage after stage: `python -m flows.full_pipeline [--profile P] [--workspace W]`.

An instruct model writes its own instructions and answers; filters keep the good ones; three models and a reward
model make preference pairs; a base model is adapted by LoRA, prompt tuning and DPO; each is measured; a report
compares them. What is on disk already is not made again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow

from configs.settings import Settings
from flows.cli import run
from flows.evaluate import evaluate
from flows.filter import filter_rows
from flows.generate import generate
from flows.judge import judge
from flows.prefer import prefer
from flows.report import report
from flows.tune import tune
from storage.files import read_json
from storage.workspace import Workspace
from tasks.report.tables import checklist_table, comparison_table
from tasks.stages import study_stages


class IncompleteStudyError(RuntimeError):
    """More than one of the last steps failed; the message tells each one's failure."""


@flow(name="full-pipeline", flow_run_name="full-pipeline-{settings.profile}-{settings.seed}", persist_result=False)
def full_pipeline(settings: Settings, workspace: Path) -> None:
    """Run the whole study: generate, filter, prefer, tune, evaluate, judge, report."""
    generate(settings, workspace)
    filter_rows(settings, workspace)
    prefer(settings, workspace)
    tune(settings, workspace)
    failures = []
    for step in (evaluate, judge, report):
        try:
            step(settings, workspace)
        except Exception as error:  # noqa: BLE001 - told below, once the report shows what was measured
            failures.append(error)
    if study_stages(settings, Workspace(workspace))["report"].state().done:
        show_results(settings, Workspace(workspace))
    if len(failures) > 1:
        raise IncompleteStudyError("\n".join(f"{type(error).__name__}: {error}" for error in failures))
    if failures:
        raise failures[0]


def show_results(settings: Settings, workspace: Workspace) -> None:
    """Print the comparison and the checklist."""
    metrics = workspace.evaluation / "metrics"
    evaluation = settings.evaluation
    comparison, efficiency = read_json(metrics / "comparison.json"), read_json(metrics / "efficiency.json")
    print(comparison_table(comparison, efficiency, list(evaluation.benchmarks), evaluation.alpha))
    print(checklist_table(read_json(metrics / "checklist.json")["items"]))


if __name__ == "__main__":
    sys.exit(run(full_pipeline, "full_pipeline", [""]))
