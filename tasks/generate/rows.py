"""Magpie's rows: which domain a row has, what noise it gets, and the tasks that write and answer in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from configs.settings import (
    DomainSettings,
    GenerationSettings,
    HardwareSettings,
    ModelSettings,
    SamplingSettings,
    Settings,
)
from storage.files import fingerprint
from storage.shards import Batch, Row, RowStore
from storage.workspace import Workspace
from tasks.generate.cleaning import TURN_END, clean
from tasks.generate.cost import write_cost
from tasks.models import model_source, revision_on_record
from tasks.process import ModelPool

INSTRUCTION_VERSION = 2
RESPONSE_VERSION = 2


def instruction_key(settings: GenerationSettings, seed: int, teacher: str) -> dict[str, Any]:
    """What a drawn instruction depends on, besides its row and attempt."""
    return {
        "kind": "instruction",
        "version": INSTRUCTION_VERSION,
        "model": teacher,
        "sampling": settings.instruction.model_dump(),
        "suppressed_openings": settings.suppressed_openings,
        "domains": {name: domain.model_dump() for name, domain in settings.domains.items()},
        "seed": seed,
    }


def response_key(sampling: SamplingSettings, seed: int, model: str) -> dict[str, Any]:
    """What a response depends on, besides its instruction."""
    return {
        "kind": "response",
        "version": RESPONSE_VERSION,
        "model": model,
        "sampling": sampling.model_dump(),
        "seed": seed,
    }


def chat_model(
    model: ModelSettings, workspace: Workspace, hardware: HardwareSettings, suppressed_openings: Sequence[str] = ()
) -> dict[str, Any]:
    """Arguments of `tasks.generate.chat:ChatModel`."""
    at_once = workspace.state / "rows-at-once" / f"{fingerprint([model.name, model.precision, hardware.engine])}.json"
    return {
        "engine": hardware.engine,
        "source": model_source(model, workspace),
        "revision": revision_on_record(model, workspace),
        "precision": model.precision,
        "memory_share": hardware.vllm_memory_share,
        "eager": hardware.vllm_eager,
        "rows_at_once": hardware.rows_at_once,
        "memory": str(at_once),
        "suppressed_openings": list(suppressed_openings),
    }


def attempt_id(row: int, attempt: int) -> str:
    """Id of one draw of an instruction."""
    return f"{row:06d}.{attempt}"


def content_id(*texts: str) -> str:
    """Id of work that is fed these texts."""
    return fingerprint(list(texts))


def row_domain(row_id: str, domains: Mapping[str, DomainSettings], seed: int) -> str:
    """The domain of a row: a weighted draw that depends on the row alone, so that more rows change none."""
    point = int(fingerprint(["domain", seed, row_id.partition(".")[0]]), 16) / 16**16
    total = sum(domain.weight for domain in domains.values())
    cumulative = 0.0
    for name, domain in domains.items():
        cumulative += domain.weight / total
        if point < cumulative:
            return name
    return list(domains)[-1]


def write_instructions(
    pool: ModelPool, store: RowStore, batch: Batch, settings: GenerationSettings, seed: int
) -> dict[str, Any]:
    """Draw a batch of instructions and persist it; a batch that is on disk is returned as it is."""
    if done := store.done(batch):
        return done.as_json()
    domains = [row_domain(row_id, settings.domains, seed) for row_id in batch.ids]
    rows = [
        {"system_prompt": settings.domains[domain].system_prompt, "seed": _noise_seed(store, row_id)}
        for row_id, domain in zip(batch.ids, domains, strict=True)
    ]
    drawn = pool.call("write", rows=rows, sampling=settings.instruction.model_dump())
    return _persist(
        pool,
        store,
        batch,
        [
            {"id": row_id, "domain": domain, "raw_instruction": answer["text"], **_cleaned("instruction", answer)}
            for row_id, domain, answer in zip(batch.ids, domains, drawn, strict=True)
        ],
    )


def write_responses(
    pool: ModelPool, store: RowStore, batch: Batch, instructions: Sequence[str], sampling: SamplingSettings
) -> dict[str, Any]:
    """Answer a batch of instructions and persist it; a batch that is on disk is returned as it is."""
    if done := store.done(batch):
        return done.as_json()
    rows = [
        {"instruction": instruction, "seed": _noise_seed(store, row_id)}
        for row_id, instruction in zip(batch.ids, instructions, strict=True)
    ]
    drawn = pool.call("answer", rows=rows, sampling=sampling.model_dump())
    return _persist(
        pool,
        store,
        batch,
        [{"id": row_id, **_cleaned("output", answer)} for row_id, answer in zip(batch.ids, drawn, strict=True)],
    )


def _cleaned(field: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    # only a user's turn: an answer may quote the marker, and nothing of it would end there
    text, cuts = clean(answer["text"], answer["specials"], answer["turn_end"] if field == "instruction" else None)
    return {
        field: text,
        "cuts": [{"field": field, **asdict(cut)} for cut in cuts],
        "tokens": answer["tokens"],
        # a turn whose end the model wrote out as text did end, whatever came after it
        "finish_reason": "stop" if any(cut.reason == TURN_END for cut in cuts) else answer["finish_reason"],
    }


def _persist(pool: ModelPool, store: RowStore, batch: Batch, rows: list[Row]) -> dict[str, Any]:
    shard = store.write(batch, rows)
    write_cost(store, batch, rows, pool.lap(), pool.device)
    return shard.as_json()


def is_whole(row: Row, field: str) -> bool:
    """Whether the model ended its turn and said something."""
    return row["finish_reason"] == "stop" and bool(row[field])


def row_number(row_id: str) -> int:
    """Number of the row that an attempt is one of."""
    return int(row_id.partition(".")[0])


def attempt_of(row_id: str) -> int:
    """Which attempt it is, from 0."""
    return int(row_id.partition(".")[2])


def settled_rows(instructions: RowStore, responses: RowStore, settings: GenerationSettings) -> int:
    """How many of the wanted rows need no further work: they are whole, or their attempts are used up."""
    answers = responses.rows()
    settled = set()
    for row_id, row in instructions.rows().items():
        asked = is_whole(row, "instruction")
        answer = answers.get(content_id(row["instruction"])) if asked else None
        answered = answer is not None or not asked
        whole = answer is not None and is_whole(answer, "output")
        if whole or (answered and attempt_of(row_id) == settings.max_attempts - 1):
            settled.add(row_number(row_id))
    return sum(number < settings.rows for number in settled)


def row_stores(settings: Settings, workspace: Workspace, teacher: str) -> tuple[RowStore, RowStore]:
    """Where the teacher's instructions and its responses lie."""
    key = instruction_key(settings.generation, settings.seed, teacher)
    instructions = RowStore(workspace.state / "rows" / f"instructions-{fingerprint(key)}")
    return instructions, response_store(workspace, settings.generation.response, settings.seed, teacher)


