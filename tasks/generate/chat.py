"""An instruct model in its child process: it writes instructions (Magpie) and answers them, on either engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.engines.protocol import Completion, Engine, Request, Sampling
from tasks.engines.templates import pre_query_ids, response_prompt_ids, stop_ids


class ChatModel:
    """Turns rows into token requests and completions into text."""

    def __init__(
        self,
        engine: str,
        source: str,
        revision: str | None,
        precision: str,
        memory_share: float,
        eager: bool,
    ) -> None:
        """Load the tokenizer, then the model on the engine `hf` or `vllm`."""
        from transformers import AutoTokenizer, GenerationConfig

        self._tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        try:
            eos = GenerationConfig.from_pretrained(source, revision=revision or "main").eos_token_id
        except OSError:
            eos = None
        self._stop = stop_ids(self._tokenizer, eos)
        self._engine: Engine
        if engine == "vllm":
            from tasks.engines.vllm import VllmEngine

            self._engine = VllmEngine(source, revision, precision, memory_share, eager)
        else:
            from tasks.engines.hf import HfEngine

            self._engine = HfEngine(source, revision, precision)

    @property
    def busy(self) -> bool:
        """Whether `step` has work."""
        return self._engine.busy

    def submit(self, call: int, method: str, rows: list[dict[str, Any]], sampling: dict[str, Any]) -> None:
        """Start a call: `write` continues pre-query prompts, `answer` responds to instructions.

        Each row has a `seed`, and a `system_prompt` (write) or an `instruction` (answer).
        """
        if method == "write":
            prompts = [pre_query_ids(self._tokenizer, row["system_prompt"]) for row in rows]
        else:
            prompts = [response_prompt_ids(self._tokenizer, row["instruction"]) for row in rows]
        requests = [Request(prompt, row["seed"]) for prompt, row in zip(prompts, rows, strict=True)]
        self._engine.add(call, requests, Sampling(**sampling, stop_ids=self._stop))

    def step(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Work a little and yield the calls that ended."""
        for call, completions in self._engine.step():
            yield call, [self._text(completion) for completion in completions]

    def abandon(self) -> list[int]:
        """Give up what is under way after a failure."""
        return self._engine.abandon()

    def _text(self, completion: Completion) -> dict[str, Any]:
        return {
            "text": self._tokenizer.decode(completion.tokens, skip_special_tokens=True),
            "tokens": len(completion.tokens),
            "finish_reason": completion.finish_reason,
        }
