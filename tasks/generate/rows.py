"""Magpie's rows: which domain a row has, what noise it gets, and the tasks that write and answer in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from configs.settings import DomainSettings, GenerationSettings, ModelSettings, SamplingSettings
from storage.files import fingerprint
from storage.shards import Batch, Row, RowStore
from tasks.process import ModelPool

INSTRUCTION_VERSION = 1
RESPONSE_VERSION = 1


def instruction_key(settings: GenerationSettings, seed: int, teacher: str) -> dict[str, Any]:
    """What a drawn instruction depends on, besides its row and attempt."""
    return {
        "kind": "instruction",
        "version": INSTRUCTION_VERSION,
        "model": teacher,
        "sampling": settings.instruction.model_dump(),
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


def chat_model(model: ModelSettings, source: str, revision: str | None, hardware: Any) -> dict[str, Any]:
    """Arguments of `tasks.generate.chat:ChatModel`."""
    return {
        "engine": hardware.engine,
        "source": source,
        "revision": revision,
        "precision": model.precision,
        "memory_share": hardware.vllm_memory_share,
        "eager": hardware.vllm_eager,
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


def clean_instruction(text: str) -> str:
    """The instruction without surrounding white space; everything else of it is kept."""
    return text.strip()


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
    return store.write(
        batch,
        [
            {
                "id": row_id,
                "domain": domain,
                "raw_instruction": answer["text"],
                "instruction": clean_instruction(answer["text"]),
                "tokens": answer["tokens"],
                "finish_reason": answer["finish_reason"],
            }
            for row_id, domain, answer in zip(batch.ids, domains, drawn, strict=True)
        ],
    ).as_json()


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
    return store.write(
        batch,
        [
            {
                "id": row_id,
                "output": answer["text"].strip(),
                "tokens": answer["tokens"],
                "finish_reason": answer["finish_reason"],
            }
            for row_id, answer in zip(batch.ids, drawn, strict=True)
        ],
    ).as_json()


def is_instruction(row: Row) -> bool:
    """Whether a drawn instruction can be answered: the model ended its turn and said something."""
    return row["finish_reason"] == "stop" and bool(row["instruction"])


def raw_rows(drawn: Mapping[int, Row], answers: Mapping[str, Row], model: str) -> list[Row]:
    """The published raw rows, in id order.

    Args:
        drawn: accepted instruction of each row number.
        answers: response by `content_id` of its instruction.
        model: name of the teacher.
    """
    rows = []
    for number, instruction in sorted(drawn.items()):
        answer = answers[content_id(instruction["instruction"])]
        rows.append(
            {
                "id": f"{number:06d}",
                "domain": instruction["domain"],
                "instruction": instruction["instruction"],
                "output": answer["output"],
                "raw_instruction": instruction["raw_instruction"],
                "finish_reason": answer["finish_reason"],
                "model": model,
                "attempts": int(instruction["id"].partition(".")[2]) + 1,
                "instruction_tokens": instruction["tokens"],
                "output_tokens": answer["tokens"],
            }
        )
    return rows


def raw_statistics(rows: Sequence[Row], attempts: int, wanted: int) -> dict[str, Any]:
    """The statistics of requirement 2.1; lengths in words split at white space.

    The success rate is finished, non-empty responses over all attempts to draw a row.
    """
    completed = [row for row in rows if row["finish_reason"] == "stop" and row["output"]]
    return {
        "wanted": wanted,
        "rows": len(rows),
        "attempts": attempts,
        "completed": len(completed),
        "success_rate": len(completed) / attempts if attempts else None,
        "mean_instruction_words": fmean(len(row["instruction"].split()) for row in rows) if rows else None,
        "mean_response_words": fmean(len(row["output"].split()) for row in rows) if rows else None,
        "finish_reasons": _counts(row["finish_reason"] for row in rows),
        "domains": _counts(row["domain"] for row in rows),
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
