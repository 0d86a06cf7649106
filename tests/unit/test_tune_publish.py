"""A published adapter's tokenizer and card: whoever loads them prompts the adapter as it was trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from storage.files import read_json
from tasks.engines.templates import response_prompt_ids
from tasks.tune.publish import TOKENIZER_CONFIG, model_card, save_tokenizer
from tasks.tune.rows import PLAIN_TEMPLATE, chat_tokenizer, encode_exchange
from tests.families import FAMILIES, LLAMA_3_2_TEMPLATE
from tests.integration.test_tune_training import make_job

INSTRUCTION, OUTPUT = "Hello.", "You are."
NO_BOS = LLAMA_3_2_TEMPLATE.replace("{{- bos_token }}", "")
CLOCK = "{{- bos_token }}[INST] {{ strftime_now( '%Y-%m-%d' ) }} {{ messages[0].content }} [/INST]" + (
    "{% if messages[1] is defined %} {{ messages[1].content }}{{ eos_token }}{% endif %}"
)
BASES = [
    *((name, None) for name in FAMILIES),
    *((name, "") for name in ("llama-3.1", "qwen3", "gemma-3", "mistral-v0.1", "smollm2")),
    ("llama-3.2", NO_BOS),
    ("mistral-v0.1", CLOCK),
]
base = pytest.mark.parametrize(("name", "template"), BASES)


def saved(name: str, template: str | None, folder: Path) -> Path:
    """A base model's tokenizer; an empty template is none."""
    tokenizer = FAMILIES[name]()
    tokenizer.chat_template = tokenizer.chat_template if template is None else template or None
    tokenizer.save_pretrained(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@base
def test_a_stranger_prompts_as_training_did(name: str, template: str | None, tmp_path: Path) -> None:
    """With nothing but transformers: no argument that the study pins, no BOS that it adds."""
    from transformers import AutoTokenizer

    ours = chat_tokenizer(str(saved(name, template, tmp_path / "base")))
    save_tokenizer(ours, tmp_path / "adapter")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    prompt, answer = encode_exchange(ours, INSTRUCTION, OUTPUT)
    turns = [{"role": "user", "content": INSTRUCTION}, {"role": "assistant", "content": OUTPUT}]
    assert theirs.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False) == prompt
    assert theirs.apply_chat_template(turns, return_dict=False) == prompt + answer
    # and through our own eyes it is the tokenizer it was
    assert response_prompt_ids(theirs, INSTRUCTION) == prompt
    assert (theirs.pad_token_id, theirs.eos_token_id) == (ours.pad_token_id, ours.eos_token_id)


@base
def test_equal_runs_publish_equal_bytes_and_no_place(name: str, template: str | None, tmp_path: Path) -> None:
    for place in ("one", "two"):
        tokenizer = chat_tokenizer(str(saved(name, template, tmp_path / place / "base")))
        if place == "two":
            tokenizer.encode("Hello", max_length=1, truncation=True)
        save_tokenizer(tokenizer, tmp_path / place / "adapter")
    one, two = files(tmp_path / "one" / "adapter"), files(tmp_path / "two" / "adapter")
    assert one == two
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= one.keys()
    assert str(tmp_path).encode() not in b"".join(one.values())
    config = read_json(tmp_path / "one" / "adapter" / TOKENIZER_CONFIG)
    assert not {"name_or_path", "is_local", "local_files_only"} & config.keys()
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


@base
def test_the_card_says_how_to_prompt_and_what_ends_an_answer(name: str, template: str | None, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(str(saved(name, template, tmp_path / "base")))
    card = model_card(make_job("sft", tmp_path, tmp_path / "base", tmp_path), {}, tokenizer)
    assert str(tmp_path) not in card
    plain = tokenizer.chat_template == PLAIN_TEMPLATE
    assert ("a plain text format, since the base model has no chat template" in card) == plain
    assert ("the base model's own chat template" in card) != plain
    (shown,) = re.findall(r"```text\n(.*?)\n```", card, flags=re.DOTALL)
    (instruction,) = re.findall(r'"content": "(.*?)"', card)
    bos = [tokenizer.bos_token_id] * shown.startswith(tokenizer.bos_token or "nothing")
    assert tokenizer.encode(shown, add_special_tokens=False) == response_prompt_ids(tokenizer, instruction)
    assert response_prompt_ids(tokenizer, instruction)[: len(bos)] == bos
    (end,) = re.findall(r"\(token (\d+)\) ends it", card)
    assert f"eos_token_id={end})" in card
    assert int(end) in encode_exchange(tokenizer, INSTRUCTION, OUTPUT)[1][-2:]


def test_a_named_template_is_the_one_that_is_published(tmp_path: Path) -> None:
    """Some tokenizers have several; a chat without tools takes the default one."""
    from transformers import AutoTokenizer

    tokenizer: Any = FAMILIES["qwen3"]()
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "<|im_start|>tools"}
    save_tokenizer(tokenizer, tmp_path)
    chat = [{"role": "user", "content": INSTRUCTION}]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids == response_prompt_ids(tokenizer, INSTRUCTION)
