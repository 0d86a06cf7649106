"""What a study costs on a CPU: tokens a core-second of real shapes with random weights, and hours projected from them.

    python -m tests.benchmarks.laptop                    # every shape of `smol`, some minutes
    python -m tests.benchmarks.laptop --shapes 135m 360m

Each shape in a process of its own, fp32, one thread. Decoding: 8 rows, the mean of a batch of 16 from which rows leave
as they end. Reading: what scores and benchmarks do. Training: LoRA on a row of 400 tokens, activations recomputed.
The clock is the process's CPU time, so that other work on the machine hardly counts; the hours are core-hours divided
by the cores, as if every core added its whole, which memory-bound decoding does not allow, and without the starts of
models: `cpu_hours` of `smol` adds 30% to the hours on four cores, by judgement.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from configs.settings import ModelSettings, Settings, load_settings
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

# what settings do not tell, of SmolLM2-135M-Instruct with the sampling of `smol` (24 instructions, 10 answers) ...
INSTRUCTION_TOKENS, ANSWER_TOKENS = 120, 190
"""Tokens drawn for each text that came to its end: at a limit of L, exp(-L / this) of the texts run into it.
At 256 that fails 35% of first attempts, as many as did in a study of 1,500 rows."""
TEMPLATE_TOKENS = 30
KEPT = 0.73
"""Share of the rows that the filters kept in a study of 1,500 rows with these weights."""
# ... and of the benchmarks, counted with its tokenizer; options of one letter are read once for all of them
QUESTION_TOKENS = {"mmlu": 57 * 113, "hellaswag": 300, "arc_easy": 130, "truthfulqa": 990}
"""Tokens read for one question of each task."""
PAGES, PAGE_TOKENS = 62, 4900

STUDIES = {
    "smol": load_settings("smol"),
    "smol with a teacher of 1.7b": load_settings(
        "smol",
        {
            "models.teacher.name": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
            "models.responders": [{"name": f"HuggingFaceTB/SmolLM2-{size}-Instruct"} for size in ("1.7B", "360M")]
            + [{"name": "Qwen/Qwen2.5-0.5B-Instruct"}],
            "models.base.name": "HuggingFaceTB/SmolLM2-360M",
            "generation.response.max_new_tokens": 512,
            "preference.sampling.max_new_tokens": 512,
            "evaluation.limit": 100,
            "evaluation.answer_rows": 200,
            "evaluation.answer_max_new_tokens": 512,
        },
    ),
}


def main() -> int:
    """Measure the shapes and print both tables."""
    from tasks.process import run_in_child

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    options = parser.parse_args()
    table = [["shape", "decoded tokens/core-s", "read", "trained", "load before"]]
    speeds: dict[str, dict[str, float]] = {}
    for one in options.shapes:
        load = os.getloadavg()[0]
        told = run_in_child("tests.benchmarks.laptop:measure", {"size": one}, threads=1)
        speeds[one] = told
        cells = [f"{told[name]:.1f}" for name in ("decoded", "read", "trained")]
        table.append([one, *cells, f"{load:.1f}"])
        print(table[-1], file=sys.stderr, flush=True)
    print_table(table)
    hours = [["study [core-h]", "generate", "prefer", "tune", "evaluate", "judge", "all", "on 2 cores [h]", "on 4"]]
    for name, settings in STUDIES.items():
        if _shapes(settings) <= speeds.keys():
            parts = project(speeds, settings)
            every = sum(parts)
            hours.append([name, *(f"{spent / 3600:.1f}" for spent in (*parts, every, every / 2, every / 4))])
    if hours[1:]:
        print_table(hours)
    return 0


def shape(model: ModelSettings) -> str:
    """The size in a model's name, such as 135m."""
    return str(re.findall(r"-(\d[\d.]*[MB])\b", model.name)[-1]).lower()


def _shapes(settings: Settings) -> set[str]:
    models = settings.models
    return {shape(model) for model in (models.teacher, *models.responders, models.reward, models.base)}


def texts(mean: float, limit: int) -> tuple[float, float]:
    """Mean tokens of a text drawn up to a limit, and the share of the texts that end before it."""
    whole = 1 - math.exp(-limit / mean)
    return mean * whole, whole


def project(speeds: dict[str, dict[str, float]], settings: Settings) -> tuple[float, ...]:
    """Seconds of each stage on one core: as many tokens as its settings ask for."""
    generation, preference = settings.generation, settings.preference
    tuning, evaluation = settings.tuning, settings.evaluation
    teacher, base, reward = (
        speeds[shape(model)] for model in (settings.models.teacher, settings.models.base, settings.models.reward)
    )

    asked, asked_whole = texts(INSTRUCTION_TOKENS, generation.instruction.max_new_tokens)
    told, told_whole = texts(ANSWER_TOKENS, generation.response.max_new_tokens)
    # a row whose instruction or response ran into its limit is drawn again
    attempts = sum((1 - asked_whole * told_whole) ** again for again in range(generation.max_attempts))
    generate = generation.rows * attempts * (asked + asked_whole * told) / teacher["decoded"]

    answered = preference.pairs * preference.oversample
    answer, _ = texts(ANSWER_TOKENS, preference.sampling.max_new_tokens)
    prefer = sum(answered * answer / speeds[shape(model)]["decoded"] for model in settings.models.responders)
    prefer += len(settings.models.responders) * answered * (TEMPLATE_TOKENS + asked + answer) / reward["read"]

    row, pair = TEMPLATE_TOKENS + asked + told, 2 * (TEMPLATE_TOKENS + asked + answer)
    held_out = KEPT * generation.rows - settings.filter.train_rows
    tune = 0.0
    for name, method in tuning.methods.items():
        rows, tokens = (preference.train_pairs, pair) if name == "dpo" else (settings.filter.train_rows, row)
        tune += method.epochs * rows * tokens / base["trained"]
        # before and after; DPO's reference model reads its pairs too
        left = preference.pairs - rows + method.epochs * rows / 2 if name == "dpo" else held_out
        tune += 2 * left * tokens / base["read"]

    models = 1 + len(tuning.methods)
    limit = evaluation.limit or math.inf
    pages = min(limit, PAGES) * PAGE_TOKENS if evaluation.forgetting else 0
    read = limit * sum(QUESTION_TOKENS[name] for name in evaluation.benchmarks) + pages
    timed = evaluation.speed_rows * evaluation.speed_new_tokens * (1 + evaluation.speed_repeats)
    # the adapters that can be merged, two of them, are timed both ways
    evaluate = models * read / base["read"] + (models + 2) * timed / base["decoded"]

    answer, _ = texts(ANSWER_TOKENS, evaluation.answer_max_new_tokens)
    answers = models * evaluation.answer_rows
    judge = answers * answer / base["decoded"] + answers * (TEMPLATE_TOKENS + asked + answer) / reward["read"]
    return generate, prefer, tune, evaluate, judge


def measure(size: str) -> dict[str, float]:
    """In a child: tokens a core-second of one shape."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tasks.engines.hf import HfEngine
    from tasks.engines.protocol import Request, Sampling
    from tasks.engines.rows_at_once import RowsAtOnce

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[size]), attn_implementation="sdpa").eval()

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
