"""LoRA, prompt tuning, DPO and further methods, each run in a fresh process that resumes where it was killed (2.4).

Run alone: `python -m flows.tune --profile demo`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow

from configs.settings import Settings
from flows.batches import Unit, at_once, run_units
from flows.cli import run
from storage.workspace import Workspace
from tasks.evaluate.results import study_methods
from tasks.models import fetch_models
from tasks.stages import Stage, study_stages
from tasks.tune.methods import METHODS
from tasks.tune.search import candidates, publish_search, try_candidate
from tasks.tune.work import TrainingRun, TrainingWork, train_method, trainings_at_once


@flow(name="tune", flow_run_name="tune-{settings.profile}-{settings.seed}", persist_result=False)
def tune(settings: Settings, workspace: Path) -> None:
    """Train LoRA, prompt tuning and any further method on the filtered rows, then DPO on the LoRA adapters.

    Each method's learning rate is searched for first, where the profile gives it candidates; each is then trained with
    every seed of the study.
    """
    if unfinished(settings, workspace, "search", [*METHODS]) or unfinished(settings, workspace, "tune", [*METHODS]):
        fetch_models([settings.models.base], Workspace(workspace))
    workers = at_once(trainings_at_once(settings))
    search, train = search_rates.with_options(task_runner=workers), train_methods.with_options(task_runner=workers)
    on_the_base_model = [method for method in study_methods(settings) if METHODS[method].peft]
    on_an_adapter = [method for method in study_methods(settings) if not METHODS[method].peft]
    for methods in (on_the_base_model, on_an_adapter):
        if unfinished(settings, workspace, "search", methods):
            search(settings, workspace, methods)
        train(settings, workspace, methods)


@flow(name="search", flow_run_name="search-{settings.profile}-{settings.seed}", persist_result=False)
def search_rates(settings: Settings, workspace: Path, methods: list[str]) -> None:
    """Try each candidate learning rate of the methods, and publish which one is used."""
    place = Workspace(workspace)
    stages = unfinished(settings, workspace, "search", methods)
    units = [
        _unit(f"{candidate.stage.name}-{candidate.rate:g}", candidate.run, {"candidate": candidate}, candidate.outcome)
        for stage in stages
        for candidate in candidates(settings, place, stage)
    ]
    run_units(try_candidate, units, place.state / "prefect", f"search {_listed(stages)}", "step")
    for stage in stages:
        publish_search(settings, place, stage)


@flow(name="train", flow_run_name="train-{settings.profile}-{settings.seed}", persist_result=False)
def train_methods(settings: Settings, workspace: Path, methods: list[str]) -> None:
    """Train the methods that are not published yet, with every seed."""
    place = Workspace(workspace)
    stages = unfinished(settings, workspace, "tune", methods)
    units = [
        _unit(f"train-{work.stage.method}-seed-{work.stage.seed}", work.run, {"work": work}, work.done)
        for work in (TrainingWork(settings, place, stage) for stage in stages)
    ]
    run_units(train_method, units, place.state / "prefect", f"train {_listed(stages)}", "step")


def unfinished(settings: Settings, workspace: Path, kind: str, methods: list[str]) -> list[Stage]:
    """Stages of a kind and of these methods that are not published, or no longer hold."""
    stages = study_stages(settings, Workspace(workspace)).values()
    return [stage for stage in stages if stage.kind == kind and stage.method in methods and not stage.state().done]


def _unit(name: str, training: TrainingRun, arguments: dict[str, Any], on_disk: Callable[[], Any]) -> Unit:
    return Unit(name, training.key, arguments, on_disk, training.steps, training.progress, training.note)


def _listed(stages: list[Stage]) -> str:
    return " and ".join(dict.fromkeys(stage.method for stage in stages))


if __name__ == "__main__":
    sys.exit(run(tune, "tune", ["search", "tune"]))
