"""`evaluation/presentation.pptx`: fifteen minutes on the study, one message a slide, made from the metrics files alone.

A slide's title is its message, a sentence that follows from the figures (`findings.py`); tables and charts are native
(`deck.py`, `deck_charts.py`), and the notes say what to tell and by when. The slides come in the order below.
"""

from __future__ import annotations

from pathlib import Path

from configs.settings import Settings
from storage.files import write_bytes
from storage.workspace import Workspace
from tasks.report.findings import load_study, subject


def write_slides(workspace: Workspace, settings: Settings) -> Path:
    """Write the presentation; what is missing is shown as not measured, and nothing is made up."""
    from tasks.report import slides_data, slides_frame, slides_results
    from tasks.report.deck import Deck

    study = load_study(workspace, settings)
    deck = Deck(subject(study))
    for slide in (
        slides_frame.opening,
        slides_frame.answer,
        slides_data.pipeline,
        slides_data.filtering,
        slides_data.preferences,
        slides_data.methods,
        slides_data.training,
        slides_results.costs,
        slides_results.benchmarks,
        slides_results.differences,
        slides_results.detectable,
        slides_results.trade_off,
        slides_results.beyond,
        slides_results.attached,
        slides_frame.use_cases,
        slides_frame.limits,
        slides_frame.conclusion,
        slides_frame.backup,
    ):
        slide(study, deck)
    path = workspace.evaluation / "presentation.pptx"
    write_bytes(path, deck.save())
    return path
