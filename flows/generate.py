"""Magpie: an instruct model writes instructions from nothing but its own template, then answers them (2.1).

Run alone: `python -m flows.generate --profile demo`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from prefect import flow

from configs.settings import SamplingSettings, Settings
from flows.batches import Unit, at_once, run_units, show_table
from flows.cli import run
from flows.world import build_world
from storage.files import fingerprint, write_json, write_jsonl
from storage.shards import Row, RowStore
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.generate import rows as magpie
from tasks.models import model_identity, model_source, resolve_revision
from tasks.process import ModelPool
from tasks.provenance import provenance
from tasks.stages import study_stages


@flow(name="generate", flow_run_name="generate-{settings.profile}-{settings.seed}", persist_result=False)
def generate(settings: Settings, workspace: Path) -> None:
    """Write the raw instruction/response pairs: draw instructions until enough are whole, then answer each."""
    place = Workspace(workspace)
    if settings.world:
        build_world(settings, workspace)
    revision = resolve_revision(settings.models.teacher, place)
    stage = study_stages(settings, place)["generate"]
    if stage.state().done:
        return
    workers = at_once(settings.generation.batches_in_flight)
    draw_and_answer.with_options(task_runner=workers)(settings, workspace, revision)


@flow(name="draw-and-answer", flow_run_name="draw-and-answer-{settings.profile}-{settings.seed}", persist_result=False)
def draw_and_answer(settings: Settings, workspace: Path, revision: str | None) -> None:
    """Draw every row's instruction, trying again the rows whose turn did not end; answer; publish."""
    place, wanted = Workspace(workspace), settings.generation
    teacher = settings.models.teacher
    identity = str(model_identity(teacher, place))
    instruction_key = magpie.instruction_key(wanted, settings.seed, identity)
    response_key = magpie.response_key(wanted.response, settings.seed, identity)
    instructions = RowStore(place.state / "rows" / f"instructions-{fingerprint(instruction_key)}")
    responses = RowStore(place.state / "rows" / f"responses-{fingerprint(response_key)}")
    arguments = magpie.chat_model(teacher, model_source(teacher, place), revision, settings.hardware)
    results = place.state / "prefect"

    accepted: dict[int, Row] = {}
    attempts = 0
    with ModelPool(
        "tasks.generate.chat:ChatModel",
        arguments,
        threads=settings.hardware.threads,
        size=settings.hardware.workers,
    ) as pool:
        for attempt in range(wanted.max_attempts):
            ids = [magpie.attempt_id(row, attempt) for row in range(wanted.rows) if row not in accepted]
            if not ids:
                break
            attempts += len(ids)
            units = [
                Unit(
                    f"instructions-b{number:05d}",
                    f"{instructions.folder.name}-{batch.name}",
                    {"pool": pool, "store": instructions, "batch": batch, "settings": wanted, "seed": settings.seed},
                    lambda batch=batch: instructions.done(batch),  # type: ignore[misc]
                    len(batch.ids),
                )
                for number, batch in enumerate(instructions.plan(ids, wanted.rows_per_shard))
            ]
            run_units(magpie.write_instructions, units, results, f"instructions, attempt {attempt + 1}")
            for row in instructions.collect(ids):
                if magpie.is_instruction(row):
                    accepted[int(row["id"].partition(".")[0])] = row

        texts = {magpie.content_id(row["instruction"]): row["instruction"] for _, row in sorted(accepted.items())}
        units = answer_units(pool, responses, texts, wanted.response, wanted.rows_per_shard, "teacher")
        run_units(magpie.write_responses, units, results, "responses")

    answers = {row["id"]: row for row in responses.collect(texts)}
    raw = magpie.raw_rows(accepted, answers, teacher.name)
    statistics = magpie.raw_statistics(raw, attempts, wanted.rows)
    key = study_stages(settings, place)["generate"].require_key()
    with publishing(place.raw, key, provenance(settings)) as folder:
        write_jsonl(folder / "raw.jsonl", raw)
        write_json(folder / "stats.json", statistics)
    show_table("raw", statistics, "Raw pairs")


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
