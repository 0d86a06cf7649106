"""The contract of a generation engine, the same for every engine: what the flows rely on, whichever runs."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.engines.protocol import Completion, Engine, Request, Sampling
from tasks.engines.rows_at_once import RowsAtOnce
from tasks.generate.chat import ChatModel, load_model
from tasks.process import ChildError, ModelPool
from tests.tiny import build_tiny_model

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; only the CPU build reads it

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=12, stop_ids=(4,))
DRAWN = Sampling(temperature=1, top_p=0.9, max_new_tokens=12, stop_ids=(4,))
PROMPTS = [[0, 308, 296], [0, 300], [0, 310, 311, 312, 313, 314, 315]]

NEEDS_VLLM = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None and not os.environ.get("REQUIRE_VLLM"),
    reason="vLLM is not installed; `.ci/run` tests it in an environment of its own",
)
VLLM = pytest.param("vllm", marks=NEEDS_VLLM)
ENGINES = ["hf", "slots", VLLM]  # slots: what `hf` is on a GPU, here without its captured step


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32: vLLM's attention on a CPU has no kernel for the tiny model's heads of 8."""
    return build_tiny_model(tmp_path_factory.mktemp("engines") / "model", hidden=128)


@pytest.fixture(scope="module")
def vllm(model: Path) -> Any:
    from tasks.engines.vllm import VllmEngine

    return VllmEngine(str(model), None, "fp32", memory_share=0.3, eager=True, rows_at_once=RowsAtOnce())


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, model: Path) -> Engine:
    if request.param == "vllm":
        engine: Engine = request.getfixturevalue("vllm")
        return engine
    from tasks.engines.hf import HfEngine
    from tasks.engines.slots import SlotEngine

    loaded = load_model(str(model), None, "fp32")
    return SlotEngine(loaded, RowsAtOnce(4)) if request.param == "slots" else HfEngine(loaded, RowsAtOnce())


def complete(engine: Engine, *calls: tuple[list[Request], Sampling]) -> list[list[Completion]]:
    for call, (requests, sampling) in enumerate(calls):
        engine.add(call, requests, sampling)
    done: dict[int, list[Completion]] = {}
    while engine.calls:
        done.update(engine.step())
    return [done[call] for call in range(len(calls))]


def requests(seed: int = 0) -> list[Request]:
    return [Request(prompt, seed=seed * 100 + row) for row, prompt in enumerate(PROMPTS)]


def test_greedy_completions_equal_transformers_generate(engine: Engine, model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model)
    [completions] = complete(engine, (requests(), GREEDY))
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        out = reference.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=4)
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


def test_only_the_given_stop_tokens_end_a_row(engine: Engine) -> None:
    rows = [request for seed in range(32) for request in requests(seed)]
    [free] = complete(engine, (rows, Sampling(1, 1, 40, ())))
    assert {len(completion.tokens) for completion in free} == {40}
    assert any(4 in completion.tokens for completion in free), "the model's own end-of-turn token is drawn, and kept"


def test_calls_that_come_while_others_run_change_nothing(engine: Engine) -> None:
    [expected] = complete(engine, (requests(), DRAWN))
    done: dict[int, list[Completion]] = {}
    for call in range(4):
        engine.add(call, requests(), DRAWN)
        done.update(engine.step())
    while engine.calls:
        ended = dict(engine.step())
        assert not ended.keys() & done.keys()
        done |= ended
    assert done == dict.fromkeys(range(4), expected)


def test_an_engine_goes_on_after_what_it_abandoned(engine: Engine) -> None:
    [expected] = complete(engine, (requests(), DRAWN))
    engine.add(7, requests(1), Sampling(1, 1, 30, ()))
    engine.add(8, requests(2), Sampling(1, 1, 30, ()))
    ended = {call for call, _ in engine.step()}
    assert engine.calls == {7, 8} - ended
    engine.abandon()
    for call in engine.calls:  # an engine may keep those that the failure did not touch, and then ends them
        assert call not in ended
    while engine.calls:
        engine.step()
    assert complete(engine, (requests(), DRAWN)) == [expected]


