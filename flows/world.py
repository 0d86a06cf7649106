"""The demo's world: a tokenizer, a base model, and the models that continue from it. `python -m flows.world`."""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow

from configs.settings import Settings
from flows.batches import Unit, at_once, run_units
from flows.cli import run
from storage.workspace import Workspace
from tasks.demo import build
from tasks.stages import study_stages

CONTINUED = ("teacher", "responder_a", "responder_b", "responder_c", "reward")


@flow(name="world", persist_result=False, task_runner=at_once(8))
def build_world(settings: Settings, workspace: Path) -> None:
    """Build the world small enough to run anywhere: text, tokenizer, trunk, and five models that continue from it."""
    place = Workspace(workspace)
    stage = study_stages(settings, place)["world"]
    if stage.state().done:
        return
    work = build.WorldWork(settings, place, stage)
    results = place.state / "prefect"

    def unit(part: str) -> Unit:
        return Unit(f"world-{part}", work.part_key(part), {"work": work, "part": part}, lambda: work.done(part))

    run_units(build.build_part, [unit("tokenizer")], results, "world: tokenizer", "model")
    run_units(build.build_part, [unit("base")], results, "world: base model", "model")
    run_units(build.build_part, [unit(part) for part in CONTINUED], results, "world: chat models", "model")
    run_units(build.build_part, [unit("benchmarks")], results, "world: benchmarks", "model")
    work.publish()


if __name__ == "__main__":
    sys.exit(run(build_world, "world", ["world"]))
