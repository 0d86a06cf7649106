"""The slot table and its memory: rows go on after an out-of-memory error, and the smaller number is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.engines.hf import HfEngine
from tasks.engines.protocol import Completion, Request, Sampling
from tasks.engines.rows_at_once import RowsAtOnce
from tasks.engines.slots import SlotEngine, UnsupportedModelError, _Table
from tasks.generate.chat import hf_engine, load_model, tokens_that_open_with
from tasks.models import ModelError

SAMPLING = Sampling(1.0, 0.9, 12, (4,))
ROWS = [Request([0, 300 + row, 310], row) for row in range(10)]


@pytest.fixture
def model(tiny_model: Path) -> Any:
    return load_model(str(tiny_model), None, "fp32")


def complete(engine: Any) -> list[Completion]:
    engine.add(0, ROWS, SAMPLING)
    done: dict[int, list[Completion]] = {}
    while engine.calls:
        done.update(engine.step())
    return done[0]


@pytest.mark.parametrize("moment", ["step", "admit"])
def test_rows_go_on_in_half_the_slots_with_what_they_have(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    expected = complete(SlotEngine(model, RowsAtOnce(8)))
    real, tried = getattr(_Table, moment), []

    def fail_in_large_tables(table: _Table, *arguments: Any) -> Any:
        tried.append(table.size)
        if table.size > 2 and len(tried) > (2 if moment == "step" else 0):
            raise torch.OutOfMemoryError("no memory left")
        return real(table, *arguments)

    monkeypatch.setattr(_Table, moment, fail_in_large_tables)
    memory = tmp_path / "rows-at-once.json"
    assert complete(SlotEngine(model, RowsAtOnce(8, memory))) == expected
    assert set(tried) == {8, 4, 2}
    assert RowsAtOnce(8, memory).count == 2, "the next session starts with what this one found"
    assert RowsAtOnce(1, memory).count == 1, "a profile may ask for fewer"


def test_a_row_that_ended_in_a_step_that_failed_later_is_not_lost(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It drew a stop token from its prompt; then the step of the others ran out of memory."""
    any_token = tuple(range(model.config.vocab_size))
    real, failures = _Table.step, []

    def fail_once(table: _Table) -> Any:
        if not failures:
            failures.append(table.size)
            raise torch.OutOfMemoryError("no memory left")
        return real(table)

    monkeypatch.setattr(_Table, "step", fail_once)
    engine = SlotEngine(model, RowsAtOnce(4))
    engine.add(0, ROWS[:2], Sampling(1.0, 1.0, 12, any_token))
    engine.add(1, ROWS[2:4], Sampling(1.0, 1.0, 5, ()))
    done: dict[int, list[Completion]] = {}
    for _ in range(20):
        done.update(engine.step())
    assert not engine.calls
    assert done[0] == [Completion([], "stop")] * 2
    assert [len(completion.tokens) for completion in done[1]] == [5, 5]


