"""Prompts as token ids, from the model's own chat template: exactly one BOS, the date pinned, thinking off.

Text is text: a special token's text, such as `</s>`, in an instruction or an answer is encoded as the characters it
consists of, and only the template writes control tokens. Tokens that were added to the vocabulary without being
special, such as Qwen's `<think>`, stay words, and are hidden from a template that looks for them.

The functions render and encode anew at each call: keep what `pre_query_ids` gives for a system prompt.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

from jinja2 import TemplateError as JinjaError

# For private use: begins an escape, `{ESCAPE}{number of a character};`, and stands nowhere else in an escaped text
ESCAPE = "\U000f5e1f"
# Small and large letters, spaces, a line break and quotes, so that a template that changes any of them is noticed
SENTINEL = f'{ESCAPE} a  Sentinel,\n"quoted" {ESCAPE}'
PRIVATE_USE = range(0xF0000, 0xFFFFE)
# Ways a user's text can begin; no first character is shared by all
PROBES = ("What", "Write", "A", "7")
# Some templates put today's date into the prompt, which would make rows differ from day to day
PINNED: dict[str, Any] = {
    "date_string": "26 Jul 2024",
    "strftime_now": datetime(2024, 7, 26).strftime,
    "enable_thinking": False,
}


class Specials(NamedTuple):
    """The special tokens of a tokenizer, and patterns that match the longest text, or nothing where there is none."""

    texts: dict[int, str]
    pattern: str
    markup: str
    """Of all added tokens that a template may look for."""


class TemplateError(ValueError):
    """A model has no chat template that can be used."""


def pre_query_ids(tokenizer: Any, system_prompt: str | None = None) -> list[int]:
    """The prompt after which an instruct model writes a user's instruction (Magpie, arXiv 2406.08464).

    Raises:
        TemplateError: no chat template, one that changes the user's text, or one with nothing before it.
    """
    before, _ = _around_user_text(tokenizer, _escaped(tokenizer, system_prompt or ""))
    # Not the tokens of `before` itself: its last space or line break may belong to the user's first token
    begun = [_encode(tokenizer, before + probe) for probe in PROBES]
    shared = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*begun, strict=False))
    prompt = [tokens[0] for tokens in shared]
    if not before or all(token == tokenizer.bos_token_id for token in prompt):
        raise TemplateError(f"the chat template of {tokenizer.name_or_path} does not mark where a user's text begins")
    return prompt


def response_prompt_ids(tokenizer: Any, instruction: str) -> list[int]:
    """The prompt after which the model answers an instruction."""
    return _encode(tokenizer, _render(tokenizer, _escaped(tokenizer, instruction), add_generation_prompt=True))


def chat_ids(tokenizer: Any, instruction: str, output: str) -> list[int]:
    """A finished exchange, as a reward model reads it."""
    user, answer = _escaped(tokenizer, instruction), _escaped(tokenizer, output)
    return _encode(tokenizer, _render(tokenizer, user, output=answer))


def stop_ids(tokenizer: Any, generation_eos: int | list[int] | None) -> tuple[int, ...]:
    """Tokens that end a turn: the generation config's, the tokenizer's, and the special ones the template writes."""
    written = _encode(tokenizer, _render(tokenizer, "Hi", system_prompt="Hi", output="Hi"))
    declared = [generation_eos] if isinstance(generation_eos, int) else list(generation_eos or [])
    ends = {*declared, tokenizer.eos_token_id, *_specials(tokenizer).texts.keys() & set(written)}
    return tuple(sorted(token for token in ends if token is not None))


def template_to_publish(tokenizer: Any) -> str:
    """The chat template with what this module pins and adds written into it: whoever applies it gets these prompts."""
    template: str = tokenizer.get_chat_template()
    settings = {"date_string": f'"{PINNED["date_string"]}"', "enable_thinking": "false"}
    written = [f"{{%- set {name} = {value} %}}" for name, value in settings.items() if name in template]
    if _wants_bos(tokenizer) and not _render(tokenizer, "Hi").startswith(tokenizer.bos_token):
        written.append("{{- bos_token }}")
    today = PINNED["strftime_now"]
    dated = re.sub(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)", lambda match: f'"{today(match[2])}"', template)
    return "".join(written) + dated


def turn_end_text(tokenizer: Any) -> str | None:
    """What a model writes out after a user's text where no special token ends the turn: `[/INST]`, `ASSISTANT:`."""
    _, after = _around_user_text(tokenizer, None)
    return re.split(_specials(tokenizer).pattern, after, maxsplit=1)[0].strip() or None


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


