"""Generation's pure parts: prompts to the token, noise by the row, domains, raw rows and their statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from configs.settings import DomainSettings, load_settings
from storage.shards import RowStore
from tasks.engines.hf import draw, row_noise
from tasks.engines.protocol import Request, Sampling
from tasks.engines.templates import TemplateError, chat_ids, pre_query_ids, response_prompt_ids, stop_ids
from tasks.generate import rows as magpie


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_the_pre_query_prompt_ends_where_the_user_would_speak(tokenizer: Any) -> None:
    text = tokenizer.decode(pre_query_ids(tokenizer))
    assert text == "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"


def test_a_system_prompt_comes_before_the_user(tokenizer: Any) -> None:
    text = tokenizer.decode(pre_query_ids(tokenizer, "be brief"))
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize("make", [lambda t: pre_query_ids(t), lambda t: response_prompt_ids(t, "the cat")])
def test_every_prompt_has_exactly_one_bos(tokenizer: Any, make: Any) -> None:
    ids = make(tokenizer)
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_an_exchange_is_templated_once(tokenizer: Any) -> None:
    text = tokenizer.decode(chat_ids(tokenizer, "the cat", "sat"))
    assert text.count("<|begin_of_text|>") == 1
    assert text.endswith("assistant<|end_header_id|>\n\nsat<|eot_id|>")


def test_the_stop_set_holds_the_end_of_turn(tokenizer: Any) -> None:
    end_of_turn = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert stop_ids(tokenizer, None) == (end_of_turn,)
    assert stop_ids(tokenizer, [1, end_of_turn]) == (1, end_of_turn)


def test_a_model_without_a_template_is_refused(tokenizer: Any) -> None:
    from copy import deepcopy

    bare = deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        pre_query_ids(bare)


def test_noise_is_a_function_of_seed_and_position() -> None:
    short, long = (row_noise([Request([1], 7), Request([1], 8)], length) for length in (4, 9))
    assert torch.equal(short, long[:, :4])
    assert not torch.equal(long[0], long[1])
    assert ((long >= 0) & (long < 1)).all()


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.2, 0.2, 0.1])
    noise = torch.linspace(0, 1 - 1e-6, 10_000)
    tokens = draw(probabilities.log().repeat(10_000, 1), noise, Sampling(1.0, 1.0, 1, ()))
    assert (torch.bincount(tokens, minlength=4) / 10_000 - probabilities).abs().max() < 0.001


def test_top_p_cuts_the_tail_and_keeps_the_token_that_crosses_it() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(1000, 1)
    noise = torch.linspace(0, 1 - 1e-6, 1000)
    assert set(draw(logits, noise, Sampling(1.0, 0.6, 1, ())).tolist()) == {0, 1}
    assert set(draw(logits, noise, Sampling(1.0, 0.4, 1, ())).tolist()) == {0}
    assert set(draw(logits, noise, Sampling(0.0, 1.0, 1, ())).tolist()) == {0}


def test_domains_follow_their_weights_and_stay_when_rows_are_added() -> None:
    domains = {"code": DomainSettings(weight=3), "facts": DomainSettings(weight=1)}
    drawn = [magpie.row_domain(magpie.attempt_id(row, 0), domains, seed=0) for row in range(4000)]
    assert abs(drawn.count("code") / 4000 - 0.75) < 0.03
    assert magpie.row_domain(magpie.attempt_id(17, 2), domains, seed=0) == drawn[17]
    assert drawn != [magpie.row_domain(magpie.attempt_id(row, 0), domains, seed=1) for row in range(4000)]


def test_keys_hold_what_the_text_depends_on_and_nothing_else() -> None:
    demo = load_settings("demo")
    key = magpie.instruction_key(demo.generation, 0, "teacher")
    for override in ("generation.rows", "generation.rows_per_shard", "generation.batches_in_flight"):
        other = load_settings("demo", {override: 900})
        assert magpie.instruction_key(other.generation, 0, "teacher") == key
    hotter = load_settings("demo", {"generation.instruction.temperature": 1.2})
    assert magpie.instruction_key(hotter.generation, 0, "teacher") != key
    assert magpie.instruction_key(demo.generation, 1, "teacher") != key


def instruction(row: int, attempt: int = 0) -> dict[str, Any]:
    return {
        "id": magpie.attempt_id(row, attempt),
        "domain": "facts",
        "raw_instruction": f" ask {row}\n",
        "instruction": f"ask {row}",
        "tokens": 3,
        "finish_reason": "stop",
    }


def test_raw_rows_are_in_id_order_and_complete() -> None:
    answers = {
        magpie.content_id("ask 1"): {"output": "one two", "tokens": 2, "finish_reason": "stop"},
        magpie.content_id("ask 0"): {"output": "", "tokens": 9, "finish_reason": "length"},
    }
    rows = magpie.raw_rows({1: instruction(1, 2), 0: instruction(0)}, answers, "teacher")
    assert [row["id"] for row in rows] == ["000000", "000001"]
    assert rows[1] == {
        "id": "000001",
        "domain": "facts",
        "instruction": "ask 1",
        "output": "one two",
        "raw_instruction": " ask 1\n",
        "finish_reason": "stop",
        "model": "teacher",
        "attempts": 3,
        "instruction_tokens": 3,
        "output_tokens": 2,
    }
    stats = magpie.raw_statistics(rows, attempts=4, wanted=2)
    assert (stats["rows"], stats["completed"], stats["success_rate"]) == (2, 1, 0.25)
    assert stats["finish_reasons"] == {"length": 1, "stop": 1}
    assert (stats["mean_instruction_words"], stats["mean_response_words"]) == (2, 1)


def test_statistics_of_nothing_are_null_not_zero() -> None:
    stats = magpie.raw_statistics([], attempts=0, wanted=5)
    assert stats["success_rate"] is None
    assert stats["mean_response_words"] is None


class CountingPool:
    """Answers as an engine would, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def call(self, method: str, rows: list[dict[str, Any]], sampling: dict[str, Any]) -> list[dict[str, Any]]:
        self.calls += 1
        return [{"text": f" {method} {row['seed']} ", "tokens": 2, "finish_reason": "stop"} for row in rows]


def test_a_batch_on_disk_is_not_generated_again(tmp_path: Path) -> None:
    settings = load_settings("demo").generation
    store, pool = RowStore(tmp_path / "rows"), CountingPool()
    (batch,) = store.plan([magpie.attempt_id(row, 0) for row in range(3)], 8)
    first = magpie.write_instructions(pool, store, batch, settings, seed=0)  # type: ignore[arg-type]
    assert magpie.write_instructions(pool, store, batch, settings, seed=0) == first  # type: ignore[arg-type]
    assert pool.calls == 1
    store.path(batch).write_bytes(b"torn")
    assert magpie.write_instructions(pool, store, batch, settings, seed=0) == first  # type: ignore[arg-type]
    assert pool.calls == 2
    rows = store.collect(batch.ids)
    assert all(row["instruction"] == row["raw_instruction"].strip() for row in rows)
    assert len({row["instruction"] for row in rows}) == 3
