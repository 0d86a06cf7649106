"""Outputs that a stage's version stands for: when one changes, results on disk are stale, so raise its version.

A digest below belongs to the version beside it. If a test fails after an intended change, raise the version in
`tasks/stages.py` (or beside the function) and put the new digest here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from configs.settings import load_settings
from storage.files import fingerprint
from tasks.engines.hf import draw, row_noise
from tasks.engines.protocol import Request
from tasks.engines.templates import chat_ids, pre_query_ids, response_prompt_ids
from tasks.filter.run import filter_rows
from tasks.generate import rows as magpie
from tasks.prefer.pairs import make_pairs
from tasks.prefer.score import SCORE_VERSION, score_id, score_key
from tasks.stages import VERSIONS

INSTRUCTIONS = [
    "Explain how a bridge carries the weight of a train.",
    "Explain how a bridge carries the weight of a heavy train.",
    "Write a short story about a clock that runs backwards.",
    "List three ways to keep bread fresh for a week.",
    "Why do leaves change their colour in autumn?",
    "Write a Python function that reverses a list.",
]
OUTPUT = (
    "First think about where the load goes, because every part must pass it on to the next one until it reaches the "
    "ground. Then look at the joints, which are the weakest places, and check them twice before you trust the whole."
)


def raw() -> list[dict[str, Any]]:
    outputs = [OUTPUT, OUTPUT, "I cannot help with that. " * 6, OUTPUT, "go go go " + OUTPUT, OUTPUT]
    return [
        {"id": f"{number:06d}", "domain": "open", "instruction": text, "output": output, "finish_reason": "stop"}
        for number, (text, output) in enumerate(zip(INSTRUCTIONS, outputs, strict=True))
    ]


def test_filter() -> None:
    settings = load_settings("demo", {"filter.train_rows": 1, "filter.val_rows": 1}).filter
    result = filter_rows(raw(), settings, seed=0)
    assert (VERSIONS["filter"], fingerprint([result.kept, result.dropped])) == (3, "e21df74844a4e44e")


def test_pairs() -> None:
    instructions = [{"id": "a", "instruction": "ask", "split": "train"}]
    responses = [
        {"id": "a", "model": name, "output": f"answer {name}", "finish_reason": "stop", "score": score}
        for name, score in (("x", 0.5), ("y", 2.0), ("z", -1.0))
    ]
    result = make_pairs(instructions, responses, load_settings("demo").preference)
    assert (VERSIONS["prefer"], fingerprint(result.pairs)) == (3, "fcff866eaf51ba6a")


def test_draws() -> None:
    logits = torch.sin(torch.arange(400, dtype=torch.float32)).reshape(8, 50)
    requests = [Request([1], seed) for seed in range(8)]
    noise, temperature, top_p = torch.from_numpy(row_noise(requests, 4)), torch.full((8,), 0.7), torch.full((8,), 0.9)
    tokens = [draw(logits, noise[:, step], temperature, top_p, nucleus=True).tolist() for step in range(4)]
    versions = (magpie.INSTRUCTION_VERSION, magpie.RESPONSE_VERSION)
    assert (versions, fingerprint(tokens)) == ((2, 2), "8b13f94f2b6f92b0")


def test_prompts(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompts = [
        pre_query_ids(tokenizer),
        pre_query_ids(tokenizer, "be brief"),
        response_prompt_ids(tokenizer, "the cat"),
        chat_ids(tokenizer, "the cat", "sat"),
    ]
    versions = (magpie.INSTRUCTION_VERSION, magpie.RESPONSE_VERSION, SCORE_VERSION)
    assert (versions, fingerprint(prompts)) == ((2, 2, 2), "d02fa48d82a34e95")


def test_keys() -> None:
    demo = load_settings("t4")
    keys = [
        magpie.instruction_key(demo.generation, 0, "teacher"),
        magpie.response_key(demo.generation.response, 0, "teacher"),
        score_key("reward"),
        score_id({"instruction": "ask", "output": "answer"}),
        magpie.content_id("ask"),
        [magpie.row_domain(magpie.attempt_id(row, 0), demo.generation.domains, 0) for row in range(50)],
    ]
    assert fingerprint(keys) == "edce4542870d421e"