def _encode(tokenizer: Any, rendered: str) -> list[int]:
    ids: list[int] = tokenizer.encode(rendered, add_special_tokens=False)
    texts, pattern, _ = _specials(tokenizer)
    # more special tokens than the template wrote: a normalizer may turn a text into a special one
    if ESCAPE in rendered or sum(token in texts for token in ids) > len(re.findall(pattern, rendered)):
        ids = _encode_renamed(tokenizer, rendered)
    bos = tokenizer.bos_token_id
    return [bos, *ids] if ids[:1] != [bos] and _wants_bos(tokenizer) else ids


def _wants_bos(tokenizer: Any) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and bool(tokenizer.encode("")[:1] == [bos])


def _escaped(tokenizer: Any, text: str) -> str:
    """A user's text without any added token's: the first character of each is escaped, and so is `ESCAPE`."""
    start = f"(?={_specials(tokenizer).markup})."
    return re.sub(f"{start}|{ESCAPE}", lambda match: f"{ESCAPE}{ord(match[0])};", text, flags=re.DOTALL)


def _encode_renamed(tokenizer: Any, rendered: str) -> list[int]:
    """Ids of a rendered chat, all of whose special tokens are the template's; what is escaped becomes text."""
    letter = next(letter for letter in map(chr, PRIVATE_USE) if letter not in rendered and letter != ESCAPE)
    renamed, names = _renamed(tokenizer, letter)
    parts = re.split(f"({_specials(tokenizer).pattern})", rendered)
    parts[0::2] = [re.sub(f"{ESCAPE}(\\d+);", lambda match: chr(int(match[1])), part) for part in parts[0::2]]
    parts[1::2] = [names.get(part, part) for part in parts[1::2]]
    ids: list[int] = renamed.encode("".join(parts), add_special_tokens=False).ids
    return ids


@lru_cache(maxsize=4)
def _renamed(tokenizer: Any, letter: str) -> tuple[Any, dict[str, str]]:
    """A copy of a tokenizer that has other names, with `letter`, for its special tokens, and the name of each text.

    To the copy a special token's text is like any other. All else about the tokens is kept: the ids, which white space
    around them they take, and that text begins anew after them. Telling the tokenizer itself to take them as text
    would not do: a Unigram model finds them among its pieces.
    """
    from tokenizers import Tokenizer

    if not tokenizer.is_fast:
        raise TemplateError(
            f"{tokenizer.name_or_path} has no tokenizer.json: `</s>` in a text would be a control token"
        )
    copy = json.loads(tokenizer.backend_tokenizer.to_str())
    model = copy["model"]
    # what merges make is an ordinary word as well, with the same id
    merges = model.get("merges") or []
    words = {word for pair in merges for word in (*pair, "".join(pair))}
    names = {
        text: f"{letter}{token}{letter}" for token, text in _specials(tokenizer).texts.items() if text not in words
    }

    for added in copy["added_tokens"]:
        added["content"] = names.get(added["content"], added["content"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): token for piece, token in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    copy |= {"truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(copy)), names


@lru_cache(maxsize=4)
def _specials(tokenizer: Any) -> Specials:
    added = tokenizer.added_tokens_decoder
    texts = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    texts |= {token: one.content for token, one in added.items() if one.special}
    # not white space, such as Gemma's runs of line breaks, which templates trim
    words = {one.content for one in added.values() if one.content.strip() == one.content}
    return Specials(texts, _any_of(set(texts.values())), _any_of({*texts.values(), *words}))


def _any_of(texts: set[str]) -> str:
    """A pattern for the longest of some texts; their first characters stand before it, since Gemma-3 has 6,000."""
    longest_first = [re.escape(text) for text in sorted(texts, key=len, reverse=True)]
    starts = "".join({re.escape(text[0]) for text in texts})
    return f"(?=[{starts}])(?:{'|'.join(longest_first)})" if starts else "(?!)"
