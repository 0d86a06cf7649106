"""The deliverables leave the workspace whole, only for the settings at hand, and replace nothing but themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.settings import Settings, load_settings
from flows.deliver import main
from storage.files import write_text
from storage.stages import write_manifest
from storage.workspace import Workspace
from tasks.report.deliver import NothingToDeliverError, deliver
from tasks.report.metrics import write_metrics
from tasks.report.report import write_report
from tasks.stages import study_stages
from tests.unit.test_report_study import build_study


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings("demo")


@pytest.fixture
def study(tmp_path: Path, settings: Settings) -> Workspace:
    """A study whose report is published, without slides and notebook."""
    workspace = build_study(tmp_path / "w", settings)
    write_metrics(workspace, settings)
    write_text(workspace.evaluation / "figures" / "scores.png", "drawn")
    files = [write_report(workspace, settings), *(workspace.evaluation / "metrics").glob("*.json")]
    write_manifest(workspace.evaluation, study_stages(settings, workspace)["report"].require_key(), {}, files, ["*"])
    return workspace


def test_what_is_there_is_delivered_and_nothing_else(study: Workspace, settings: Settings, tmp_path: Path) -> None:
    target = tmp_path / "examples"
    write_text(target / "report.pdf", "of an earlier time")
    files = deliver(settings, study, target)
    names = {path.relative_to(target).as_posix() for path in files}
    assert {"report.md", "figures/scores.png", "metrics/comparison.json"} <= names
    assert "report.pdf" not in names and "manifest.json" not in names and not any("results" in name for name in names)
    assert (target / "report.md").read_bytes() == (study.evaluation / "report.md").read_bytes()


def test_a_folder_with_other_things_is_left_alone(study: Workspace, settings: Settings, tmp_path: Path) -> None:
    write_text(tmp_path / "home" / "thesis.txt", "years of work")
    with pytest.raises(NothingToDeliverError, match="thesis.txt"):
        deliver(settings, study, tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.txt"]


def test_a_stale_or_missing_report_is_not_delivered(
    study: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    assert main(["--workspace", str(study.root), "--to", str(target), "--evaluation.alpha", "0.01"]) == 1
    assert "the report is stale" in capsys.readouterr().err
    assert main(["--workspace", str(tmp_path / "empty"), "--to", str(target)]) == 1
    assert "python -m flows.report" in capsys.readouterr().err and not target.exists()
    assert main(["--workspace", str(study.root), "--to", str(target)]) == 0
    assert "files" in capsys.readouterr().out
