"""What a study costs on a CPU: tokens a core-second of real shapes with random weights, and hours projected from them.

    python -m tests.benchmarks.laptop                    # every shape of `smol`, some minutes
    python -m tests.benchmarks.laptop --shapes 135m 360m

Each shape in a process of its own, fp32, one thread. Decoding: 8 rows, the mean of a batch of 16 from which rows leave
as they end. Reading: what scores and benchmarks do. Training: LoRA on a row of 400 tokens, activations recomputed.
The clock is the process's CPU time, so that other work on the machine hardly counts; the hours are core-hours divided
by the cores, as if every core added its whole, which memory-bound decoding does not allow: expect more.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.generation import print_table

COMMON = {"max_position_embeddings": 8192, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    name: COMMON
    | dict(
        zip(
            (
                *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
                *("num_attention_heads", "num_key_value_heads", "head_dim"),
            ),
            sizes,
            strict=True,
        )
    )
    for name, sizes in {
        "135m": (49_152, 576, 1536, 30, 9, 3, 64),  # SmolLM2
        "360m": (49_152, 960, 2560, 32, 15, 5, 64),
        "1.7b": (49_152, 2048, 8192, 24, 32, 32, 64),
        "0.5b": (151_936, 896, 4864, 24, 14, 2, 64),  # Qwen2.5
        "0.6b": (151_669, 1024, 3072, 28, 16, 8, 128),  # Qwen3, of the reward model
    }.items()
}
ROWS, PROMPT, STEPS, LENGTH = 8, 64, 3, 400

# tokens of a study of 1,500 rows, with what small models waste: a third of first attempts run into a limit
INSTRUCTIONS, RESPONSES, ANSWERS_OF_ONE = 190_000, 640_000, 220_000
SCORED, TRAINED, PAIRS_TRAINED = 1_100_000, 770_000, 420_000
QUESTIONS_OF_ONE, HELD_OUT_OF_ONE = 750_000, 60_000
MODELS = 4
STUDIES = {
    "teacher and first responder 1.7b": {"teacher": "1.7b", "responders": ("1.7b", "360m", "0.5b"), "base": "360m"},
    "teacher 360m, base 135m": {"teacher": "360m", "responders": ("360m", "135m", "0.5b"), "base": "135m"},
}


def main() -> int:
    """Measure the shapes and print both tables."""
    from tasks.process import run_in_child

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    options = parser.parse_args()
    table = [["shape", "decoded tokens/core-s", "read", "trained", "load before"]]
    speeds: dict[str, dict[str, float]] = {}
    for shape in options.shapes:
        load = os.getloadavg()[0]
        told = run_in_child("tests.benchmarks.laptop:measure", {"shape": shape}, threads=1)
        speeds[shape] = told
        cells = [f"{told[name]:.1f}" for name in ("decoded", "read", "trained")]
        table.append([shape, *cells, f"{load:.1f}"])
        print(table[-1], file=sys.stderr, flush=True)
    print_table(table)
    hours = [["study [core-h]", "generate", "prefer", "tune", "evaluate", "judge", "all", "on 2 cores [h]", "on 4"]]
    for name, study in STUDIES.items():
        if {study["teacher"], *study["responders"], study["base"], "0.6b"} <= speeds.keys():  # type: ignore[misc]
            parts = project(speeds, **study)  # type: ignore[arg-type]
            every = sum(parts)
            hours.append([name, *(f"{spent / 3600:.1f}" for spent in (*parts, every, every / 2, every / 4))])
    if hours[1:]:
        print_table(hours)
    return 0


def project(
    speeds: dict[str, dict[str, float]], teacher: str, responders: tuple[str, ...], base: str
) -> tuple[float, ...]:
    """Seconds of each stage."""
    reward = speeds["0.6b"]["read"]
    return (
        (INSTRUCTIONS + RESPONSES) / speeds[teacher]["decoded"],
        sum(ANSWERS_OF_ONE / speeds[one]["decoded"] for one in responders) + 0.8 * SCORED / reward,
        (2 * TRAINED + PAIRS_TRAINED) / speeds[base]["trained"],
        MODELS * QUESTIONS_OF_ONE / speeds[base]["read"],
        MODELS * HELD_OUT_OF_ONE / speeds[base]["decoded"] + 0.2 * SCORED / reward,
    )


def measure(shape: str) -> dict[str, float]:
    """In a child: tokens a core-second of one shape."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tasks.engines.hf import HfEngine
    from tasks.engines.protocol import Request, Sampling
    from tasks.engines.rows_at_once import RowsAtOnce

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[shape]), attn_implementation="sdpa").eval()

    def decode(steps: int) -> None:
        engine = HfEngine(model, RowsAtOnce())
        engine.add(0, [Request(list(range(row, row + PROMPT)), row) for row in range(ROWS)], Sampling(1, 1, steps, ()))
        engine.step()

    def read() -> None:
        with torch.inference_mode():
            model(torch.arange(LENGTH)[None])

    decode(1)
    first = seconds(lambda: decode(1))
    decoded = ROWS * STEPS / (seconds(lambda: decode(1 + STEPS)) - first)
    told = {"decoded": decoded, "read": LENGTH / seconds(read)}
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapted: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=modules))
    adapted.enable_input_require_grads()
    adapted.gradient_checkpointing_enable({"use_reentrant": False})
    adapted.train()
    tokens = torch.arange(LENGTH)[None]
    told["trained"] = LENGTH / seconds(lambda: adapted(tokens, labels=tokens).loss.backward())
    return told


def seconds(work: Callable[[], None]) -> float:
    """CPU time of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


if __name__ == "__main__":
    sys.exit(main())
