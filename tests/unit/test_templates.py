"""Prompts of every model family against ids written by hand."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.engines.templates import (
    ESCAPE,
    PRIVATE_USE,
    SENTINEL,
    TemplateError,
    _encode_renamed,
    _render,
    chat_ids,
    pre_query_ids,
    response_prompt_ids,
    stop_ids,
    turn_end_text,
)
from tasks.tune.rows import PLAIN_TEMPLATE, encode_exchange
from tests.families import FAMILIES, GEMMA_2_TEMPLATE

SYSTEM, USER, ANSWER = "You are a helpful assistant.", "Hello", "Hello."


class Golden(NamedTuple):
    """What a family's prompts must be; `prompt` and `chat` are what follows `bare`."""

    bare: list[int]
    with_system: list[int]
    prompt: list[int]
    chat: list[int]
    generation_eos: int | list[int] | None
    stops: tuple[int, ...]


# fmt: off
# <|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n
# Today Date: 26 Jul 2024\n\n
LLAMA_3_SYSTEM = [
    128000, 128006, 9125, 128007, 271, 38766, 1303, 33025, 2696, 25, 6790, 220, 2366, 18, 198,
    15724, 2696, 25, 220, 1627, 10263, 220, 2366, 19, 271,
]
LLAMA_3 = Golden(
    bare=[*LLAMA_3_SYSTEM, 128009, 128006, 882, 128007, 271],
    with_system=[*LLAMA_3_SYSTEM, 2675, 527, 264, 11190, 18328, 13, 128009, 128006, 882, 128007, 271],
    prompt=[9906, 128009, 128006, 78191, 128007, 271],
    chat=[9906, 128009, 128006, 78191, 128007, 271, 9906, 13, 128009],
    generation_eos=[128001, 128008, 128009],
    stops=(128000, 128001, 128006, 128007, 128008, 128009),
)
GOLDEN = {
    "llama-3.1": LLAMA_3,
    "llama-3.2": LLAMA_3,
    "qwen2.5": Golden(
        # <|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n
        # <|im_start|>user\n
        bare=[
            151644, 8948, 198, 2610, 525, 1207, 16948, 11, 3465, 553, 54364, 14817, 13, 1446, 525, 264, 10950, 17847,
            13, 151645, 198, 151644, 872, 198,
        ],
        with_system=[151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198, 151644, 872, 198],
        prompt=[9707, 151645, 198, 151644, 77091, 198],
        chat=[9707, 151645, 198, 151644, 77091, 198, 9707, 13, 151645, 198],
        generation_eos=[151645, 151643],
        stops=(151643, 151644, 151645),
    ),
    "qwen3": Golden(
        bare=[151644, 872, 198],
        with_system=[151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198, 151644, 872, 198],
        # the thought is closed before the answer: <think>\n\n</think>\n\n
        prompt=[9707, 151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271],
        chat=[9707, 151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271, 9707, 13, 151645, 198],
        generation_eos=[151645, 151643],
        stops=(151643, 151644, 151645),
    ),
    "gemma-2": Golden(
        bare=[2, 106, 1645, 108],
        # no system role: in the user's turn, with an empty line (109) after it
        with_system=[2, 106, 1645, 108, 2045, 708, 476, 10055, 20409, 235265, 109],
        prompt=[4521, 107, 108, 106, 2516, 108],
        chat=[4521, 107, 108, 106, 2516, 108, 4521, 235265, 107, 108],
        generation_eos=[1, 107],
        stops=(1, 2, 106, 107),
    ),
    "gemma-3": Golden(
        bare=[2, 105, 2364, 107],
        with_system=[2, 105, 2364, 107, 3048, 659, 496, 11045, 16326, 236761, 108],
        prompt=[9259, 106, 107, 105, 4368, 107],
        chat=[9259, 106, 107, 105, 4368, 107, 9259, 236761, 106, 107],
        generation_eos=[1, 106],
        stops=(1, 2, 105, 106),
    ),
    "mistral-v0.1": Golden(
        bare=[1, 733, 16289, 28793],
        with_system=[1, 733, 16289, 28793, 995, 460, 264, 10865, 13892, 28723, 13, 13],
        prompt=[22557, 733, 28748, 16289, 28793],
        chat=[22557, 733, 28748, 16289, 28793, 22557, 28723, 2],
        generation_eos=2,
        stops=(1, 2),
    ),
    "mistral-v0.3": Golden(
        # the text is `<s>[INST] `, but its space (29473) belongs to the user's first word
        bare=[1, 3],
        with_system=[1, 3, 1763, 1228, 1032, 11633, 14660, 29491, 781, 781],
        prompt=[23325, 4],
        chat=[23325, 4, 23325, 29491, 2],
        generation_eos=2,
        stops=(1, 2, 3, 4),
    ),
    "smollm2": Golden(
        # <|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n
        # <|im_start|>user\n
        bare=[
            1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182,
            2, 198, 1, 4093, 198,
        ],
        with_system=[1, 9690, 198, 2683, 359, 253, 5356, 11173, 30, 2, 198, 1, 4093, 198],
        prompt=[19556, 2, 198, 1, 520, 9531, 198],
        chat=[19556, 2, 198, 1, 520, 9531, 198, 19556, 30, 2, 198],
        generation_eos=2,
        stops=(1, 2),
    ),
}
# fmt: on

