"""Models of real shapes with random weights, and rows whose responses end at given lengths."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.engines.protocol import Request, Sampling
from tasks.generate.chat import ChatModel
from tests.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS

SHAPES = {
    "llama-3.1-8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
    "llama-3.2-3b": {
        "vocab_size": 128_256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True)
class Workload:
    """Responses of given lengths."""

    rows: int
    shortest: int
    longest: int
    mean: int
    deviation: int
    prompt_words: int
    seed: int
    seeded: bool = False

    def lengths(self) -> list[int]:
        """A clipped normal distribution, like the published one of Magpie's turns (426 ± 217 tokens)."""
        chance = random.Random(self.seed)
        drawn = (chance.gauss(self.mean, self.deviation) for _ in range(self.rows))
        return [round(min(max(length, self.shortest), self.longest)) for length in drawn]

    def instructions(self) -> list[str]:
        """Distinct instructions; the first word is the response's length in tokens, the second is for the engine."""
        chance = random.Random(self.seed + 1)
        words = [f"w{number}" for number in range(256)]
        kind = "seeded" if self.seeded else "unseeded"
        return [
            f"{length} {kind} {row} " + " ".join(chance.choices(words, k=self.prompt_words))
            for row, length in enumerate(self.lengths())
        ]

    def described(self) -> str:
        """In words."""
        lengths = self.lengths()
        return (
            f"{self.rows:,} responses of {min(lengths)} to {max(lengths)} tokens, mean {sum(lengths) / self.rows:.0f}, "
            f"{sum(lengths):,} in all"
        )


def build_model(folder: Path, shape: str, dtype: str) -> Path:
    """Save a Llama of the shape with random weights and a tokenizer of its size, unless it lies there."""
    if (folder / "config.json").is_file():
        return folder
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    sizes: dict[str, Any] = SHAPES[shape]
    letters = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {text: number for number, text in enumerate(letters)}
    vocabulary |= {f"{number:06d}": number for number in range(len(letters), sizes["vocab_size"])}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()  # the engines under test need it
    return folder


class SizedChatModel(ChatModel):
    """A chat model whose response to an instruction has the length that the instruction begins with."""

    def submit(self, call: int, method: str, rows: list[dict[str, Any]], sampling: dict[str, Any]) -> None:
        """Start a call of `answer`; nothing but its length ends a row."""
        if hasattr(self._engine, "_seeded"):
            self._engine._seeded = rows[0]["instruction"].split()[1] == "seeded"
        requests = sized_requests(self._tokenizer, [row["instruction"] for row in rows], [row["seed"] for row in rows])
        self._engine.add(call, requests, Sampling(**sampling, stop_ids=()))


def sized_requests(tokenizer: Any, instructions: list[str], seeds: list[int]) -> list[Request]:
    """What both sides of a comparison complete."""
    from tasks.engines.templates import response_prompt_ids

    return [
        Request(response_prompt_ids(tokenizer, text), seed, int(text.partition(" ")[0]))
        for text, seed in zip(instructions, seeds, strict=True)
    ]


class BareVllm:
    """One call of vLLM's own `LLM.generate` for all rows, in a process of its own."""

    def __init__(self, source: str, precision: str, memory_share: float, eager: bool) -> None:
        """Load the model."""
        import os

        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from transformers import AutoTokenizer
        from vllm import LLM

        dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self._llm = LLM(
            model=source,
            dtype=dtype,
            max_model_len=-1,
            gpu_memory_utilization=memory_share,
            enforce_eager=eager,
            disable_log_stats=True,
        )

    def generate(self, instructions: list[str], sampling: dict[str, Any]) -> dict[str, float]:
        """Seconds and tokens of the call."""
        import time

        from vllm import SamplingParams, TokensPrompt

        requests = sized_requests(self._tokenizer, instructions, [0] * len(instructions))
        parameters = [
            SamplingParams(
                temperature=sampling["temperature"],
                top_p=sampling["top_p"],
                max_tokens=request.max_new_tokens,
                ignore_eos=True,
                detokenize=False,
            )
            for request in requests
        ]
        begun = time.monotonic()
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=request.prompt) for request in requests], parameters, use_tqdm=False
        )
        seconds = time.monotonic() - begun
        return {"seconds": seconds, "tokens": sum(len(output.outputs[0].token_ids) for output in outputs)}
