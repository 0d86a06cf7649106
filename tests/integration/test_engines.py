"""The contract of a generation engine, the same for every engine: what the flows rely on, whichever runs."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.engines.protocol import Completion, Engine, Request, Sampling
from tasks.process import ModelPool

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=12, stop_ids=(4,))
DRAWN = Sampling(temperature=1, top_p=0.9, max_new_tokens=12, stop_ids=(4,))
PROMPTS = [[0, 308, 296], [0, 300], [0, 310, 311, 312, 313, 314, 315]]

NEEDS_VLLM = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None and not os.environ.get("REQUIRE_VLLM"),
    reason="vLLM is not installed; `.ci/run` tests it in an environment of its own",
)


@pytest.fixture(scope="module", params=["hf", pytest.param("vllm", marks=NEEDS_VLLM)])
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Engine]:
    if request.param == "vllm":
        from tasks.engines.vllm import VllmEngine

        yield VllmEngine(str(tiny_model), None, "fp32", memory_share=0.3, eager=True)
    else:
        from tasks.engines.hf import HfEngine

        yield HfEngine(str(tiny_model), None, "fp32")


def complete(engine: Engine, *calls: tuple[list[Request], Sampling]) -> list[list[Completion]]:
    for call, (requests, sampling) in enumerate(calls):
        engine.add(call, requests, sampling)
    done: dict[int, list[Completion]] = {}
    while engine.busy:
        done.update(engine.step())
    return [done[call] for call in range(len(calls))]


def requests(seed: int = 0) -> list[Request]:
    return [Request(prompt, seed=seed * 100 + row) for row, prompt in enumerate(PROMPTS)]


def test_greedy_completions_equal_transformers_generate(engine: Engine, tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    [completions] = complete(engine, (requests(), GREEDY))
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        out = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=4)
        expected = [token for token in out[0, len(prompt) :].tolist() if token != 4]
        assert completion.tokens == expected


def test_noise_belongs_to_the_row_not_to_its_batch(engine: Engine) -> None:
    [together] = complete(engine, (requests(), DRAWN))
    alone = [complete(engine, ([request], DRAWN))[0][0] for request in requests()]
    assert together == alone


def test_another_seed_draws_another_text(engine: Engine) -> None:
    [first], [second] = complete(engine, (requests(1)[:1], DRAWN), (requests(2)[:1], DRAWN))
    assert first.tokens != second.tokens


def test_finish_reasons_tell_a_stop_from_a_limit(engine: Engine) -> None:
    [free] = complete(engine, (requests(), GREEDY))
    assert {completion.finish_reason for completion in free} == {"length"}
    assert [len(completion.tokens) for completion in free] == [12, 12, 12]
    stop = free[0].tokens[3]
    stopping = Sampling(0, 1, 12, (stop,))
    [stopped] = complete(engine, (requests(), stopping))
    assert stopped[0].finish_reason == "stop"
    assert stopped[0].tokens == free[0].tokens[: free[0].tokens.index(stop)]


def test_every_call_gets_all_its_rows_in_order(engine: Engine) -> None:
    first, second = complete(engine, (requests(), GREEDY), (requests()[::-1], GREEDY))
    assert first == second[::-1]


def test_a_child_answers_writes_and_replaces_itself(tiny_model: Path) -> None:
    arguments: dict[str, Any] = {
        "engine": "hf",
        "source": str(tiny_model),
        "revision": None,
        "precision": "fp32",
        "memory_share": 0.3,
        "eager": True,
    }
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8}
    rows = [{"system_prompt": None, "seed": 1}, {"system_prompt": "be brief", "seed": 2}]
    with ModelPool("tasks.generate.chat:ChatModel", arguments, threads=1) as pool:
        first = pool.call("write", rows=rows, sampling=sampling)
        assert [set(row) for row in first] == [{"text", "tokens", "finish_reason"}] * 2
        (old,) = pool.pids
        os.kill(old, signal.SIGKILL)
        while pool.pids:
            time.sleep(0.01)
        assert pool.call("write", rows=rows, sampling=sampling) == first
        answers = pool.call("answer", rows=[{"instruction": "the cat", "seed": 3}], sampling=sampling)
        assert len(answers) == 1
