"""An instruct model in its child process: it writes instructions (Magpie) and answers them, on either engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.engines.protocol import Completion, Engine, Request, Sampling
from tasks.engines.rows_at_once import RowsAtOnce
from tasks.engines.templates import pre_query_ids, response_prompt_ids, stop_ids, turn_end_text

log = logging.getLogger(__name__)


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
        rows_at_once: int | None = None,
        memory: str | None = None,
        suppressed_openings: Sequence[str] = (),
    ) -> None:
        """Load the tokenizer, then the model on the engine `hf` or `vllm`.

        Args:
            engine: hf or vllm.
            source: folder or hub id.
            revision: hub commit.
            precision: fp32, fp16, bf16 or nf4.
            memory_share: share of the accelerator's memory vLLM may take.
            eager: vLLM without compilation.
            rows_at_once: rows decoded at once; none takes the engine's default.
            memory: file that keeps a number of rows halved when the accelerator's memory did not hold them.
            suppressed_openings: strings that no instruction may begin with.
        """
        from transformers import AutoTokenizer, GenerationConfig

        from tasks.device import computing_device

        self._tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        try:
            eos = GenerationConfig.from_pretrained(source, revision=revision or "main").eos_token_id
        except OSError:
            eos = None
        self._stop = stop_ids(self._tokenizer, eos)
        self._turn_end = turn_end_text(self._tokenizer)
        self._suppressed = tokens_that_open_with(self._tokenizer, suppressed_openings)
        self._specials = {
            str(token): number for number, token in self._tokenizer.added_tokens_decoder.items() if token.special
        }
        self._pre_query: dict[str | None, list[int]] = {}
        at_once = RowsAtOnce(rows_at_once, Path(memory) if memory else None)
        self._engine: Engine
        if engine == "vllm":
            from tasks.engines.vllm import VllmEngine

            self._engine = VllmEngine(source, revision, precision, memory_share, eager, at_once)
        else:
            self._engine = hf_engine(load_model(source, revision, precision), at_once)
        self.device = computing_device()

    @property
    def calls(self) -> set[int]:
        """Calls under way."""
        return self._engine.calls

    @property
    def progress(self) -> dict[str, int]:
        """Rows and tokens drawn since the model was loaded."""
        return {"rows": self._engine.work.rows, "tokens": self._engine.work.tokens}

    def submit(self, call: int, method: str, rows: list[dict[str, Any]], sampling: dict[str, Any]) -> None:
        """Start a call: `write` continues pre-query prompts, `answer` responds to instructions.

        Each row has a `seed`, and a `system_prompt` (write) or an `instruction` (answer).
        """
        if method == "write":
            prompts = [self._pre_query_ids(row["system_prompt"]) for row in rows]
            suppressed = self._suppressed
        else:
            prompts = [response_prompt_ids(self._tokenizer, row["instruction"]) for row in rows]
            suppressed = ()
        requests = [Request(prompt, row["seed"]) for prompt, row in zip(prompts, rows, strict=True)]
        self._engine.add(call, requests, Sampling(**sampling, stop_ids=self._stop, suppressed_first=suppressed))

    def step(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Work a little and yield the calls that ended."""
        for call, completions in self._engine.step():
            yield call, [self._text(completion) for completion in completions]

    def abandon(self) -> None:
        """After a failed step: give up what it may have spoilt."""
        self._engine.abandon()

    def _pre_query_ids(self, system_prompt: str | None) -> list[int]:
        if system_prompt not in self._pre_query:
            self._pre_query[system_prompt] = pre_query_ids(self._tokenizer, system_prompt)
        return self._pre_query[system_prompt]

    def _text(self, completion: Completion) -> dict[str, Any]:
        drawn = set(completion.tokens)
        return {
            "text": self._tokenizer.decode(completion.tokens, skip_special_tokens=False),
            "specials": [text for text, token in self._specials.items() if token in drawn],
            "turn_end": self._turn_end,
            "tokens": len(completion.tokens),
            "finish_reason": completion.finish_reason,
        }


def load_model(source: str, revision: str | None, precision: str) -> Any:
    """A causal language model in evaluation mode, on the accelerator where there is one."""
    from transformers import AutoModelForCausalLM

    from tasks.models import load_arguments

    model: Any = AutoModelForCausalLM.from_pretrained(source, revision=revision, **load_arguments(precision))
    return model.eval()


def hf_engine(model: Any, rows_at_once: RowsAtOnce) -> Engine:
    """The slot table on a GPU; whole batches on a CPU, and for a model that the table does not fit, with a warning."""
    from tasks.engines.hf import HfEngine
    from tasks.engines.slots import SlotEngine, UnsupportedModelError

    if model.device.type != "cpu":
        try:
            return SlotEngine(model, rows_at_once)
        except UnsupportedModelError as error:
            log.warning("generating in whole batches, which is slower: %s", error)
    return HfEngine(model, rows_at_once)


def tokens_that_open_with(tokenizer: Any, openings: Sequence[str]) -> tuple[int, ...]:
    """Ids of the tokens whose text, after white space, begins with one of `openings`."""
    if not openings:
        return ()
    text = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return tuple(token for token, piece in enumerate(text) if piece.lstrip().startswith(tuple(openings)))
