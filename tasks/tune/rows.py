"""Training rows as token ids: the base model's chat format, loss on the answer only, nothing dropped in silence."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tasks.engines.templates import chat_ids, response_prompt_ids

Row = dict[str, list[int]]

IGNORED = -100
BATCHES_SORTED_TOGETHER = 16

# For a base model without a chat template. Plain text, because the turn tokens in a base model's vocabulary are often
# untrained, and none of the methods trains the embeddings.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}"
    "### Response:\n{{ message.content | trim }}{{ eos_token }}"
    "{% else %}### Instruction:\n{{ message.content | trim }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)


class Encoded(NamedTuple):
    """Rows of one split, ready for a trainer."""

    rows: list[Row]
    counts: dict[str, int]
    """`rows` read, `used`, `dropped` (no room for an answer), `cut` (the answer lost its end), `tokens` used."""


def chat_tokenizer(base: str, revision: str | None = None) -> Any:
    """The base model's tokenizer with a chat template: its own, else `PLAIN_TEMPLATE`.

    Raises:
        ValueError: the template does not end an answer with a special token, so that stopping cannot be learned.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, revision=revision)
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if end_token(tokenizer) is None:
        raise ValueError(f"the chat template of {base} ends answers with no special token: stopping cannot be learned")
    return tokenizer


def end_token(tokenizer: Any) -> int | None:
    """The token that ends an answer in the tokenizer's chat template."""
    _, answer = encode_exchange(tokenizer, "Say yes.", "Yes.")
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((token for token in answer if token in special), None)


def encode_exchange(tokenizer: Any, instruction: str, output: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, as generation sees it, and of the answer with its end of turn.

    Raises:
        ValueError: the template shows the prompt differently once it is answered.
    """
    prompt = response_prompt_ids(tokenizer, instruction)
    both = chat_ids(tokenizer, instruction, output)
    if both[: len(prompt)] != prompt:
        raise ValueError("the chat template shows a prompt differently once it is answered")
    return prompt, both[len(prompt) :]


def encode_sft(rows: Iterable[dict[str, str]], tokenizer: Any, max_length: int) -> Encoded:
    """`{"instruction", "output"}` as `input_ids` and `labels`, as TRL's `SFTTrainer` takes them."""
    encoded, counts = [], _counts()
    for row in rows:
        counts["rows"] += 1
        prompt, answer = encode_exchange(tokenizer, row["instruction"], row["output"])
        room = max_length - len(prompt)
        if room <= 0:
            counts["dropped"] += 1
            continue
        counts["cut"] += len(answer) > room
        encoded.append(labelled(prompt, answer[:room]))
        counts["tokens"] += row_tokens(encoded[-1])
    return Encoded(encoded, counts | {"used": len(encoded)})


def encode_pairs(rows: Iterable[dict[str, str]], tokenizer: Any, max_length: int) -> Encoded:
    """`{"prompt", "chosen", "rejected"}` as TRL's `DPOTrainer` takes them once tokenized."""
    encoded, counts = [], _counts()
    for row in rows:
        counts["rows"] += 1
        prompt, chosen = encode_exchange(tokenizer, row["prompt"], row["chosen"])
        rejected = encode_exchange(tokenizer, row["prompt"], row["rejected"])[1]
        room = max_length - len(prompt)
        if room <= 0:
            counts["dropped"] += 1
            continue
        counts["cut"] += max(len(chosen), len(rejected)) > room
        encoded.append({"prompt_ids": prompt, "chosen_ids": chosen[:room], "rejected_ids": rejected[:room]})
        counts["tokens"] += row_tokens(encoded[-1])
    return Encoded(encoded, counts | {"used": len(encoded)})


def labelled(prompt: list[int], answer: list[int]) -> Row:
    """One sequence whose prompt carries no loss."""
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def as_sequences(pairs: Sequence[Row]) -> list[Row]:
    """Both sequences of every pair: all chosen, then all rejected."""
    return [labelled(pair["prompt_ids"], pair[side]) for side in ("chosen_ids", "rejected_ids") for pair in pairs]


def padded(values: list[int], filler: int, width: int) -> list[int]:
    """Values filled up on the right."""
    return values + [filler] * (width - len(values))


def training_order(lengths: Sequence[int], epochs: float, batch_size: int, seed: int) -> list[int]:
    """Row numbers in the order in which training reads them: `epochs` shuffled passes, each row once a pass.

    Within a pass, rows of up to 16 batches at a time are sorted by length before they are cut into batches, and the
    batches are shuffled: less padding, about a fifth of the work, as `group_by_length` does. The order depends on the
    seed alone, so a resumed run needs no sampler's state.

    Args:
        lengths: tokens of each row.
        epochs: passes; a fraction ends within a pass.
        batch_size: rows an optimizer step sees.
        seed: seed of the shuffles.
    """
    shuffle = random.Random(seed).shuffle
    wanted, order = round(len(lengths) * epochs), list[int]()
    # too few windows in a pass would put the same rows together in every pass
    window = batch_size * min(BATCHES_SORTED_TOGETHER, max(1, len(lengths) // batch_size // 8))
    while len(order) < wanted:
        rows = list(range(len(lengths)))
        shuffle(rows)
        windows = [sorted(rows[i : i + window], key=lengths.__getitem__) for i in range(0, len(rows), window)]
        flat = [row for part in windows for row in part]
        batches = [flat[i : i + batch_size] for i in range(0, len(flat), batch_size)]
        shuffle(batches)
        order += [row for batch in batches for row in batch]
    return order[:wanted]


def row_length(row: Row) -> int:
    """Tokens a row's longest sequence takes."""
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def row_tokens(row: Row) -> int:
    """Tokens of all sequences of a row: what a training step reads, without padding."""
    if "input_ids" in row:
        return len(row["input_ids"])
    return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


def answer_tokens(row: Row) -> int:
    """Tokens of an SFT row that carry a loss; the first is never predicted."""
    return sum(label != IGNORED for label in row["labels"][1:])


def _counts() -> dict[str, int]:
    return {"rows": 0, "used": 0, "dropped": 0, "cut": 0, "tokens": 0}