def test_one_row_that_does_not_fit_is_an_error(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(_Table, "step", fail)
    engine = SlotEngine(model, RowsAtOnce(2))
    with pytest.raises(torch.OutOfMemoryError):
        complete(engine)
    engine.abandon()
    assert not engine.calls


def test_a_batch_is_halved_on_the_plain_path_too(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried = HfEngine._decode, []

    def fail_for_large_groups(engine: HfEngine, requests: list[Request], sampling: Sampling) -> list[Completion]:
        tried.append(len(requests))
        if len(requests) > 3:
            raise torch.OutOfMemoryError("no memory left")
        return real(engine, requests, sampling)

    expected = complete(HfEngine(model, RowsAtOnce()))
    monkeypatch.setattr(HfEngine, "_decode", fail_for_large_groups)
    memory = tmp_path / "rows-at-once.json"
    assert complete(HfEngine(model, RowsAtOnce(None, memory))) == expected
    assert tried[:3] == [10, 5, 2]
    assert RowsAtOnce(None, memory).count == 2


def test_a_torn_memory_is_no_memory(tmp_path: Path) -> None:
    memory = tmp_path / "rows-at-once.json"
    memory.write_text('{"cpu": ')
    assert RowsAtOnce(8, memory).count == 8


@pytest.mark.parametrize(("setting", "value"), [("sliding_window", 8), ("attn_logit_softcapping", 50.0)])
def test_attention_that_the_table_does_not_compute_is_refused(model: Any, setting: str, value: float) -> None:
    setattr(model.config, setting, value)
    with pytest.raises(UnsupportedModelError, match=setting):
        SlotEngine(model, RowsAtOnce(2))


def test_a_model_that_decodes_otherwise_is_found_out(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that the model's layers misread gives other probabilities than one pass over the text."""
    from tasks.engines.slots import SlotCache

    real = SlotCache.fill

    def fill_shifted(cache: SlotCache, slots: Any, lengths: Any, read: Any) -> None:
        real(cache, slots, lengths - 3, read)

    with torch.no_grad():
        for layer in model.model.layers:  # random weights of the usual size hardly attend to anything
            for weight in (layer.self_attn.q_proj.weight, layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight):
                weight.mul_(30)
        model.get_output_embeddings().weight.mul_(30)
    monkeypatch.setattr(SlotCache, "fill", fill_shifted)
    with pytest.raises(UnsupportedModelError, match="off"):
        SlotEngine(model, RowsAtOnce(2))


def test_a_row_longer_than_the_models_context_is_refused_and_nothing_of_its_call_is_taken(model: Any) -> None:
    engine = SlotEngine(model, RowsAtOnce(2))
    with pytest.raises(ValueError, match="maximum context length"):
        engine.add(0, [*ROWS, Request([5] * 1020, 0)], SAMPLING)
    assert not engine.calls


def test_longer_rows_that_come_later_get_a_longer_table(model: Any) -> None:
    engine = SlotEngine(model, RowsAtOnce(2))
    long = [Request([7] * 150, 1)]
    engine.add(0, ROWS, SAMPLING)
    engine.add(1, long, SAMPLING)
    done: dict[int, list[Completion]] = {}
    while engine.calls:
        done.update(engine.step())
    plain = HfEngine(model, RowsAtOnce())
    plain.add(0, long, SAMPLING)
    assert done[1] == plain.step()[0][1]


@pytest.mark.parametrize("engine", [HfEngine, SlotEngine])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_overflowing_model_stops_with_its_name_and_precision(
    engine: Any, temperature: float, tiny_model: Path
) -> None:
    """Its activations exceed fp16 only where a certain token stands, as Qwen's do at some; fp32 holds them."""
    told = {}
    for precision in ("fp32", "fp16"):
        model = load_model(str(tiny_model), None, precision)
        with torch.no_grad():
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
            model.model.embed_tokens.weight[320] = 65_000
            model.model.layers[0].mlp.up_proj.weight *= 1e2
            model.model.layers[0].mlp.down_proj.weight *= 1e4
        made = engine(model, RowsAtOnce(2))
        made.add(0, [Request([0, 300], 0), Request([0, 310, 320], 1)], Sampling(temperature, 0.9, 4, (4,)))
        try:
            while made.calls:
                made.step()
        except ModelError as error:
            told[precision] = str(error)
    assert told.keys() == {"fp16"}, "all is well in fp32"
    assert f"{tiny_model} overflows in fp16: load it in fp32" in told["fp16"]


def test_a_cpu_decodes_whole_batches_so_that_a_resumed_run_gives_the_same_bytes(model: Any) -> None:
    assert isinstance(hf_engine(model, RowsAtOnce()), HfEngine)


def test_suppressed_openings_are_found_after_white_space_too(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokens = tokens_that_open_with(tokenizer, ["#", "cat"])
    texts = {tokenizer.decode([token]) for token in tokens}
    assert {"#", " cat"} <= texts
    assert all(text.lstrip().startswith(("#", "cat")) for text in texts)
    assert tokens_that_open_with(tokenizer, []) == ()
