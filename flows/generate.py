"""Magpie: an instruct model writes instructions from nothing but its own template, then answers them (2.1).

Run alone: `python -m flows.generate --profile demo`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import flow

from configs.settings import SamplingSettings, Settings
from flows.batches import Unit, at_once, run_units, show_table
from flows.cli import run
from flows.world import build_world
from storage.files import write_json, write_jsonl
from storage.shards import Row, RowStore
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.generate import rows as magpie
from tasks.generate.budget import Budget
from tasks.generate.cost import total_cost
from tasks.models import fetch_models, model_identity
from tasks.process import ModelPool
from tasks.provenance import provenance
from tasks.stages import study_stages


@flow(name="generate", flow_run_name="generate-{settings.profile}-{settings.seed}", persist_result=False)
def generate(settings: Settings, workspace: Path, budget: Budget | None = None) -> bool:
    """Write the raw instruction/response pairs, all of them or a night's share; True once they are published."""
    place = Workspace(workspace)
    stages = study_stages(settings, place)
    if settings.world and not stages["world"].state().done:
        build_world(settings, workspace)
    if stages["generate"].state().done:
        return True
    workers = at_once(settings.generation.batches_in_flight)
    drawn: bool = draw_and_answer.with_options(task_runner=workers)(settings, workspace, budget or Budget())
    return drawn


@flow(name="draw-and-answer", flow_run_name="draw-and-answer-{settings.profile}-{settings.seed}", persist_result=False)
def draw_and_answer(settings: Settings, workspace: Path, budget: Budget) -> bool:
    """Draw instructions, answer them, draw again the rows that failed; publish when no row is left."""
    place, wanted, teacher = Workspace(workspace), settings.generation, settings.models.teacher
    fetch_models([teacher], place)
    identity = str(model_identity(teacher, place))
    instructions, responses = magpie.row_stores(settings, place, identity)
    results = place.state / "prefect"
    tonight = wanted.rows
    if budget.rows is not None:
        tonight = min(wanted.rows, magpie.settled_rows(instructions, responses, wanted) + budget.rows)

    attempts: list[Row] = []
    left = list(range(tonight))
    with ModelPool(
        "tasks.generate.chat:ChatModel",
        magpie.chat_model(teacher, place, settings.hardware, wanted.suppressed_openings),
        threads=settings.hardware.threads,
        size=settings.hardware.workers,
    ) as pool:
        for attempt in range(wanted.max_attempts):
            ids = [magpie.attempt_id(row, attempt) for row in left]
            units = instruction_units(pool, instructions, ids, settings)
            label = "instructions" + f", attempt {attempt + 1}" * bool(attempt)
            if not run_units(
                magpie.write_instructions, units, results, label, meter=lambda: pool.progress, stop=budget.spent
            ):
                return False
            drawn = instructions.collect(ids)
            asked = [row["instruction"] for row in drawn if magpie.is_whole(row, "instruction")]
            texts = {magpie.content_id(text): text for text in asked}
            units = answer_units(pool, responses, texts, wanted.response, wanted.rows_per_shard, "teacher")
            label = "responses" + f", attempt {attempt + 1}" * bool(attempt)
            if not run_units(
                magpie.write_responses, units, results, label, meter=lambda: pool.progress, stop=budget.spent
            ):
                return False
            answers = {row["id"]: row for row in responses.collect(texts)}
            tried = [
                magpie.raw_row(row, answers.get(magpie.content_id(row["instruction"])), teacher.name) for row in drawn
            ]
            attempts += tried
            left = [int(row["id"]) for row in tried if row["failure"]]
    if tonight < wanted.rows:
        return False

    rows, failed = magpie.last_attempts(attempts)
    statistics = magpie.raw_statistics(rows, failed, wanted.rows, wanted.domains)
    cost = total_cost([instructions, responses])
    key = study_stages(settings, place)["generate"].require_key()
    with publishing(
        place.raw, key, provenance(settings, place) | {"throughput": cost}, measurements=["cost.json"]
    ) as folder:
        write_jsonl(folder / "raw.jsonl", rows)
        write_jsonl(folder / "failed.jsonl", failed)
        write_json(folder / "stats.json", statistics)
        write_json(folder / "cost.json", cost)
    show_table("raw", statistics | cost, "Raw pairs")
    return True


def instruction_units(pool: ModelPool, store: RowStore, ids: Sequence[str], settings: Settings) -> list[Unit]:
    """Batches that draw the instructions (by attempt id) that the store lacks."""
    wanted = settings.generation
    return [
        Unit(
            f"instructions-b{number:05d}",
            f"{store.folder.name}-{batch.name}",
            {"pool": pool, "store": store, "batch": batch, "settings": wanted, "seed": settings.seed},
            lambda batch=batch: store.done(batch),  # type: ignore[misc]
            len(batch.ids),
        )
        for number, batch in enumerate(store.plan(ids, wanted.rows_per_shard))
    ]


def answer_units(
    pool: ModelPool,
    store: RowStore,
    instructions: Mapping[str, str],
    sampling: SamplingSettings,
    rows_per_shard: int,
    who: str,
) -> list[Unit]:
    """Batches that answer the instructions (by content id) that the store lacks."""
    return [
        Unit(
            f"responses-{who}-b{number:05d}",
            f"{store.folder.name}-{batch.name}",
            {
                "pool": pool,
                "store": store,
                "batch": batch,
                "instructions": [instructions[row_id] for row_id in batch.ids],
                "sampling": sampling,
            },
            lambda batch=batch: store.done(batch),  # type: ignore[misc]
            len(batch.ids),
        )
        for number, batch in enumerate(store.plan(instructions, rows_per_shard))
    ]


if __name__ == "__main__":
    sys.exit(run(generate, "generate", ["world", "generate"]))
