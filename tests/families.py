"""Tokenizers of model families, cut down to the words the tests use, and chat templates that do as the real ones do.

Special tokens and pieces of words have their real ids, as far as is not said otherwise below. Single characters let
any text be encoded: in Llama-3 and Qwen with their real ids, elsewhere with ids made up. A word is cut into the longest
pieces that fit, not by merges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

LLAMA_3 = {
    **{"system": 9125, "user": 882, "assistant": 78191, "ĊĊ": 271, "Ċ": 198, "Hello": 9906, "What": 3923, ".": 13},
    **{"You": 2675, "Ġare": 527, "Ġa": 264, "Ġhelpful": 11190, "Ġassistant": 18328},
    **{"Cut": 38766, "ting": 1303, "ĠKnowledge": 33025, "ĠDate": 2696, ":": 25, "ĠDecember": 6790, "Ġ": 220},
    **{"202": 2366, "3": 18, "Today": 15724, "26": 1627, "ĠJul": 10263, "4": 19},
}
QWEN = {
    **{"system": 8948, "user": 872, "assistant": 77091, "ĊĊ": 271, "Ċ": 198, "Hello": 9707, "What": 3838, ".": 13},
    **{"You": 2610, "Ġare": 525, "Ġa": 264, "Ġhelpful": 10950, "Ġassistant": 17847, "ĠYou": 1446, "ĠQ": 1207},
    **{"wen": 16948, ",": 11, "Ġcreated": 3465, "Ġby": 553, "ĠAlibaba": 54364, "ĠCloud": 14817},
}
SMOLLM2 = {
    **{"system": 9690, "user": 4093, "ass": 520, "istant": 9531, "Ċ": 198, "Hello": 19556, "What": 1780, ".": 30},
    **{"You": 2683, "Ġare": 359, "Ġa": 253, "Ġhelpful": 5356, "ĠAI": 5646, "Ġassistant": 11173, "Ġnamed": 3365},
    **{"ĠSm": 3511, "ol": 308, "LM": 34519, ",": 28, "Ġtrained": 7018, "Ġby": 411, "ĠH": 407, "ugging": 19712},
    **{"ĠFace": 8182},
}
GEMMA_2 = {
    **{"user": 1645, "model": 2516, "Hello": 4521, ".": 235265},
    **{"You": 2045, "▁are": 708, "▁a": 476, "▁helpful": 10055, "▁assistant": 20409},  # the last two may be others
}
GEMMA_3 = {
    **{"user": 2364, "model": 4368, "Hello": 9259, ".": 236761},
    **{"You": 3048, "▁are": 659, "▁a": 496, "▁helpful": 11045, "▁assistant": 16326},
}
# `▁helpful`, `▁assistant` and `Hello` may be others
MISTRAL_1 = {
    **{"▁[": 733, "INST": 16289, "]": 28793, "/": 28748, "▁Hello": 22557, "▁What": 1824, "▁A": 330, "▁": 28705},
    **{".": 28723, "▁You": 995, "▁are": 460, "▁a": 264, "▁helpful": 10865, "▁assistant": 13892, "Hello": 16230},
    **{"\n": 13},
}
# Version 3 put 768 control tokens before the pieces of version 1
MISTRAL_3 = {piece: token + 768 for piece, token in MISTRAL_1.items()}

LLAMA_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_WORDS = LLAMA_WORDS.replace("{1,3}", "")
GPT_2_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

LLAMA_3_1_TEMPLATE = r"""{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\nToday Date: " + date_string + "\n\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content']|trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

LLAMA_3_2_TEMPLATE = LLAMA_3_1_TEMPLATE.replace('"26 Jul 2024"', 'strftime_now("%d %b %Y")')

QWEN_2_5_TEMPLATE = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

QWEN_3_TEMPLATE = r"""{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
        {{- message.content.lstrip('\n') + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""

GEMMA_2_TEMPLATE = r"""{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\n' + message['content']|trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"""

GEMMA_3_TEMPLATE = r"""{{- bos_token }}
{%- set first_user_prefix = "" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {{- message['content']|trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"""

MISTRAL_1_TEMPLATE = r"""{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}"""

# The system prompt goes into the last user's turn, and only while that is not yet answered
MISTRAL_3_TEMPLATE = r"""{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content']|trim + eos_token }}
    {%- endif %}
{%- endfor %}"""

SMOLLM2_TEMPLATE = r"""{%- for message in messages %}
    {%- if loop.first and messages[0]['role'] != 'system' %}
        {{- '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


def llama(template: str) -> Any:
    """Llama-3: the tokenizer adds a BOS, and so does the template."""
    special = {
        "<|begin_of_text|>": 128000,
        "<|end_of_text|>": 128001,
        "<|start_header_id|>": 128006,
        "<|end_header_id|>": 128007,
        "<|eom_id|>": 128008,
        "<|eot_id|>": 128009,
    }
    return _byte_level(LLAMA_3, special, LLAMA_WORDS, template, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def qwen(template: str, added: Sequence[str] = ()) -> Any:
    """Qwen2.5, or Qwen3 with its added tokens: there is no BOS."""
    special = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
    vocabulary = QWEN | {"<think>": 151667, "</think>": 151668}
    return _byte_level(vocabulary, special, QWEN_WORDS, template, added, eos_token="<|im_end|>")


def smollm2() -> Any:
    """ChatML: what the configuration calls BOS begins every turn, and the tokenizer adds none."""
    special = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    return _byte_level(
        SMOLLM2,
        special,
        GPT_2_WORDS,
        SMOLLM2_TEMPLATE,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


def gemma(words: dict[str, int], turn: tuple[int, int], newline: int, template: str) -> Any:
    """Gemma: newlines are added tokens that are not special."""
    from tokenizers import decoders, normalizers

    special = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<start_of_turn>": turn[0], "<end_of_turn>": turn[1]}
    vocabulary = words | {"\n": newline, "\n\n": newline + 1}
    bare = _tokenizer(vocabulary, special, _characters("▁"), ["\n", "\n\n"])
    bare.normalizer = normalizers.Replace(" ", "▁")
    bare.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return _wrapped(bare, special, template, adds="<bos>", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def mistral(words: dict[str, int], controls: dict[str, int], template: str) -> Any:
    """Mistral: a space belongs to the word after it, and the tokenizer puts one before every stretch of text."""
    from tokenizers import decoders, pre_tokenizers

    special = {"<s>": 1, "</s>": 2, **controls}
    bare = _tokenizer(words, special, _characters("▁"))
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    bare.decoder = decoders.Metaspace(prepend_scheme="always")
    return _wrapped(bare, special, template, adds="<s>", bos_token="<s>", eos_token="</s>")


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama-3.1": lambda: llama(LLAMA_3_1_TEMPLATE),
    "llama-3.2": lambda: llama(LLAMA_3_2_TEMPLATE),
    "qwen2.5": lambda: qwen(QWEN_2_5_TEMPLATE),
    "qwen3": lambda: qwen(QWEN_3_TEMPLATE, ["<think>", "</think>"]),
    "gemma-2": lambda: gemma(GEMMA_2, (106, 107), 108, GEMMA_2_TEMPLATE),
    "gemma-3": lambda: gemma(GEMMA_3, (105, 106), 107, GEMMA_3_TEMPLATE),
    "mistral-v0.1": lambda: mistral(MISTRAL_1, {}, MISTRAL_1_TEMPLATE),
    "mistral-v0.3": lambda: mistral(MISTRAL_3, {"[INST]": 3, "[/INST]": 4}, MISTRAL_3_TEMPLATE),
    "smollm2": smollm2,
}


def _byte_level(
    words: dict[str, int],
    special: dict[str, int],
    pattern: str,
    template: str,
    added: Sequence[str] = (),
    **named: str,
) -> Any:
    from tokenizers import Regex, decoders, pre_tokenizers

    # In the order of GPT-2's table, which is also that of the real ids: printable bytes first
    alphabet = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))]
    start = 0 if min(special.values()) > 0 else 1000
    bare = _tokenizer(words, special, {character: start + n for n, character in enumerate(alphabet)}, added)
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bare.decoder = decoders.ByteLevel()
    adds = named["bos_token"] if named.get("bos_token") == "<|begin_of_text|>" else None
    return _wrapped(bare, special, template, adds=adds, **named)


def _characters(*more: str) -> dict[str, int]:
    return {character: 300_000 + n for n, character in enumerate([*map(chr, range(33, 127)), *more])}


def _tokenizer(
    words: dict[str, int], special: dict[str, int], characters: dict[str, int], added: Sequence[str] = ()
) -> Any:
    from tokenizers import AddedToken, Tokenizer, models

    vocabulary = {**characters, **words, **special}
    assert len(set(vocabulary.values())) == len(vocabulary)
    # `WordPiece` without its prefix takes any ids and always the longest piece
    bare = Tokenizer(
        models.WordPiece(
            vocabulary, unk_token=next(iter(special)), continuing_subword_prefix="", max_input_chars_per_word=10_000
        )
    )
    bare.add_special_tokens(list(special))
    bare.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    return bare


def _wrapped(bare: Any, special: dict[str, int], template: str, *, adds: str | None = None, **named: str) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    if adds:
        bare.post_processor = processors.TemplateProcessing(single=f"{adds} $A", special_tokens=[(adds, special[adds])])
    return PreTrainedTokenizerFast(tokenizer_object=bare, chat_template=template, **named)
