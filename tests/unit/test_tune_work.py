"""What a training tells while it runs, read from the small file that its process rewrites."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.settings import load_settings
from storage.files import write_json
from storage.workspace import Workspace
from tasks.tune.work import TrainingRun


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRun:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = load_settings("demo")
    return TrainingRun(settings, Workspace(tmp_path), "sft", 0, "tune-sft-0123", settings.tuning.sft, "sft seed 1")


def test_a_training_tells_its_share_and_its_loss(run: TrainingRun) -> None:
    assert (run.progress(), run.note()) == (0.0, "")
    write_json(run._progress_file, {"step": 9, "total": 36, "loss": 1.83249})
    assert (run.progress(), run.note()) == (0.25, "sft seed 1 loss 1.832")


@pytest.mark.parametrize("content", [b"", b'{"step": 9, "tot', b"{}"])
def test_a_torn_file_tells_nothing_and_harms_nothing(run: TrainingRun, content: bytes) -> None:
    run._progress_file.write_bytes(content)
    assert (run.progress(), run.note()) == (0.0, "")
