"""The search for a learning rate on a tiny model, by the task functions themselves: no server, real child processes."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from configs.settings import Settings, load_settings
from storage.files import read_json, write_jsonl
from storage.stages import StageKey, publishing
from storage.workspace import Workspace
from tasks.evaluate.results import TUNED
from tasks.process import ChildError, ModelProcess
from tasks.stages import study_stages
from tasks.tune.plan import plans
from tasks.tune.search import candidates, publish_search, try_candidate
from tasks.tune.work import TrainingWork, train_method
from tests.tiny import WORDS

RATES = [1e30, 1e-6, 5e-3]


@pytest.fixture(scope="module")
def settings(tiny_model: Path) -> Settings:
    shared = {"epochs": 2, "batch_size": 4, "micro_batch": 4, "max_length": 128}
    method = shared | {"learning_rate": 1e-4, "search_rates": RATES, "gradient_checkpointing": False}
    return load_settings(
        "demo",
        {
            "models.base.name": str(tiny_model),
            "hardware.threads": 1,
            "generation.rows": 60,
            "filter.train_rows": 40,
            "filter.val_rows": 8,
            "tuning.checkpoint_steps": 2,
            **{f"tuning.{name}": method for name in TUNED},
        },
    )


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with the rows to train on, published as the filter would."""
    workspace, draw, words = Workspace(tmp_path), random.Random(0), WORDS.split()
    with publishing(workspace.filtered, StageKey("filter", 1, {}, {}), {}) as folder:
        for split, rows in (("train", 40), ("val", 8), ("test", 4)):
            texts = [[" ".join(draw.choices(words, k=8)) for _ in range(2)] for _ in range(rows)]
            write_jsonl(folder / f"{split}.jsonl", [{"instruction": a, "output": b} for a, b in texts])
    return workspace


def test_the_rate_with_the_lowest_validation_loss_is_used(
    place: Workspace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = study_stages(settings, place)["search-sft"]
    tried = candidates(settings, place, stage)
    assert [candidate.rate for candidate in tried] == sorted(RATES)
    for candidate in tried:
        try_candidate(candidate)
        assert not candidate.run.checkpoints.exists()
    publish_search(settings, place, stage)
    assert stage.state().done and {path.name for path in stage.folder.iterdir()} == {
        "search.json", "cost.json", "manifest.json",
    }  # fmt: skip

    search, cost = read_json(stage.folder / "search.json"), read_json(stage.folder / "cost.json")
    assert search["chosen"] == 5e-3 and search["at_edge"] is False
    assert search["budget"] == {"candidates": 3, "epochs": 1.0, "steps": 10}
    small, good, huge = search["candidates"]
    assert good["val_loss"] < small["val_loss"] and huge["val_loss"] is None
    assert "nan" in huge["failure"] and small["failure"] is None
    assert cost["tokens"] == sum(row["tokens"] for row in cost["candidates"]) and cost["seconds"] > 0
    tokens = {row["learning_rate"]: row["tokens"] for row in cost["candidates"]}
    assert 0 < tokens[1e30] < tokens[1e-6] == tokens[5e-3]

    monkeypatch.setattr("tasks.tune.work.run_in_child", refuse)
    for candidate in tried:
        try_candidate(candidate)  # what is kept is not tried again
    monkeypatch.undo()

    work = TrainingWork(settings, place, study_stages(settings, place)["tune-sft"])
    train_method(work)
    metrics = read_json(place.adapter("sft", 0) / "metrics.json")
    assert (metrics["learning_rate"], metrics["steps"]) == (5e-3, 20)
    assert '"learning_rate": 0.005' in (place.adapter("sft", 0) / "README.md").read_text()
    manifest = read_json(place.adapter("sft", 0) / "manifest.json")
    assert manifest["inputs"]["the learning rate"] == "0.005" and "models/sft/search" in manifest["inputs"]


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a process was started")


def test_a_killed_candidate_goes_on_from_its_checkpoint(place: Workspace, settings: Settings) -> None:
    candidate = candidates(settings, place, study_stages(settings, place)["search-prompt_tuning"])[1]
    run = candidate.run
    job = run.job(place.root / "never", plans(run.section.model_dump(), 1)[0])
    with ModelProcess("tasks.tune.search:try_rate", {"job": job}, threads=1) as child:
        end = time.monotonic() + 120
        while not any(run.checkpoints.glob("checkpoint-4")) and not child.ready.done() and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildError):
            child.ready.result()
    assert candidate.outcome() is None and any(run.checkpoints.glob("checkpoint-*"))
    told = run.in_child("tasks.tune.search:try_rate", place.root / "resumed")
    assert read_json(place.root / "resumed" / "cost.json")["segments"] == 2
    assert try_candidate(candidate)["val_loss"] == pytest.approx(told["val_loss"], abs=0)
