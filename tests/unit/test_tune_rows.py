"""Rows as token ids: one BOS, loss on the answer and its end, losses counted, a stated order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.tune.rows import IGNORED, PLAIN_TEMPLATE, chat_tokenizer, encode_pairs, encode_sft, training_order

ROW = {"instruction": "how many birds sing", "output": "the cat sat on a mat"}
PAIR = {"prompt": "how many birds sing", "chosen": "the cat sat", "rejected": "every day begins with one small song"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return chat_tokenizer(str(tiny_model))


@pytest.fixture(scope="module")
def bare_tokenizer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bare")
    bare = AutoTokenizer.from_pretrained(tiny_model)
    bare.chat_template = None
    bare.save_pretrained(folder)
    return chat_tokenizer(str(folder))


@pytest.mark.parametrize("which", ["tokenizer", "bare_tokenizer"])
def test_one_bos_and_the_end_is_trained(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(which)
    (row,) = encode_sft([ROW], tokenizer, 512).rows
    assert row["input_ids"][0] == tokenizer.bos_token_id
    assert row["input_ids"].count(tokenizer.bos_token_id) == 1
    assert row["labels"][-1] == row["input_ids"][-1] == tokenizer.eos_token_id
    answer = [token for token in row["labels"] if token != IGNORED]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == ROW["output"]


def test_the_prompt_is_what_generation_sees(tokenizer: Any) -> None:
    (row,) = encode_sft([ROW], tokenizer, 512).rows
    prompt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORED]
    assert prompt == tokenizer.apply_chat_template(
        [{"role": "user", "content": ROW["instruction"]}], add_generation_prompt=True, return_dict=False
    )


def test_a_base_without_template_gets_the_plain_one(bare_tokenizer: Any) -> None:
    assert bare_tokenizer.chat_template == PLAIN_TEMPLATE
    (row,) = encode_sft([ROW], bare_tokenizer, 512).rows
    text = bare_tokenizer.decode(row["input_ids"])
    assert "### Instruction:\nhow many birds sing\n\n### Response:\nthe cat sat on a mat" in text


def test_a_template_that_never_ends_an_answer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    endless = AutoTokenizer.from_pretrained(tiny_model)
    endless.chat_template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    endless.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="stopping cannot be learned"):
        chat_tokenizer(str(tmp_path))


@pytest.mark.parametrize("which", ["tokenizer", "bare_tokenizer"])
def test_a_mark_in_a_row_ends_no_answer_and_begins_no_turn(which: str, request: pytest.FixtureRequest) -> None:
    """Nor does it shift where the loss begins, in an answer as little as in a preferred one."""
    tokenizer = request.getfixturevalue(which)
    mark = "<|eot_id|><|start_header_id|>user<|end_header_id|><|begin_of_text|>"
    pair = {"prompt": f"say {mark} now", "chosen": f"{mark} sat", "rejected": f"the {mark}"}
    (preferred,) = encode_pairs([pair], tokenizer, 512).rows
    (row,) = encode_sft([{"instruction": pair["prompt"], "output": pair["chosen"]}], tokenizer, 512).rows
    (plain,) = encode_pairs([PAIR], tokenizer, 512).rows
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for part, field in (("prompt_ids", "prompt"), ("chosen_ids", "chosen"), ("rejected_ids", "rejected")):
        assert [token for token in preferred[part] if token in special] == [
            token for token in plain[part] if token in special
        ]
        assert pair[field] in tokenizer.decode(preferred[part], skip_special_tokens=True)
    assert row["input_ids"] == preferred["prompt_ids"] + preferred["chosen_ids"]
    assert row["labels"].count(IGNORED) == len(preferred["prompt_ids"])


def test_lost_rows_and_lost_ends_are_counted(tokenizer: Any) -> None:
    whole = encode_sft([ROW], tokenizer, 512).rows[0]
    prompt = whole["labels"].count(IGNORED)
    long = {**ROW, "instruction": "birds " * 200}
    rows, counts = encode_sft([ROW, long, ROW], tokenizer, len(whole["input_ids"]) - 1)
    assert counts == {
        "rows": 3,
        "used": 2,
        "dropped": 1,
        "cut": 2,
        "tokens": 2 * (len(whole["input_ids"]) - 1),
    }
    assert [len(row["input_ids"]) for row in rows] == [len(whole["input_ids"]) - 1] * 2
    assert encode_sft([ROW], tokenizer, prompt).counts["dropped"] == 1
    assert encode_sft([ROW], tokenizer, prompt + 1).counts["dropped"] == 0
    assert encode_sft([ROW], tokenizer, len(whole["input_ids"])).counts["cut"] == 0


def test_pairs_share_their_prompt_and_both_end(tokenizer: Any) -> None:
    (pair,), counts = encode_pairs([PAIR], tokenizer, 512)
    assert pair["chosen_ids"][-1] == pair["rejected_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(pair["chosen_ids"], skip_special_tokens=True) == PAIR["chosen"]
    assert counts["tokens"] == 2 * len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"])
    shorter = len(pair["prompt_ids"]) + min(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
    assert encode_pairs([PAIR], tokenizer, shorter).counts["cut"] == 1
    assert encode_pairs([PAIR], tokenizer, len(pair["prompt_ids"])).counts == {
        "rows": 1,
        "used": 0,
        "dropped": 1,
        "cut": 0,
        "tokens": 0,
    }


@pytest.mark.parametrize(("rows", "batch"), [(640, 4), (101, 4), (7, 2)])
def test_every_pass_holds_every_row_once(rows: int, batch: int) -> None:
    lengths = [(i * 37) % 91 + 1 for i in range(rows)]
    order = training_order(lengths, 3, batch, seed=5)
    for start in range(0, 3 * rows, rows):
        assert sorted(order[start : start + rows]) == list(range(rows))
    assert order == training_order(lengths, 3, batch, seed=5)
    assert order != training_order(lengths, 3, batch, seed=6)
    assert order[:rows] != order[rows : 2 * rows]


def test_a_part_of_a_pass(tokenizer: Any) -> None:
    assert max(Counter(training_order([1] * 100, 0.5, 4, seed=0)).values()) == 1
    assert len(training_order([1] * 100, 1.5, 4, seed=0)) == 150


def test_batches_hold_rows_of_like_length() -> None:
    lengths = [(i * 7919) % 997 for i in range(640)]
    order = training_order(lengths, 1, 4, seed=0)

    def wasted(rows: list[int]) -> int:
        return sum(4 * max(lengths[row] for row in rows[i : i + 4]) for i in range(0, len(rows), 4)) - sum(lengths)

    assert wasted(order) < 0.25 * wasted(list(range(640)))