family = pytest.mark.parametrize("name", GOLDEN)


def with_template(name: str, template: str | None) -> Any:
    tokenizer = FAMILIES[name]()
    tokenizer.chat_template = template
    return tokenizer


@family
def test_every_prompt_is_right_to_the_token(name: str) -> None:
    tokenizer, golden = FAMILIES[name](), GOLDEN[name]
    assert pre_query_ids(tokenizer) == pre_query_ids(tokenizer, "") == golden.bare
    assert pre_query_ids(tokenizer, SYSTEM) == golden.with_system
    assert response_prompt_ids(tokenizer, USER) == golden.bare + golden.prompt
    assert chat_ids(tokenizer, USER, ANSWER) == golden.bare + golden.chat


@family
def test_the_stop_set_holds_what_cannot_stand_inside_a_turn(name: str) -> None:
    golden = GOLDEN[name]
    assert stop_ids(FAMILIES[name](), golden.generation_eos) == golden.stops


def test_without_a_generation_config_the_template_gives_the_stops() -> None:
    assert stop_ids(FAMILIES["llama-3.1"](), None) == (128000, 128006, 128007, 128009)
    assert stop_ids(FAMILIES["qwen3"](), None) == (151644, 151645)


@pytest.mark.parametrize(
    ("name", "bos"),
    [("llama-3.1", 128000), ("llama-3.2", 128000), ("gemma-2", 2), ("gemma-3", 2), ("mistral-v0.1", 1)]
    + [("mistral-v0.3", 1)],
)
@pytest.mark.parametrize("template_writes_it", [True, False])
def test_every_prompt_has_exactly_one_bos(name: str, bos: int, template_writes_it: bool) -> None:
    tokenizer = FAMILIES[name]()
    if not template_writes_it:
        tokenizer.chat_template = tokenizer.chat_template.replace("{{- bos_token }}", "")
    for ids in (
        pre_query_ids(tokenizer),
        pre_query_ids(tokenizer, SYSTEM),
        response_prompt_ids(tokenizer, USER),
        chat_ids(tokenizer, USER, ANSWER),
    ):
        assert ids[0] == bos
        assert ids.count(bos) == 1


def test_a_date_the_template_asks_the_clock_for_is_pinned() -> None:
    asks = "{{ bos_token }}[INST] {{ strftime_now('%Y-%m-%d') }} {{ messages[-1].content }} [/INST]"
    tokenizer = with_template("mistral-v0.1", asks)
    today = tokenizer.apply_chat_template([{"role": "user", "content": USER}], tokenize=False)
    assert "2024-07-26" not in today
    assert "2024-07-26" in tokenizer.decode(response_prompt_ids(tokenizer, USER)).replace(" ", "")


