"""Prompts as token ids, from the model's own chat template: exactly one BOS, the date pinned, thinking off.

The functions render and encode anew at each call: keep what `pre_query_ids` gives for a system prompt.
"""

from __future__ import annotations

import re
from datetime import datetime
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError as JinjaError

# Small and large letters, spaces, a line break and quotes, so that a template that changes any of them is noticed
SENTINEL = '\u2402 a  Sentinel,\n"quoted" \u2403'
# Ways a user's text can begin; no first character is shared by all
PROBES = ("What", "Write", "A", "7")
# Some templates put today's date into the prompt, which would make rows differ from day to day
PINNED = {"date_string": "26 Jul 2024", "strftime_now": datetime(2024, 7, 26).strftime, "enable_thinking": False}


class TemplateError(ValueError):
    """A model has no chat template that can be used."""


def pre_query_ids(tokenizer: Any, system_prompt: str | None = None) -> list[int]:
    """The prompt after which an instruct model writes a user's instruction (Magpie, arXiv 2406.08464).

    Raises:
        TemplateError: no chat template, one that changes the user's text, or one with nothing before it.
    """
    before, _ = _around_user_text(tokenizer, system_prompt)
    # Not the tokens of `before` itself: its last space or line break may belong to the user's first token
    begun = [_encode(tokenizer, before + probe) for probe in PROBES]
    shared = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*begun, strict=False))
    prompt = [tokens[0] for tokens in shared]
    if not before or all(token == tokenizer.bos_token_id for token in prompt):
        raise TemplateError(f"the chat template of {tokenizer.name_or_path} does not mark where a user's text begins")
    return prompt


def response_prompt_ids(tokenizer: Any, instruction: str) -> list[int]:
    """The prompt after which the model answers an instruction."""
    return _encode(tokenizer, _render(tokenizer, instruction, add_generation_prompt=True))


def chat_ids(tokenizer: Any, instruction: str, output: str) -> list[int]:
    """A finished exchange, as a reward model reads it."""
    return _encode(tokenizer, _render(tokenizer, instruction, output=output))


def stop_ids(tokenizer: Any, generation_eos: int | list[int] | None) -> tuple[int, ...]:
    """Tokens that end a turn: the generation config's, the tokenizer's, and the special ones the template writes."""
    written = _encode(tokenizer, _render(tokenizer, "Hi", system_prompt="Hi", output="Hi"))
    declared = [generation_eos] if isinstance(generation_eos, int) else list(generation_eos or [])
    ends = {*declared, tokenizer.eos_token_id, *_special_tokens(tokenizer).keys() & set(written)}
    return tuple(sorted(token for token in ends if token is not None))


def turn_end_text(tokenizer: Any) -> str | None:
    """What a model writes out after a user's text where no special token ends the turn: `[/INST]`, `ASSISTANT:`."""
    _, after = _around_user_text(tokenizer, None)
    special = "|".join(re.escape(text) for text in _special_tokens(tokenizer).values())
    return (re.split(special, after, maxsplit=1)[0] if special else after).strip() or None


def _around_user_text(tokenizer: Any, system_prompt: str | None) -> tuple[str, str]:
    text = _render(tokenizer, SENTINEL, system_prompt=system_prompt, add_generation_prompt=True)
    if text.count(SENTINEL) != 1:
        raise TemplateError(
            f"the chat template of {tokenizer.name_or_path} does not contain the user's text once and unchanged"
        )
    before, _, after = text.partition(SENTINEL)
    return before, after


def _render(
    tokenizer: Any,
    user: str,
    *,
    system_prompt: str | None = None,
    output: str | None = None,
    add_generation_prompt: bool = False,
) -> str:
    answer = [] if output is None else [{"role": "assistant", "content": output}]
    if system_prompt:
        turns = [{"role": "system", "content": system_prompt}, {"role": "user", "content": user}, *answer]
        try:
            text = _apply_template(tokenizer, turns, add_generation_prompt)
        except TemplateError:
            text = ""
        if system_prompt.strip() in text:
            return text
        # The template refuses or drops a system role: fold it into the user's turn, as Gemma-3's template does
        user = f"{system_prompt}\n\n{user}"
    return _apply_template(tokenizer, [{"role": "user", "content": user}, *answer], add_generation_prompt)


def _apply_template(tokenizer: Any, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
    name = tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise TemplateError(f"{name} has no chat template; Magpie needs an instruct model")
    try:
        text: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt, **PINNED
        )
    except (JinjaError, TypeError, ValueError) as error:
        raise TemplateError(f"the chat template of {name} cannot show a plain chat: {error}") from error
    return text


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    wants_bos = bos is not None and tokenizer.encode("")[:1] == [bos]
    return [bos, *ids] if wants_bos and ids[:1] != [bos] else ids


def _special_tokens(tokenizer: Any) -> dict[int, str]:
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return named | {token: added.content for token, added in tokenizer.added_tokens_decoder.items() if added.special}
