"""Prompts as token ids, from the model's own chat template: exactly one BOS, the date pinned, thinking off."""

from __future__ import annotations

from typing import Any

SENTINEL = "\u2402sentinel\u2403"
# Llama-3 templates put today's date into the prompt, which would make rows differ from day to day
PINNED = {"date_string": "26 Jul 2024", "enable_thinking": False}


class TemplateError(ValueError):
    """A model has no chat template that can be used."""


def pre_query_ids(tokenizer: Any, system_prompt: str | None = None) -> list[int]:
    """The prompt after which an instruct model writes a user's instruction (Magpie, arXiv 2406.08464).

    Raises:
        TemplateError: no chat template, or one that changes the user's text.
    """
    before, _ = _around_user_text(tokenizer, system_prompt)
    return _encode(tokenizer, before)


def response_prompt_ids(tokenizer: Any, instruction: str) -> list[int]:
    """The prompt after which the model answers an instruction."""
    messages = [{"role": "user", "content": instruction}]
    return _encode(tokenizer, _render(tokenizer, messages, add_generation_prompt=True))


def chat_ids(tokenizer: Any, instruction: str, output: str) -> list[int]:
    """A finished exchange, as a reward model reads it."""
    messages = [{"role": "user", "content": instruction}, {"role": "assistant", "content": output}]
    return _encode(tokenizer, _render(tokenizer, messages, add_generation_prompt=False))


def stop_ids(tokenizer: Any, generation_eos: int | list[int] | None) -> tuple[int, ...]:
    """Tokens that end a turn: the generation config's, the tokenizer's, and what the template puts after a user."""
    _, after = _around_user_text(tokenizer, None)
    following = tokenizer.encode(after, add_special_tokens=False)[:1]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    declared = [generation_eos] if isinstance(generation_eos, int) else list(generation_eos or [])
    ends = {*declared, tokenizer.eos_token_id, *(token for token in following if token in special)}
    return tuple(sorted(token for token in ends if token is not None))


def _around_user_text(tokenizer: Any, system_prompt: str | None) -> tuple[str, str]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    text = _render(tokenizer, [*system, {"role": "user", "content": SENTINEL}], add_generation_prompt=False)
    before, found, after = text.partition(SENTINEL)
    if not found:
        raise TemplateError(f"the chat template of {tokenizer.name_or_path} does not contain the user's text unchanged")
    return before, after


def _render(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise TemplateError(f"{tokenizer.name_or_path} has no chat template; Magpie needs an instruct model")
    text: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt, **PINNED
    )
    return text


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    wants_bos = bos is not None and tokenizer.encode("")[:1] == [bos]
    return [bos, *ids] if wants_bos and ids[:1] != [bos] else ids