def test_a_space_that_belongs_to_the_first_word_is_not_in_the_prompt() -> None:
    tokenizer = FAMILIES["mistral-v0.3"]()
    assert tokenizer.encode("<s>[INST] ", add_special_tokens=False) == [1, 3, 29473]
    assert pre_query_ids(tokenizer) == [1, 3]


def test_line_breaks_are_cut_as_they_are_before_a_word() -> None:
    """GPT-2's pattern keeps two line breaks together at the end of a text, and parts them before a word."""
    folds = GEMMA_2_TEMPLATE.replace("<start_of_turn>", "<|im_start|>").replace("<end_of_turn>", "<|im_end|>")
    tokenizer = with_template("smollm2", folds.replace("{{- bos_token }}", ""))
    assert pre_query_ids(tokenizer, "You") == [1, 4093, 198, 2683, 198, 198]


def test_a_system_prompt_the_template_drops_is_in_the_users_turn() -> None:
    drops = FAMILIES["mistral-v0.3"]().chat_template.replace("system_message + '\\n\\n' + ", "")
    assert pre_query_ids(with_template("mistral-v0.3", drops), SYSTEM) == GOLDEN["mistral-v0.3"].with_system


@pytest.mark.parametrize(
    ("name", "template", "expected"),
    [
        ("mistral-v0.1", None, "[/INST]"),
        ("mistral-v0.3", None, None),
        ("llama-3.1", None, None),
        ("qwen3", None, None),
        ("gemma-2", None, None),
        ("qwen3", "USER: {{ messages[-1].content }}{% if add_generation_prompt %} ASSISTANT:{% endif %}", "ASSISTANT:"),
        ("qwen3", "<|im_start|>\n{{ messages[-1].content }}\n### Answer:\n<|im_start|>\n", "### Answer:"),
        ("qwen3", "<|im_start|>\n{{ messages[-1].content }}\n<|im_end|>", None),
    ],
)
def test_the_text_that_ends_a_turn_without_a_special_token(
    name: str, template: str | None, expected: str | None
) -> None:
    tokenizer = FAMILIES[name]()
    tokenizer.chat_template = template or tokenizer.chat_template
    assert turn_end_text(tokenizer) == expected


@pytest.mark.parametrize(
    "use", [pre_query_ids, turn_end_text, lambda t: stop_ids(t, 2), lambda t: chat_ids(t, "a", "b")]
)
def test_a_model_without_a_template_is_refused(use: Callable[[Any], Any]) -> None:
    with pytest.raises(TemplateError, match="no chat template"):
        use(with_template("llama-3.1", None))


