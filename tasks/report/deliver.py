"""The deliverables of a finished study, copied out of its workspace: what one hands in, or shows beside the code."""

from __future__ import annotations

import shutil
from pathlib import Path

from configs.settings import Settings
from storage.files import folder_aside
from storage.workspace import Workspace
from tasks.stages import study_stages

DELIVERABLES = ("report.md", "report.html", "report.pdf", "presentation.pptx", "comparative_analysis.ipynb")
BESIDE = ("figures", "metrics")
"""What the report links to."""


class NothingToDeliverError(RuntimeError):
    """The report is not there, or not for these settings; the message says which and what to run."""


def deliver(settings: Settings, workspace: Workspace, target: Path) -> list[Path]:
    """Replace `target` by the report in its formats, its charts and figures, the slides and the notebook.

    Returns:
        The files written, largest last.

    Raises:
        NothingToDeliverError: the report is stale or not published, or `target` holds something else.
    """
    state = study_stages(settings, workspace)["report"].state()
    if not state.done:
        why = f"is stale: {'; '.join(state.reasons)}" if state.reasons else "is not there"
        raise NothingToDeliverError(f"the report {why}; run `python -m flows.report` with these settings first")
    known = {*DELIVERABLES, *BESIDE}
    others = sorted(path.name for path in target.iterdir() if path.name not in known) if target.is_dir() else []
    if others:
        raise NothingToDeliverError(
            f"{target} holds other things too ({', '.join(others[:3])}), which would be lost; name another folder"
        )
    with folder_aside(target.absolute()) as aside:
        for name in DELIVERABLES:
            if (workspace.evaluation / name).is_file():
                shutil.copyfile(workspace.evaluation / name, aside / name)
        for name in BESIDE:
            shutil.copytree(workspace.evaluation / name, aside / name)
    return sorted((path for path in target.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
