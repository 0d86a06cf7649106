"""The search for a method's learning rate: each candidate a short training, the lowest validation loss is taken.

Every method of a study is given the same number of candidates and `tuning.search_epochs` for each, with the study's
seed: none is compared at a better tuned rate than another.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.settings import Settings
from storage.files import folder_aside, read_json, write_json
from storage.seals import read_seal, seal
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.provenance import provenance
from tasks.stages import Stage
from tasks.tune import Job
from tasks.tune.rates import SEARCH, SearchError, choose_rate
from tasks.tune.work import MEASUREMENTS, TrainingRun

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Candidate:
    """A learning rate to try."""

    settings: Settings
    workspace: Workspace
    stage: Stage
    rate: float

    @cached_property
    def run(self) -> TrainingRun:
        """Its training; the key names this rate and not the others, so that a longer list repeats none."""
        stage, epochs = self.stage, self.settings.tuning.search_epochs
        key = stage.require_key()
        own = {name: value for name, value in key.settings.items() if name != "search_rates"}
        alone = replace(key, settings=own | {"learning_rate": self.rate})
        section = self.settings.tuning.methods[stage.method]
        section = section.model_copy(update={"learning_rate": self.rate, "epochs": epochs})
        name = f"{stage.name}-{alone.fingerprint}"
        title = f"{stage.method} at {self.rate:g}"
        return TrainingRun(self.settings, self.workspace, stage.method, stage.seed, name, section, title)

    @property
    def folder(self) -> Path:
        """Where its outcome lies, sealed."""
        return self.workspace.state / "search" / self.run.key

    def outcome(self) -> dict[str, Any] | None:
        """`learning_rate`, `val_loss`, `failure`, `seconds`, `tokens` and `device`; None where it was not tried yet."""
        if read_seal(self.folder) is None:
            return None
        told: dict[str, Any] = read_json(self.folder / OUTCOME)
        return told


def candidates(settings: Settings, workspace: Workspace, stage: Stage) -> list[Candidate]:
    """The candidates of a search, the lowest rate first."""
    rates = settings.tuning.methods[stage.method].search_rates
    return [Candidate(settings, workspace, stage, rate) for rate in sorted(rates)]


def try_candidate(candidate: Candidate) -> dict[str, Any]:
    """Train a candidate in a fresh process, going on from the newest valid checkpoint, and keep its outcome."""
    if (outcome := candidate.outcome()) is None:
        run = candidate.run
        with tempfile.TemporaryDirectory(prefix="search-") as local:
            outcome = run.in_child("tasks.tune.search:try_rate", Path(local) / "adapter")
        with folder_aside(candidate.folder) as aside:
            write_json(aside / OUTCOME, outcome)
            seal(aside)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    return {"learning_rate": candidate.rate, "val_loss": outcome["val_loss"]}


def try_rate(job: Job) -> dict[str, Any]:
    """One candidate's training, in the child process; a loss that is not finite is an outcome and no error.

    Returns:
        As `Candidate.outcome` tells; `seconds` [s] and `tokens` of the steps that were made.

    Raises:
        ValueError: no validation row is left to choose by.
    """
    from tasks.tune.methods import section_key
    from tasks.tune.train import train
    from tasks.tune.watch import DivergedError

    rate = job["settings"]["learning_rate"]
    try:
        told = train(job)
    except DivergedError as error:
        failed = {"val_loss": None, "failure": str(error), "device": None}
        return failed | {"learning_rate": rate, "seconds": error.seconds, "tokens": error.tokens}
    if not told:
        return {}  # not the first process
    loss, cost = told["metrics"]["eval"]["val"]["loss_after"], told["cost"]
    if loss is None:
        raise ValueError(f"no validation row fits into {section_key(job['method'])}.max_length: nothing to choose by")
    tried = {"learning_rate": rate, "val_loss": loss, "failure": None, "device": cost["device"]}
    return tried | {"seconds": cost["train_seconds"], "tokens": cost["train_tokens"]}


def publish_search(settings: Settings, workspace: Workspace, stage: Stage) -> dict[str, Any]:
    """Choose among the candidates' outcomes and publish `search.json` and `cost.json`.

    Raises:
        SearchError: every candidate failed, or one was not tried.
    """
    tried = candidates(settings, workspace, stage)
    outcomes = [outcome for candidate in tried if (outcome := candidate.outcome())]
    if len(outcomes) < len(tried):
        raise SearchError(
            f"{len(tried) - len(outcomes)} of {stage.method}'s learning rates were not tried; try them first"
        )
    chosen, at_edge = choose_rate(stage.method, outcomes)
    epochs, steps = settings.tuning.search_epochs, tried[0].run.steps
    search = {
        "method": stage.method,
        "seed": stage.seed,
        "candidates": [{name: row[name] for name in ("learning_rate", "val_loss", "failure")} for row in outcomes],
        "chosen": chosen,
        "at_edge": at_edge,
        "budget": {"candidates": len(tried), "epochs": epochs, "steps": steps},
    }
    cost = {
        "candidates": [{name: row[name] for name in ("learning_rate", "seconds", "tokens")} for row in outcomes],
        "seconds": sum(row["seconds"] for row in outcomes),
        "tokens": sum(row["tokens"] for row in outcomes),
        "device": next((row["device"] for row in outcomes if row["device"]), None),
    }
    with publishing(stage.folder, stage.require_key(), provenance(settings, workspace), MEASUREMENTS) as folder:
        write_json(folder / SEARCH, search)
        write_json(folder / "cost.json", cost)
    return search
