"""Preference pairs: three models answer, a reward model scores, best meets worst (2.3).

Run alone: `python -m flows.prefer --profile demo`.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect import flow

from configs.settings import ModelSettings, Settings
from flows.batches import Unit, at_once, run_units, show_table
from flows.cli import run
from flows.generate import answer_units
from storage.files import fingerprint, read_jsonl, write_json, write_jsonl
from storage.shards import Row, RowStore
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.generate import rows as magpie
from tasks.models import fetch_models, model_identity, model_source, revision_on_record
from tasks.prefer import pairs as pairing
from tasks.prefer.score import score_id, score_key, score_responses
from tasks.prefer.statistics import pair_statistics, quality_agreement
from tasks.process import ModelPool
from tasks.provenance import provenance
from tasks.stages import study_stages


@flow(name="prefer", flow_run_name="prefer-{settings.profile}-{settings.seed}", persist_result=False)
def prefer(settings: Settings, workspace: Path) -> None:
    """Ask three models about the kept instructions, score every response once, publish best against worst."""
    place = Workspace(workspace)
    stage = study_stages(settings, place)["prefer"]
    if stage.state().done:
        return
    fetch_models([*settings.models.responders, settings.models.reward], place)
    key = stage.require_key()
    kept = read_jsonl(place.filtered / "filtered.jsonl")
    in_flight = settings.generation.batches_in_flight
    answer_and_score = respond_and_score.with_options(task_runner=at_once(in_flight))
    asked = pairing.first_request(kept, settings.preference)
    while True:
        instructions = pairing.choose_instructions(kept, asked, settings.seed)
        responses = answer_and_score(settings, workspace, asked)
        result = pairing.make_pairs(instructions, responses, settings.preference)
        if not pairing.shortage(result.pairs, settings.preference):
            break
        asked = pairing.next_request(asked, result, kept, settings.preference)

    selected = pairing.select_pairs(result.pairs, pairing.quotas(settings.preference))
    statistics = pair_statistics(selected, responses, result.skipped)
    statistics["quality"] = quality_agreement(responses, settings.filter.quality)
    with publishing(place.preference, key, provenance(settings, place)) as folder:
        write_jsonl(folder / "responses.jsonl", responses)
        write_jsonl(folder / "pairs.jsonl", selected)
        for split in ("train", "val", "test"):
            rows = [pairing.dpo_row(pair) for pair in selected if pair["split"] == split]
            write_jsonl(folder / f"{split}.jsonl", rows)
        write_json(folder / "stats.json", statistics)
    show_table("preference", statistics, "Preference pairs")


@flow(
    name="respond-and-score", flow_run_name="respond-and-score-{settings.profile}-{settings.seed}", persist_result=False
)
def respond_and_score(settings: Settings, workspace: Path, asked: dict[str, int]) -> list[Row]:
    """Every responder's scored response to every instruction; a model is loaded once, for all it has to answer."""
    place = Workspace(workspace)
    kept = read_jsonl(place.filtered / "filtered.jsonl")
    instructions = pairing.choose_instructions(kept, asked, settings.seed)
    texts = {magpie.content_id(row["instruction"]): row["instruction"] for row in instructions}
    responders = settings.models.responders
    size = settings.hardware.workers
    for group in [responders[i : i + size] for i in range(0, len(responders), size)]:
        _respond(settings, place, texts, group)
    responses = [
        {"id": row["id"], "instruction": row["instruction"], "model": responder.name} | answer
        for responder in responders
        for row, answer in zip(instructions, _answers(settings, place, texts, responder, instructions), strict=True)
    ]
    return scored(settings, place, responses)


def _respond(settings: Settings, place: Workspace, texts: dict[str, str], group: list[ModelSettings]) -> None:
    wanted = settings.preference
    with ExitStack() as children:
        units, pools = [], []
        for responder in group:
            pool = ModelPool(
                "tasks.generate.chat:ChatModel",
                magpie.chat_model(responder, place, settings.hardware),
                threads=settings.hardware.threads,
                size=settings.hardware.workers // len(group),
            )
            pools.append(children.enter_context(pool))
            store = _response_store(settings, place, responder)
            name = responder.name.rpartition("/")[2]
            units += answer_units(pool, store, texts, wanted.sampling, settings.generation.rows_per_shard, name)
        label = "responses of " + " and ".join(responder.name.rpartition("/")[2] for responder in group)
        run_units(
            magpie.write_responses,
            units,
            place.state / "prefect",
            label,
            meter=lambda: sum((pool.progress for pool in pools), Counter()),
        )


def _answers(
    settings: Settings, place: Workspace, texts: dict[str, str], responder: ModelSettings, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    found = {row["id"]: row for row in _response_store(settings, place, responder).collect(texts)}
    answers = [found[magpie.content_id(row["instruction"])] for row in rows]
    return [{"output": answer["output"], "finish_reason": answer["finish_reason"]} for answer in answers]


def _response_store(settings: Settings, place: Workspace, responder: ModelSettings) -> RowStore:
    identity = str(model_identity(responder, place))
    return magpie.response_store(place, settings.preference.sampling, settings.seed, identity)


def scored(settings: Settings, place: Workspace, responses: list[Row]) -> list[Row]:
    """Rows with their `score`, null for an empty output; what the reward model scored before is not scored again."""
    reward = settings.models.reward
    store = RowStore(place.state / "rows" / f"scores-{fingerprint(score_key(str(model_identity(reward, place))))}")
    by_id = {score_id(row): row for row in responses if row["output"]}
    arguments = {
        "source": model_source(reward, place),
        "revision": revision_on_record(reward, place),
        "precision": reward.precision,
    }
    hardware = settings.hardware
    with ModelPool(
        "tasks.engines.reward:RewardModel", arguments, threads=hardware.threads, size=hardware.workers
    ) as pool:
        units = [
            Unit(
                f"score-b{number:05d}",
                f"{store.folder.name}-{batch.name}",
                {"pool": pool, "store": store, "batch": batch, "rows": [by_id[row_id] for row_id in batch.ids]},
                lambda batch=batch: store.done(batch),  # type: ignore[misc]
                len(batch.ids),
            )
            for number, batch in enumerate(store.plan(by_id, settings.preference.score_batch))
        ]
        run_units(score_responses, units, place.state / "prefect", "scores")
    scores = {row["id"]: row["score"] for row in store.collect(by_id)}
    return [row | {"score": scores.get(score_id(row))} for row in responses]


if __name__ == "__main__":
    sys.exit(run(prefer, "prefer", ["prefer"]))
