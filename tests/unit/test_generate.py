"""Generation's pure parts: prompts to the token, noise by the row, domains, raw rows and their statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from configs.settings import DomainSettings, load_settings
from storage.shards import RowStore
from tasks.engines.hf import draw, row_noise
from tasks.engines.protocol import Request
from tasks.generate import rows as magpie


def test_noise_is_a_function_of_seed_and_position() -> None:
    short, long = (row_noise([Request([1], 7), Request([1], 8)], length) for length in (4, 9))
    assert (short == long[:, :4]).all()
    assert (long[0] != long[1]).any()
    assert ((long >= 0) & (long < 1)).all()


def drawn(probabilities: list[float], noise: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    rows = len(noise)
    logits = torch.tensor([probabilities]).log().repeat(rows, 1)
    tokens: torch.Tensor = draw(
        logits, noise, torch.full((rows,), temperature), torch.full((rows,), top_p), nucleus=top_p < 1
    )
    return tokens


def test_draws_follow_the_probabilities() -> None:
    probabilities = [0.5, 0.2, 0.2, 0.1]
    tokens = drawn(probabilities, torch.linspace(0, 1 - 1e-6, 10_000), 1.0, 1.0)
    assert (torch.bincount(tokens, minlength=4) / 10_000 - torch.tensor(probabilities)).abs().max() < 0.001


def test_top_p_cuts_the_tail_and_keeps_the_token_that_crosses_it() -> None:
    probabilities, noise = [0.5, 0.3, 0.15, 0.05], torch.linspace(0, 1 - 1e-6, 1000)
    assert set(drawn(probabilities, noise, 1.0, 0.6).tolist()) == {0, 1}
    assert set(drawn(probabilities, noise, 1.0, 0.4).tolist()) == {0}
    assert set(drawn(probabilities, noise, 0.0, 1.0).tolist()) == {0}


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


def instruction(row: int, attempt: int = 0, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "id": magpie.attempt_id(row, attempt),
        "domain": "facts",
        "raw_instruction": f" ask {row}\n",
        "instruction": f"ask {row}",
        "cuts": [{"field": "instruction", "reason": "white_space", "start": 0, "removed": " "}],
        "tokens": 3,
        "finish_reason": finish_reason,
    }


def answer(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    return {"output": text, "tokens": 2, "finish_reason": finish_reason, "cuts": []}


def test_a_raw_row_tells_what_was_drawn_and_what_was_cut() -> None:
    assert magpie.raw_row(instruction(1, 2), answer("one two"), "teacher") == {
        "id": "000001",
        "domain": "facts",
        "instruction": "ask 1",
        "output": "one two",
        "raw_instruction": " ask 1\n",
        "cuts": [{"field": "instruction", "reason": "white_space", "start": 0, "removed": " "}],
        "finish_reason": "stop",
        "failure": None,
        "model": "teacher",
        "attempts": 3,
        "instruction_tokens": 3,
        "output_tokens": 2,
    }


@pytest.mark.parametrize(
    ("drawn", "answered", "finish_reason", "failure"),
    [
        (instruction(0), answer("never end", "length"), "length", "output cut off at the token limit"),
        (instruction(0), answer(""), "stop", "output empty"),
        (instruction(0, finish_reason="length"), None, "length", "instruction cut off at the token limit"),
        (instruction(0) | {"instruction": ""}, None, "stop", "instruction empty"),
    ],
)
def test_a_failed_attempt_is_kept_and_says_why(
    drawn: dict[str, Any], answered: dict[str, Any] | None, finish_reason: str, failure: str
) -> None:
    row = magpie.raw_row(drawn, answered, "teacher")
    assert (row["finish_reason"], row["failure"]) == (finish_reason, failure)


def test_the_last_attempt_is_published_and_success_is_counted_over_attempts() -> None:
    attempts = [
        magpie.raw_row(instruction(0), answer("x", "length"), "t"),
        magpie.raw_row(instruction(1), answer("one two"), "t"),
        magpie.raw_row(instruction(0, 1), answer("well done"), "t"),
    ]
    rows, failed = magpie.last_attempts(attempts)
    assert [(row["id"], row["attempts"]) for row in rows] == [("000000", 2), ("000001", 1)]
    assert [(row["id"], row["attempts"]) for row in failed] == [("000000", 1)]
    domains = {"facts": DomainSettings(weight=3), "code": DomainSettings(weight=1)}
    stats = magpie.raw_statistics(rows, failed, 2, domains)
    assert (stats["rows"], stats["attempts"], stats["completed"], stats["success_rate"]) == (2, 3, 2, 2 / 3)
    assert stats["failures"] == {"output cut off at the token limit": 1}
    assert stats["cuts"] == {"instruction white_space": 2}
    assert stats["domain_shares"] == {
        "facts": {"wanted": 0.75, "achieved": 1.0},
        "code": {"wanted": 0.25, "achieved": 0.0},
    }


def test_statistics_of_nothing_are_null_not_zero() -> None:
    stats = magpie.raw_statistics([], [], 5, {"facts": DomainSettings(weight=1)})
    assert stats["success_rate"] is None
    assert stats["mean_response_words"] is None
    assert stats["domain_shares"]["facts"]["achieved"] is None


class CountingPool:
    """Answers as an engine would, and counts how often it is asked."""

    device: dict[str, Any] = {}

    def __init__(self) -> None:
        self.calls = 0

    def call(self, method: str, rows: list[dict[str, Any]], sampling: dict[str, Any]) -> list[dict[str, Any]]:
        self.calls += 1
        drawn = {"specials": [], "turn_end": None, "tokens": 2, "finish_reason": "stop"}
        return [{"text": f" {method} {row['seed']} ", **drawn} for row in rows]

    def lap(self) -> float:
        return 0.5


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


def test_a_row_is_settled_when_it_is_whole_or_its_attempts_are_used_up(tmp_path: Path) -> None:
    """What a night has left to do is read from these two stores and nothing else."""
    overrides = {
        "generation.rows": 4,
        "generation.max_attempts": 2,
        "filter.train_rows": 1,
        "filter.val_rows": 1,
    }
    settings = load_settings("demo", overrides).generation
    asked, answers = RowStore(tmp_path / "asked"), RowStore(tmp_path / "answers")
    drawn = [
        instruction(0),
        instruction(1),
        instruction(1, 1),
        instruction(2, finish_reason="length"),
        instruction(3, finish_reason="length"),
        instruction(3, 1, finish_reason="length"),
    ]
    (batch,) = asked.plan([row["id"] for row in drawn], 10)
    asked.write(batch, drawn)
    assert magpie.settled_rows(asked, answers, settings) == 1  # row 3
    given = {magpie.content_id("ask 0"): answer("done"), magpie.content_id("ask 1"): answer("cut", "length")}
    (batch,) = answers.plan(given, 10)
    answers.write(batch, [{"id": row_id} | row for row_id, row in given.items()])
    assert magpie.settled_rows(asked, answers, settings) == 3
