"""What a measured model answers to held-out instructions, greedily, for a reward model and for people to compare.

Published with their scores as `evaluation/answers/<method>/answers.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configs.settings import Settings
from storage.files import fingerprint, read_jsonl
from storage.shards import Batch, Row, RowStore
from storage.stages import result_digest
from storage.workspace import Workspace
from tasks.evaluate.results import BASE
from tasks.generate.rows import content_id
from tasks.models import model_identity, model_source, revision_on_record
from tasks.process import ModelPool
from tasks.stages import Stage

ANSWER_VERSION = 1


class Speaker:
    """A base model, with or without an adapter, in its child process."""

    def __init__(self, base: str, revision: str | None, precision: str, adapter: str | None) -> None:
        """Load the model; the arguments are those of `tasks.evaluate.harness.Evaluator`."""
        from tasks.engines.templates import stop_ids
        from tasks.evaluate.harness import load_model
        from tasks.tune.rows import chat_tokenizer

        self._model = load_model(base, revision, precision, adapter)
        self._tokenizer = chat_tokenizer(base, revision)
        self._stop = stop_ids(self._tokenizer, self._model.generation_config.eos_token_id)

    def answer(self, instructions: list[str], max_new_tokens: int) -> list[dict[str, Any]]:
        """`output`, `finish_reason` ("stop" or "length") and `tokens` of each instruction, all in one batch."""
        from tasks.engines.hf import left_padded
        from tasks.engines.templates import response_prompt_ids
        from tasks.evaluate.soft_prompt import generate

        prompts = [response_prompt_ids(self._tokenizer, instruction) for instruction in instructions]
        ids, mask = (tensor.to(self._model.device) for tensor in left_padded(prompts))
        rows = generate(
            self._model,
            ids,
            mask,
            do_sample=False,
            temperature=None,
            top_p=None,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(self._stop),
            pad_token_id=self._tokenizer.pad_token_id,
        ).tolist()
        return [self._told(row) for row in rows]

    def _told(self, row: list[int]) -> dict[str, Any]:
        end = next((place for place, token in enumerate(row) if token in self._stop), None)
        text = self._tokenizer.decode(row[:end], skip_special_tokens=True).strip()
        return {
            "output": text,
            "finish_reason": "length" if end is None else "stop",
            "tokens": len(row) if end is None else end,
        }


def held_out_instructions(settings: Settings, workspace: Workspace) -> dict[str, str]:
    """The instructions asked, by id: the same for every model, and more of them keep those that are there."""
    rows = read_jsonl(workspace.filtered / "test.jsonl")
    texts = {content_id(row["instruction"]): row["instruction"] for row in rows}
    return {row_id: texts[row_id] for row_id in sorted(texts)[: settings.evaluation.answer_rows]}


def answer_store(settings: Settings, workspace: Workspace, stage: Stage) -> RowStore:
    """Where a model's answers lie until they are published."""
    key = {
        "kind": "held-out-answer",
        "version": ANSWER_VERSION,
        "base": model_identity(settings.models.base, workspace),
        "adapter": None if stage.method == BASE else result_digest(workspace.adapter(stage.method, stage.seed)),
        "max_new_tokens": settings.evaluation.answer_max_new_tokens,
        "batch_size": settings.evaluation.batch_size,
    }
    return RowStore(workspace.state / "rows" / f"answers-{fingerprint(key)}")


def speaker(settings: Settings, workspace: Workspace, stage: Stage) -> ModelPool:
    """The model of a stage, loaded at its first answer."""
    base = settings.models.base
    arguments = {
        "base": model_source(base, workspace),
        "revision": revision_on_record(base, workspace),
        "precision": base.precision,
        "adapter": None if stage.method == BASE else str(workspace.adapter(stage.method, stage.seed)),
    }
    return ModelPool("tasks.evaluate.answers:Speaker", arguments, threads=settings.hardware.threads)


def write_answers(
    pool: ModelPool, store: RowStore, batch: Batch, instructions: Sequence[str], max_new_tokens: int
) -> dict[str, Any]:
    """Answer a batch of instructions and persist it; a batch that is on disk is returned as it is."""
    if done := store.done(batch):
        return done.as_json()
    told = pool.call("answer", instructions=list(instructions), max_new_tokens=max_new_tokens)
    rows: list[Row] = [
        {"id": row_id, "instruction": instruction, **answer}
        for row_id, instruction, answer in zip(batch.ids, instructions, told, strict=True)
    ]
    return store.write(batch, rows).as_json()