def test_a_row_has_a_limit_of_its_own(engine: Engine) -> None:
    [free] = complete(engine, (requests(), DRAWN))
    short = [Request(request.prompt, request.seed, max_new_tokens=3) for request in requests()[:2]]
    [cut] = complete(engine, ([*short, requests()[2]], DRAWN))
    assert [completion.tokens for completion in cut[:2]] == [completion.tokens[:3] for completion in free[:2]]
    assert cut[2] == free[2]


def test_no_row_begins_with_a_suppressed_token_and_later_tokens_are_free(engine: Engine) -> None:
    rows = [request for seed in range(20) for request in requests(seed)]
    flat = Sampling(2.0, 1, 12, ())
    [free] = complete(engine, (rows, flat))
    suppressed = tuple({completion.tokens[0] for completion in free})
    held = Sampling(2.0, 1, 12, (), suppressed_first=suppressed)
    [completions], [beside] = complete(engine, (rows, held)), complete(engine, (rows[:2], flat))
    assert not {completion.tokens[0] for completion in completions} & set(suppressed)
    assert {token for completion in completions for token in completion.tokens[1:]} & set(suppressed)
    assert beside == free[:2]


def test_more_rows_than_slots_end_each_once_and_are_counted(engine: Engine) -> None:
    before = (engine.work.rows, engine.work.tokens)
    rows = [Request(PROMPTS[row % 3], row, max_new_tokens=1 + row * 5 % 12) for row in range(30)]
    [completions] = complete(engine, (rows, Sampling(1, 0.9, 12, ())))
    assert [len(completion.tokens) for completion in completions] == [row.max_new_tokens for row in rows]
    assert (engine.work.rows - before[0], engine.work.tokens - before[1]) == (
        30,
        sum(len(c.tokens) for c in completions),
    )


def child_arguments(engine: str, model: Path) -> dict[str, Any]:
    return {
        "engine": engine,
        "source": str(model),
        "revision": None,
        "precision": "fp32",
        "memory_share": 0.3,
        "eager": True,
    }


@pytest.mark.parametrize("name", ["hf", VLLM])
def test_a_child_answers_three_threads_at_once(name: str, model: Path) -> None:
    sampling = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 30}
    calls = [
        [{"instruction": f"how many birds sing {row}", "seed": 10 * n + row} for row in range(8)] for n in range(3)
    ]
    with (
        ModelPool("tasks.generate.chat:ChatModel", child_arguments(name, model), threads=1) as pool,
        ThreadPoolExecutor(3) as threads,
    ):
        at_once = list(threads.map(lambda rows: pool.call("answer", rows=rows, sampling=sampling), calls))
        assert at_once == [pool.call("answer", rows=rows, sampling=sampling) for rows in calls]
        assert len(pool.pids) == 1


def test_a_child_answers_writes_and_replaces_itself(tiny_model: Path) -> None:
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8}
    rows = [{"system_prompt": None, "seed": 1}, {"system_prompt": "be brief", "seed": 2}]
    with ModelPool("tasks.generate.chat:ChatModel", child_arguments("hf", tiny_model), threads=1) as pool:
        first = pool.call("write", rows=rows, sampling=sampling)
        assert [set(row) for row in first] == [{"text", "specials", "turn_end", "tokens", "finish_reason"}] * 2
        (old,) = pool.pids
        os.kill(old, signal.SIGKILL)
        while pool.pids:
            time.sleep(0.01)
        assert pool.call("write", rows=rows, sampling=sampling) == first
        answers = pool.call("answer", rows=[{"instruction": "the cat", "seed": 3}], sampling=sampling)
        assert len(answers) == 1


@NEEDS_VLLM
def test_vllm_refuses_a_model_that_gives_nan(model: Path, tmp_path: Path) -> None:
    """It would draw from NaN and tell nothing of it."""
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] *= float("nan")
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    # in a process of its own: a second engine of this one would take the first one's groups with it when it ends
    with (
        ModelPool("tasks.generate.chat:ChatModel", child_arguments("vllm", tmp_path), threads=1) as pool,
        pytest.raises(ChildError, match=f"{tmp_path} gives NaN in fp32"),
    ):
        pool.start()


