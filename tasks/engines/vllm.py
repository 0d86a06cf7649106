"""The `vllm` engine: continuous batching, for a GPU of 24 GB and more. Rows of several calls share every step."""

from __future__ import annotations

import os
from typing import Any

from tasks.engines.protocol import Completion, Request, Sampling


class VllmEngine:
    """Feeds every call's rows to vLLM as they come, so that it never drains at a batch's end."""

    def __init__(self, source: str, revision: str | None, precision: str, memory_share: float, eager: bool) -> None:
        """Load the model.

        Args:
            source: folder or hub id.
            revision: hub commit.
            precision: fp32, fp16, bf16, or nf4 (quantized by bitsandbytes at load).
            memory_share: share of the accelerator's memory vLLM may take.
            eager: skip compilation and graph capture; slower, but starts in seconds.

        Raises:
            ModelError: vLLM is not installed.
        """
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # this child already is the engine's process
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would send them to its makers
        try:
            from vllm import EngineArgs, LLMEngine
        except ImportError as error:
            from tasks.models import ModelError

            raise ModelError(
                f"hardware.engine is vllm, which cannot be imported ({error}); install the extra with "
                "`pip install -c constraints.txt -e '.[vllm]'` on a CUDA machine, or set --hardware.engine hf"
            ) from error
        dtype = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "nf4": "bfloat16"}[precision]
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=source,
                revision=revision,
                dtype=dtype,
                max_model_len=-1,  # as long as the memory holds: a 128k context does not fit beside 8B on 24 GB
                quantization="bitsandbytes" if precision == "nf4" else None,
                gpu_memory_utilization=memory_share,
                enforce_eager=eager,
                disable_log_stats=True,
            )
        )
        self._calls: dict[int, list[Completion | None]] = {}

    @property
    def busy(self) -> bool:
        """Whether requests are under way."""
        return bool(self._calls)

    def add(self, call: int, requests: list[Request], sampling: Sampling) -> None:
        """Hand every row to vLLM at once.

        Raises:
            ValueError: there are no requests.
            Exception: vLLM refuses a row, for example because its prompt is too long; then it takes none of them.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        if not requests:
            raise ValueError("a call without requests would never end")
        names = [f"{call}/{row}" for row in range(len(requests))]
        try:
            for name, request in zip(names, requests, strict=True):
                self._engine.add_request(
                    name,
                    TokensPrompt(prompt_token_ids=request.prompt),
                    SamplingParams(
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        max_tokens=sampling.max_new_tokens,
                        stop_token_ids=list(sampling.stop_ids),
                        seed=request.seed % 2**63,
                        ignore_eos=True,  # the call's stop tokens decide, not the model's generation config
                        detokenize=False,
                        output_kind=RequestOutputKind.FINAL_ONLY,  # not every prefix of every row, at every step
                    ),
                )
        except Exception:
            self._engine.abort_request(names)
            raise
        self._calls[call] = [None] * len(requests)

    def step(self) -> list[tuple[int, list[Completion]]]:
        """One step of the model for every running row.

        Raises:
            RuntimeError: vLLM gave up a row.
        """
        ended = []
        for output in self._engine.step():
            if output.finished:
                call, row = map(int, output.request_id.split("/"))
                self._calls[call][row] = _completion(output.outputs[0])
                if all(self._calls[call]):
                    ended.append((call, [done for done in self._calls.pop(call) if done]))
        return ended

    def abandon(self) -> list[int]:
        """Abort every request, then see whether vLLM still answers.

        Raises:
            Exception: it does not, so that this process ends and the next call starts another: an error between two
                halves of a step, such as no memory left for sampling, is one that vLLM never recovers from.
        """
        from vllm import SamplingParams, TokensPrompt

        calls, self._calls = self._calls, {}
        self._engine.abort_request([f"{call}/{row}" for call, rows in calls.items() for row in range(len(rows))])
        self._engine.add_request("probe", TokensPrompt(prompt_token_ids=[0]), SamplingParams(max_tokens=1))
        while self._engine.has_unfinished_requests():
            self._engine.step()
        return list(calls)


def _completion(output: Any) -> Completion:
    tokens = list(output.token_ids)
    if output.finish_reason == "stop":
        return Completion(tokens[:-1], "stop")
    if output.finish_reason == "length":
        return Completion(tokens, "length")
    raise RuntimeError(f"vLLM ended a row with {output.finish_reason!r} after {len(tokens)} tokens")
