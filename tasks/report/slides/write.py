"""`evaluation/presentation.pptx`: fifteen minutes on the study, one message a slide, made from the metrics files alone.

A slide's title is its message, a sentence that follows from the figures (`findings.py`); tables and charts are native
(`deck.py`, `charts.py`), and the notes say what to tell and by when. The slides come in the order below.
"""

from __future__ import annotations

from pathlib import Path

from configs.settings import Settings
from storage.files import write_bytes
from storage.workspace import Workspace
from tasks.report.slides.findings import load_study, subject


def write_slides(workspace: Workspace, settings: Settings) -> Path:
    """Write the presentation; what is missing is shown as not measured, and nothing is made up."""
    from tasks.report.slides import data, frame, results
    from tasks.report.slides.deck import Deck

    study = load_study(workspace, settings)
    deck = Deck(subject(study))
    for slide in (
        frame.opening,
        frame.answer,
        data.pipeline,
        data.filtering,
        data.preferences,
        data.methods,
        data.training,
        results.costs,
        results.benchmarks,
        results.differences,
        results.detectable,
        results.trade_off,
        results.beyond,
        results.attached,
        frame.use_cases,
        frame.limits,
        frame.conclusion,
        frame.backup,
    ):
        slide(study, deck)
    path = workspace.evaluation / "presentation.pptx"
    write_bytes(path, deck.save())
    return path