@NEEDS_VLLM
def test_vllm_takes_all_rows_of_a_call_or_none(vllm: Any) -> None:
    with pytest.raises(Exception, match="maximum context length"):
        vllm.add(0, [*requests(), Request([6] * 2000, seed=0)], GREEDY)
    assert not vllm.calls
    assert vllm.step() == []


@NEEDS_VLLM
def test_vllm_goes_on_after_a_failed_step_or_ends(vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    [expected] = complete(vllm, (requests(), DRAWN))
    runner = vllm._engine.model_executor.driver_worker.worker.model_runner

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    for half in ["execute_model", "sample_tokens"]:
        vllm.add(3, requests(), DRAWN)
        vllm.step()
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(runner, half, fail)
            vllm.step()
        if half == "execute_model":
            vllm.abandon()
            assert not vllm.calls
            assert complete(vllm, (requests(), DRAWN)) == [expected]
        else:  # vLLM 0.32 never recovers from this one, so the child must not go on with it
            with pytest.raises(RuntimeError, match="sample_tokens"):
                vllm.abandon()


def test_a_childs_warning_reaches_the_user(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a child prints is read by nobody; that it goes on with fewer rows must be told."""
    arguments = {**child_arguments("hf", tiny_model), "rows_at_once": 6, "memory": str(tmp_path / "rows-at-once.json")}
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4}
    rows = [{"system_prompt": None, "seed": seed} for seed in range(6)]
    target = "tests.integration.test_engines:NarrowChatModel"
    with ModelPool(target, arguments, threads=1) as pool:
        assert len(pool.call("write", rows=rows, sampling=sampling)) == 6
    assert pool.progress["rows"] == 6, "the count outlives the child"
    assert "going on with 3 rows at once" in capsys.readouterr().err


class NarrowChatModel(ChatModel):
    """A chat model on a machine whose memory holds three rows."""

    def __init__(self, **arguments: Any) -> None:
        import torch

        super().__init__(**arguments)
        real = vars(self._engine)["_model"]

        def forward(**inputs: Any) -> Any:
            if len(inputs["input_ids"]) > 3:
                raise torch.OutOfMemoryError("no memory left")
            return real(**inputs)

        forward.device = real.device  # type: ignore[attr-defined]
        vars(self._engine)["_model"] = forward


class FailingChatModel(ChatModel):
    """A chat model that fails at the text of a call that its engine has ended, and at nothing else."""

    def _text(self, completion: Completion) -> dict[str, Any]:
        if len(completion.tokens) == 3:
            raise ValueError("no text")
        return super()._text(completion)


def test_a_failed_call_is_told_and_the_others_are_answered(tiny_model: Path) -> None:
    """A call without an answer would let its task wait for ever."""
    target, rows = "tests.integration.test_engines:FailingChatModel", [{"system_prompt": None, "seed": 1}]

    def sampling(length: int) -> dict[str, Any]:
        return {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": length}

    with (
        ModelPool(target, child_arguments("hf", tiny_model), threads=1) as pool,
        ThreadPoolExecutor(3) as threads,
    ):
        calls = [threads.submit(pool.call, "write", rows=rows, sampling=sampling(length)) for length in (2, 3, 4)]
        assert len(calls[0].result(timeout=60)) == len(calls[2].result(timeout=60)) == 1
        with pytest.raises(ChildError, match="no text"):
            calls[1].result(timeout=60)


def test_every_waiting_call_hears_that_the_model_could_not_be_loaded(tmp_path: Path) -> None:
    """Each of them loading it again would take hours with a large model."""
    with (
        ModelPool("tasks.generate.chat:ChatModel", child_arguments("hf", tmp_path / "nothing"), threads=1) as pool,
        ThreadPoolExecutor(4) as threads,
    ):
        begun = time.monotonic()
        calls = [threads.submit(pool.call, "write", rows=[], sampling={}) for _ in range(4)]
        assert all(isinstance(call.exception(timeout=120), ChildError) for call in calls)
        one = time.monotonic() - begun
        assert len({str(call.exception()) for call in calls}) == 1, f"more than one child was started in {one:.0f} s"