@pytest.mark.parametrize("change", ["|upper", "|lower", "|title", "|capitalize", "|tojson", "|e", ".split()|join(' ')"])
def test_a_template_that_changes_the_users_text_is_refused(change: str) -> None:
    tokenizer = with_template("llama-3.1", "<|start_header_id|>{{ (messages[-1].content)" + change + " }}")
    with pytest.raises(TemplateError, match="once and unchanged"):
        pre_query_ids(tokenizer)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("<|start_header_id|>", "once and unchanged"),
        ("<|start_header_id|>{{ messages[-1].content }}{{ messages[-1].content }}", "once and unchanged"),
        ("{{ bos_token }}{{ messages[-1].content }}\n", "where a user's text begins"),
        ("{{ messages[-1].content }}\n", "where a user's text begins"),
        ("{{ raise_exception('no users') }}", "cannot show a plain chat: no users"),
        ("{{ messages[-1].content[0].text.more }}", "cannot show a plain chat"),
        ("{{ messages[-1].content + 1 }}", "cannot show a plain chat"),
        ("{% if %}", "cannot show a plain chat"),
    ],
)
def test_a_template_of_no_use_is_refused(template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        pre_query_ids(with_template("llama-3.1", template))


def unigram() -> Any:
    """Pieces with scores, the special ones among them and the likeliest; only a text's first word gets a space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [(chr(code), -9.0) for code in range(33, 127)] + [("▁", -8.0), ("\n", -8.0), ("▁Hello", -5.0)]
    bare = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *letters], unk_id=0))
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bare.decoder = decoders.Metaspace(prepend_scheme="first")
    bare.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, chat_template=PLAIN_TEMPLATE, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def flagged(**flags: bool) -> Callable[[], Any]:
    """SmolLM2 whose control tokens take white space beside them, or are looked for in the normalized text."""

    def build() -> Any:
        from tokenizers import AddedToken, normalizers

        tokenizer = FAMILIES["smollm2"]()
        texts = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
        tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
        tokenizer.add_tokens([AddedToken(text, special=True, **flags) for text in texts], special_tokens=True)
        return tokenizer

    return build


def plain(name: str) -> Callable[[], Any]:
    return lambda: with_template(name, PLAIN_TEMPLATE)


WRITERS = FAMILIES | {
    "unigram": unigram,
    "plain qwen": plain("qwen3"),
    "plain llama": plain("llama-3.1"),
    "plain mistral": plain("mistral-v0.1"),
    "strips": flagged(lstrip=True, rstrip=True, normalized=False),
    "normalized": flagged(lstrip=False, rstrip=False, normalized=True),
}
writer = pytest.mark.parametrize("name", WRITERS)
built = lru_cache(lambda name: WRITERS[name]())
EVERY_CONTROL = (
    *("<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>"),
)


def controls(tokenizer: Any) -> list[str]:
    return [added.content for added in tokenizer.added_tokens_decoder.values() if added.special]


def control_ids(tokenizer: Any, ids: list[int]) -> list[int]:
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return [token for token in ids if token in special]


# Words, marks that are cut or run into one another, and words of a template; white space inside only, which some trim
PIECES = st.sampled_from(
    [*EVERY_CONTROL, "Hello", "You are", "a", ".", "<", "|im", "_end|>", "|>", "<s", "</", "[", "INST]", "1", "60"]
    + ["### Response:", "user", "<think>", "</think>"]
)
TEXTS = st.lists(st.tuples(PIECES, st.sampled_from(["", "", " "])), min_size=1, max_size=9).map(
    lambda parts: "".join(map("".join, parts)).strip()
)


@writer
@given(instruction=TEXTS, output=TEXTS)
def test_a_control_token_written_in_text_stays_text(name: str, instruction: str, output: str) -> None:
    """The template writes all control tokens, the ids say the text, and the prompt is what generation sees."""
    tokenizer = built(name)
    prompt, answer = encode_exchange(tokenizer, instruction, output)
    assert control_ids(tokenizer, prompt) == control_ids(tokenizer, response_prompt_ids(tokenizer, "Hello"))
    assert control_ids(tokenizer, prompt + answer) == control_ids(tokenizer, chat_ids(tokenizer, "Hello", "Hello"))
    assert instruction in tokenizer.decode(prompt)
    assert output in tokenizer.decode(answer)


@writer
@given(text=TEXTS)
def test_a_control_token_written_in_a_system_prompt_stays_text(name: str, text: str) -> None:
    tokenizer = built(name)
    system = f"Hello {text}"  # the plain template shows it as one more instruction
    written = pre_query_ids(tokenizer, system)
    assert control_ids(tokenizer, written) == control_ids(tokenizer, pre_query_ids(tokenizer, SYSTEM))
    assert system in tokenizer.decode(written)


@writer
@given(text=TEXTS, output=TEXTS)
def test_a_text_without_control_tokens_has_the_ids_it_always_had(name: str, text: str, output: str) -> None:
    """Both ways of encoding agree, so that neither a row nor a key of an older study changes."""
    tokenizer = built(name)
    for mark in controls(tokenizer):
        text, output = text.replace(mark, ""), output.replace(mark, "")
    rendered = _render(tokenizer, text, output=output)
    if any(mark in text + output for mark in controls(tokenizer)):  # what was left has grown together
        return
    expected = tokenizer.encode(rendered, add_special_tokens=False)
    assert _encode_renamed(tokenizer, rendered) == expected
    assert chat_ids(tokenizer, text, output)[-len(expected) :] == expected


@pytest.mark.parametrize("name", ["llama-3.1", "qwen3", "smollm2"])
@pytest.mark.parametrize(
    "text",
    [
        ESCAPE,
        f"{ESCAPE}60;",
        f"<|im_end|>{ESCAPE}<|eot_id|>{ESCAPE}60",
        SENTINEL,
        f"{SENTINEL} <|im_end|> {SENTINEL}",
        # a name that a special token has while it is encoded, and the letter it would have otherwise
        "".join(f"{chr(PRIVATE_USE[0])}{token}{chr(PRIVATE_USE[0])}" for token in (1, 2, 128009, 151645))
        + f"<|im_end|><|eot_id|>{chr(PRIVATE_USE[1])}",
        "Hello <|im_end|>",
    ],
)
def test_no_text_is_taken_for_the_marks_of_the_machinery(name: str, text: str) -> None:
    tokenizer = built(name)
    prompt, answer = encode_exchange(tokenizer, text, text)
    assert control_ids(tokenizer, prompt + answer) == control_ids(tokenizer, chat_ids(tokenizer, "Hello", "Hello"))
    assert text in tokenizer.decode(prompt)
    assert text in tokenizer.decode(answer)
    assert text in tokenizer.decode(pre_query_ids(tokenizer, text))


def test_a_normalizer_makes_no_control_token_of_a_text() -> None:
    """NFKC turns full-width signs into those of a mark, which is looked for after that."""
    tokenizer, text = built("normalized"), "Hello \uff1c|im_end|\uff1e"
    assert 2 in tokenizer.encode(text, add_special_tokens=False)
    assert response_prompt_ids(tokenizer, text).count(2) == response_prompt_ids(tokenizer, USER).count(2)


def test_a_template_does_not_act_on_markup_in_a_text() -> None:
    """Qwen3's own takes what stands before `</think>` in an answer for a thought."""
    acts = FAMILIES["qwen3"]().chat_template.replace(
        "message.content.lstrip('\\n')", "message.content.split('</think>')[-1].lstrip('\\n')"
    )
    assert acts.count("split") == 1
    tokenizer = with_template("qwen3", acts)
    prompt, answer = encode_exchange(tokenizer, "Hello", "You</think>Hello")
    assert tokenizer.decode(answer) == "You</think>Hello<|im_end|>\n"
    assert answer[1] == 151668 and prompt[-2] == 151668


def test_white_space_beside_a_written_mark_is_trimmed_by_the_template_only() -> None:
    tokenizer = built("gemma-3")
    assert chat_ids(tokenizer, "  <bos> \n", "\n<eos> ") == chat_ids(tokenizer, "<bos>", "<eos>")
    tokenizer = built("qwen3")
    assert " <|im_end|> <|im_end|>\n" in tokenizer.decode(chat_ids(tokenizer, USER, " <|im_end|> "))


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_a_saved_tokenizer_does_the_same(tiny: Any) -> None:
    start = "<|begin_of_text|><|start_header_id|>"
    assert tiny.decode(pre_query_ids(tiny)) == start + "user<|end_header_id|>\n\n"
    system = start + "system<|end_header_id|>\n\nbe brief<|eot_id|>"
    assert tiny.decode(pre_query_ids(tiny, "be brief")) == system + "<|start_header_id|>user<|end_header_id|>\n\n"
    chat = chat_ids(tiny, "the cat", "sat")
    assert tiny.decode(chat).endswith("assistant<|end_header_id|>\n\nsat<|eot_id|>")
    assert chat.count(tiny.bos_token_id) == response_prompt_ids(tiny, "the cat").count(tiny.bos_token_id) == 1
    # in the order of SPECIAL_TOKENS, without <|end_of_text|> and <|pad|>
    assert stop_ids(tiny, None) == (0, 2, 3, 4)
    assert stop_ids(tiny, [1, 4]) == (0, 1, 2, 3, 4)
    bare = deepcopy(tiny)
    bare.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        pre_query_ids(bare)
