"""The demo's world: a tokenizer, a base model, and the models that continue from it.

Run alone: `python -m flows.world --profile demo`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow

from configs.settings import Settings
from flows.batches import Unit, at_once, run_units
from flows.cli import run
from storage.workspace import Workspace
from tasks.demo.build import WorldWork, build_part
from tasks.stages import study_stages

# in an order that keeps two workers busy: the reward model continues from the teacher
CONTINUED = ("teacher", "responder_a", "responder_b", "reward", "responder_c")


@flow(name="world", flow_run_name="world-{settings.profile}-{settings.seed}", persist_result=False)
def build_world(settings: Settings, workspace: Path) -> None:
    """Build the world small enough to run anywhere: text, tokenizer, base model, and five models on top of it."""
    stage = study_stages(settings, Workspace(workspace))["world"]
    if not stage.state().done:
        build_parts.with_options(task_runner=at_once(settings.hardware.workers))(settings, workspace)


@flow(name="build-parts", flow_run_name="build-parts-{settings.profile}-{settings.seed}", persist_result=False)
def build_parts(settings: Settings, workspace: Path) -> None:
    """Build each part after those it continues from, then publish all."""
    place = Workspace(workspace)
    work = WorldWork(settings, place, study_stages(settings, place)["world"])
    units = {part: _unit(work, part) for part in ("tokenizer", "base", *CONTINUED, "benchmarks")}
    results = place.state / "prefect"
    run_units(build_part, [units["tokenizer"]], results, "world: tokenizer", "part")
    run_units(build_part, [units["base"]], results, "world: base model", "part")
    run_units(build_part, [units[part] for part in CONTINUED], results, "world: models on top", "part")
    run_units(build_part, [units["benchmarks"]], results, "world: benchmarks", "part")
    work.publish()


def _unit(work: WorldWork, part: str) -> Unit:
    after = ("world-teacher",) if part == "reward" else ()
    key = work.part_key(part)
    return Unit(f"world-{part}", key, {"work": work, "part": part}, lambda: work.done(part), after=after)


if __name__ == "__main__":
    sys.exit(run(build_world, "world", ["world"]))
