"""The `vllm` engine: continuous batching, for a GPU of 24 GB and more. Rows of several calls share every step."""

from __future__ import annotations

import math
import os

from tasks.engines.open_calls import OpenCalls, Row
from tasks.engines.overflow import complaint
from tasks.engines.protocol import Completion, Request, Sampling, Work
from tasks.engines.rows_at_once import RowsAtOnce
from tasks.models import ModelError
from tasks.out_of_memory import is_out_of_memory

DEFAULT_ROWS = 256  # vLLM's own number of rows in a step, on most accelerators
MOST_BIASED = 1024  # ids that vLLM takes for one row; the vocabulary's order puts the most frequent first


class _Row(Row):
    """A row that vLLM may be asked for in two parts."""

    @property
    def opening(self) -> bool:
        return bool(self.sampling.suppressed_first) and not self.drawn

    @property
    def name(self) -> str:
        return f"{self.call}/{self.number}{'/opening' * self.opening}"


class VllmEngine:
    """Feeds every call's rows to vLLM as they come, so that it never drains at a batch's end."""

    def __init__(
        self,
        source: str,
        revision: str | None,
        precision: str,
        memory_share: float,
        eager: bool,
        rows_at_once: RowsAtOnce,
    ) -> None:
        """Load the model.

        Args:
            source: folder or hub id.
            revision: hub commit.
            precision: fp32, fp16, bf16, or nf4 (quantized by bitsandbytes at load).
            memory_share: share of the accelerator's memory vLLM may take.
            eager: skip compilation and graph capture; slower, but starts in seconds.
            rows_at_once: rows in one step; without a number it takes vLLM's own number for the accelerator.

        Raises:
            ModelError: vLLM is not installed, or the model gives NaN.
        """
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # this child already is the engine's process
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would send them to its makers
        try:
            from vllm import EngineArgs, LLMEngine
            from vllm.platforms import current_platform
            from vllm.usage.usage_lib import UsageContext
        except ImportError as error:
            raise ModelError(
                f"hardware.engine is vllm, which cannot be imported ({error}); install the extra with "
                "`pip install -c constraints.txt -e '.[vllm]'` on a CUDA machine, or set --hardware.engine hf"
            ) from error
        dtype = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "nf4": "bfloat16"}[precision]
        self._at_once = rows_at_once
        # On a GPU the numbers of a row depend on what shares its step, so that a seed could not bring a text back; a
        # generator for each row would only cost a launch a row and step.
        self._seeded = bool(current_platform.is_cpu())
        self._open = OpenCalls()
        self._rows: dict[str, _Row] = {}
        self.work = Work()
        arguments = EngineArgs(
            model=source,
            revision=revision,
            dtype=dtype,
            max_model_len=-1,  # as long as the memory holds: a 128k context does not fit beside 8B on 24 GB
            quantization="bitsandbytes" if precision == "nf4" else None,
            gpu_memory_utilization=memory_share,
            enforce_eager=eager,
            disable_log_stats=True,
            max_num_seqs=rows_at_once.count,
            seed=int.from_bytes(os.urandom(4)),  # a process that goes on must not draw again what the last one drew
        )
        try:
            self._engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        except Exception as error:
            if "max_num_seqs" in str(error):  # vLLM says so where it is the rows that do not fit, not the weights
                self._at_once.halve(self._at_once.count or DEFAULT_ROWS)
            raise
        self._longest: int = self._engine.model_config.max_model_len
        self._check_numbers(source, precision)

    @property
    def calls(self) -> set[int]:
        """Calls with rows under way."""
        return self._open.numbers

    def add(self, call: int, requests: list[Request], sampling: Sampling) -> None:
        """Hand every row to vLLM at once.

        Where first tokens are suppressed, a row is asked for one token with a bias against them, then for the rest: a
        logits processor of our own would turn off vLLM's faster model runner.

        Raises:
            ValueError: there are no requests.
            Exception: vLLM refuses a row, for example because its prompt is too long; then it takes none of them.
        """
        self._open.open(call, requests)
        rows = [_Row(call, number, request, sampling) for number, request in enumerate(requests)]
        try:
            for row in rows:
                self._ask(row)
        except Exception:
            self._engine.abort_request([row.name for row in rows])
            for row in rows:
                self._rows.pop(row.name, None)
            self._open.forget(call)
            raise

    def _check_numbers(self, source: str, precision: str) -> None:
        """Look at one token's probability: vLLM draws from NaN as from numbers, and tells nothing of it."""
        from vllm import SamplingParams, TokensPrompt

        asked = SamplingParams(max_tokens=1, logprobs=0, ignore_eos=True, detokenize=False)
        self._engine.add_request("numbers", TokensPrompt(prompt_token_ids=list(range(64))), asked)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                for told in output.outputs[0].logprobs or []:
                    if any(math.isnan(one.logprob) for one in told.values()):
                        raise ModelError(f"{source} {complaint(precision)}")

    def _ask(self, row: _Row) -> None:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        sampling = row.sampling
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=1 if row.opening else row.limit - len(row.drawn),
            logit_bias=dict.fromkeys(sampling.suppressed_first[:MOST_BIASED], -100.0) if row.opening else None,
            stop_token_ids=list(sampling.stop_ids),
            seed=(row.request.seed + len(row.drawn)) % 2**63 if self._seeded else None,
            ignore_eos=True,  # the call's stop tokens decide, not the model's generation config
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,  # not every prefix of every row, at every step
        )
        self._rows[row.name] = row
        self._engine.add_request(row.name, TokensPrompt(prompt_token_ids=row.context), parameters)

    def step(self) -> list[tuple[int, list[Completion]]]:
        """One step of the model for every running row.

        Raises:
            RuntimeError: vLLM gave up a row.
        """
        ended: list[tuple[int, list[Completion]]] = []
        try:
            outputs = self._engine.step()
        except Exception as error:
            if is_out_of_memory(error):  # for the process that comes after this one
                self._at_once.halve(self._at_once.count or DEFAULT_ROWS)
            raise
        for output in outputs:
            if not output.finished:
                continue
            row = self._rows.pop(output.request_id)
            tokens, reason = list(output.outputs[0].token_ids), output.outputs[0].finish_reason
            self.work.tokens += len(tokens)
            if reason not in ("stop", "length"):
                raise RuntimeError(f"vLLM ended a row with {reason!r} after {len(tokens)} tokens")
            goes_on = row.opening and reason == "length"
            row.drawn += tokens[:-1] if reason == "stop" else tokens
            if goes_on and len(row.drawn) < row.limit and len(row.context) < self._longest:
                self._ask(row)
                continue
            self.work.rows += 1
            ended += self._open.end(row, row.drawn, reason)
        return ended

    def abandon(self) -> None:
        """Abort every request, then see whether vLLM still answers.

        Raises:
            Exception: it does not, so that this process ends and the next call starts another: an error between two
                halves of a step, such as no memory left for sampling, is one that vLLM never recovers from.
        """
        from vllm import SamplingParams, TokensPrompt

        self._engine.abort_request(list(self._rows))
        self._rows.clear()
        self._open.clear()
        self._engine.add_request("probe", TokensPrompt(prompt_token_ids=[0]), SamplingParams(max_tokens=1))
        while self._engine.has_unfinished_requests():
            self._engine.step()