def response_store(workspace: Workspace, sampling: SamplingSettings, seed: int, model: str) -> RowStore:
    """Where a model's responses lie, whichever stage asked for them."""
    return RowStore(workspace.state / "rows" / f"responses-{fingerprint(response_key(sampling, seed, model))}")


def raw_row(instruction: Row, answer: Row | None, model: str) -> Row:
    """One attempt as it is published; `failure` is null where both turns ended and said something.

    Args:
        instruction: as drawn.
        answer: its response; none where the instruction was not whole and so never asked.
        model: name of the teacher.
    """
    output = answer or {"output": "", "finish_reason": instruction["finish_reason"], "tokens": 0, "cuts": []}
    return {
        "id": f"{row_number(instruction['id']):06d}",
        "domain": instruction["domain"],
        "instruction": instruction["instruction"],
        "output": output["output"],
        "raw_instruction": instruction["raw_instruction"],
        "cuts": instruction["cuts"] + output["cuts"],
        "finish_reason": output["finish_reason"],
        "failure": _failure(instruction, "instruction") or _failure(output, "output"),
        "model": model,
        "attempts": attempt_of(instruction["id"]) + 1,
        "instruction_tokens": instruction["tokens"],
        "output_tokens": output["tokens"],
    }


def _failure(row: Row, field: str) -> str | None:
    if is_whole(row, field):
        return None
    return f"{field} empty" if row["finish_reason"] == "stop" else f"{field} cut off at the token limit"


def last_attempts(attempts: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """The rows to publish, in id order: each number's last attempt, and the failed ones before it."""
    by_number: dict[str, list[Row]] = {}
    for row in attempts:
        by_number.setdefault(row["id"], []).append(row)
    tried = [sorted(rows, key=lambda row: row["attempts"]) for _, rows in sorted(by_number.items())]
    return [rows[-1] for rows in tried], [row for rows in tried for row in rows[:-1]]


def raw_statistics(
    rows: Sequence[Row], failed: Sequence[Row], wanted: int, domains: Mapping[str, DomainSettings]
) -> dict[str, Any]:
    """The statistics of requirement 2.1; lengths in words split at white space.

    Args:
        rows: the published rows.
        failed: attempts that were tried again.
        wanted: rows asked for.
        domains: the mix asked for.

    Returns:
        Counts and means. The success rate is finished, non-empty pairs over all attempts to draw one.
    """
    completed = [row for row in rows if row["failure"] is None]
    attempts = len(rows) + len(failed)
    total = sum(domain.weight for domain in domains.values())
    drawn = _counts(row["domain"] for row in rows)
    return {
        "wanted": wanted,
        "rows": len(rows),
        "attempts": attempts,
        "completed": len(completed),
        "success_rate": len(completed) / attempts if attempts else None,
        "mean_instruction_words": fmean(len(row["instruction"].split()) for row in rows) if rows else None,
        "mean_response_words": fmean(len(row["output"].split()) for row in rows) if rows else None,
        "finish_reasons": _counts(row["finish_reason"] for row in rows),
        "failures": _counts(row["failure"] for row in (*rows, *failed) if row["failure"]),
        "cuts": _counts(f"{cut['field']} {cut['reason']}" for row in rows for cut in row["cuts"]),
        "domains": drawn,
        "domain_shares": {
            name: {"wanted": domain.weight / total, "achieved": drawn.get(name, 0) / len(rows) if rows else None}
            for name, domain in domains.items()
        },
        "instruction_tokens": sum(row["instruction_tokens"] for row in rows),
        "output_tokens": sum(row["output_tokens"] for row in rows),
    }


def _noise_seed(store: RowStore, row_id: str) -> int:
    return int(fingerprint([store.folder.name, row_id]), 16)


def _counts(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items()))
