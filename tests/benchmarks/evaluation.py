"""What an evaluation costs against lm-eval's own command, on the same models and tasks, loading included.

    python -m tests.benchmarks.evaluation command --study workspace     # a finished demo study; some minutes
    python -m tests.benchmarks.evaluation rows --shape llama-3.2-3b     # questions a second, for projections
    python -m tests.benchmarks.evaluation forgetting --shape llama-3.2-3b --task-folder TASKS --task real_wikitext

`command`: one side is `python -m flows.evaluate` as a user types it, server and processes included, without the two
measurements that lm-eval does not make (speed, general text). The other is `lm_eval run`, once a model. Both get the
same cores, in turns, and their scores are compared. `rows`: random answers of about 100 tokens with their questions, as
those of the four benchmarks have, go through the evaluator's model as lm-eval sends them. `forgetting`: whole pages, on
each GPU profile's share of memory, by a model of that shape whose context is 131,072 tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from configs.settings import Settings, load_settings
from storage.files import read_json, write_json
from storage.workspace import Workspace
from tasks.evaluate.results import BASE, METHODS, results_folder
from tasks.evaluate.work import benchmark_tasks
from tasks.models import model_source
from tasks.process import free_port, run_in_child
from tests.benchmarks.generation import print_table

WITHOUT = {
    "evaluation.forgetting": "null",
    "evaluation.speed_rows": "1",
    "evaluation.speed_new_tokens": "1",
    "evaluation.speed_repeats": "1",
}


def main() -> int:
    """Run one comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["command", "rows", "forgetting"])
    parser.add_argument("--study", type=Path, help="command: workspace of a finished demo study; left untouched")
    parser.add_argument("--repeats", type=int, default=3, help="command: rounds, each of both sides")
    parser.add_argument("--shape", default="tiny", choices=["llama-3.2-3b", "tiny"], help="rows: the model's shape")
    parser.add_argument("--rows", type=int, default=1024, help="rows: answers to score")
    parser.add_argument("--tokens", type=int, default=100, help="rows: mean length of one with its question [tokens]")
    parser.add_argument("--task-folder", help="forgetting: folder of a task that reads general text from this machine")
    parser.add_argument("--task", default="real_wikitext", help="forgetting: the task")
    parser.add_argument("--pages", type=int, default=8, help="forgetting: pages of it")
    options = parser.parse_args()
    if options.what == "command" and options.study is None:
        parser.error("command: --study is needed, the workspace of a finished demo study")
    compare = {"rows": compare_rows, "forgetting": compare_memory, "command": compare_commands}
    print_table(compare[options.what](options))
    return 0


def compare_commands(options: argparse.Namespace) -> list[list[str]]:
    """Seconds of both commands, in turns."""
    settings = load_settings("demo")
    seconds: dict[str, list[float]] = {"lm_eval run": [], "flows.evaluate": []}
    apart = 0.0
    with tempfile.TemporaryDirectory(prefix="evaluation-benchmark-") as name:
        folder = Path(name)
        for _ in range(options.repeats):
            took, theirs = time_lm_eval(settings, Workspace(options.study.resolve()), folder / "lm_eval")
            seconds["lm_eval run"].append(took)
            took, ours = time_ours(settings, options.study.resolve(), folder / "ours")
            seconds["flows.evaluate"].append(took)
            apart = max(apart, *(abs(ours[key] - value) for key, value in theirs.items()))
    ratios = [ours / theirs for theirs, ours in zip(*seconds.values(), strict=True)]
    told = [listed(took) for took in seconds.values()]
    middle = [f"{statistics.median(took):.1f}" for took in seconds.values()]
    return [
        ["side", "seconds of each round", "median", "ratio of each round", "median", "scores apart, at most"],
        ["lm_eval run", told[0], middle[0], "", "", ""],
        [
            *("flows.evaluate", told[1], middle[1], " ".join(f"{ratio:.2f}" for ratio in ratios)),
            *(f"{statistics.median(ratios):.2f}", f"{apart:.2g}"),
        ],
    ]


def compare_rows(options: argparse.Namespace) -> list[list[str]]:
    """Answers a second in the precisions and batches of the profiles."""
    lines = [["profile", "precision", "batch", "rows/s", "tokens/s", "peak GB"]]
    with tempfile.TemporaryDirectory(prefix="evaluation-benchmark-") as folder:
        dtype = "float32" if options.shape == "tiny" else "bfloat16"
        job = {"folder": folder, "shape": options.shape, "dtype": dtype}
        base = run_in_child("tests.benchmarks.tuning:built", job, threads=4)["path"]
        for profile in ("demo",) if options.shape == "tiny" else ("a100", "t4"):
            settings = load_settings(profile)
            told = run_in_child(
                "tests.benchmarks.evaluation:time_rows",
                {
                    "base": base,
                    "precision": settings.models.base.precision,
                    "batch_size": settings.evaluation.batch_size,
                    "rows": options.rows,
                    "tokens": options.tokens,
                },
                threads=4,
            )
            lines.append([profile, settings.models.base.precision, str(settings.evaluation.batch_size), *told["cells"]])
    return lines


def time_rows(base: str, precision: str, batch_size: int, rows: int, tokens: int) -> dict[str, Any]:
    """In a child: log-likelihoods of random answers, eight tokens each, after questions of uneven length."""
    import torch
    from transformers import AutoTokenizer

    from tasks.evaluate.harness import load_model
    from tasks.evaluate.prefix import SharedPrefixLM

    model = load_model(base, None, precision, None)
    tokenizer = AutoTokenizer.from_pretrained(base)
    lm = SharedPrefixLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size, max_length=2048)
    draw = random.Random(0)
    requests = []
    for number in range(rows):
        length = draw.randrange(tokens // 2, tokens * 3 // 2)
        ids = [draw.randrange(len(tokenizer)) for _ in range(length)]
        requests.append(((str(number), ""), ids[:-8], ids[-8:]))
    lm._loglikelihood_tokens(requests[: 2 * batch_size], disable_tqdm=True)
    started = time.perf_counter()
    lm._loglikelihood_tokens(requests, disable_tqdm=True)
    seconds = time.perf_counter() - started
    total = sum(len(context) + len(answer) for _, context, answer in requests)
    peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if torch.cuda.is_available() else "-"
    return {"cells": [f"{rows / seconds:,.1f}", f"{total / seconds:,.0f}", peak]}


def compare_memory(options: argparse.Namespace) -> list[list[str]]:
    """Pages of general text under the memory of each profile's card."""
    lines = [["profile", "precision", "cap [GB]", "pages", "seconds", "bits a byte", "peak GB"]]
    with tempfile.TemporaryDirectory(prefix="evaluation-benchmark-") as folder:
        dtype = "float32" if options.shape == "tiny" else "bfloat16"
        job = {"folder": folder, "shape": options.shape, "dtype": dtype}
        base = run_in_child("tests.benchmarks.tuning:built", job, threads=4)["path"]
        config = Path(base) / "config.json"
        write_json(config, read_json(config) | {"max_position_embeddings": 131_072})
        for profile in ("t4", "a100"):
            settings = load_settings(profile)
            asked = {
                "base": base,
                "precision": settings.models.base.precision if options.shape != "tiny" else "fp32",
                "batch_size": settings.evaluation.batch_size,
                "memory_gb": settings.hardware.memory_gb,
                "task": options.task,
                "task_folder": str(Path(options.task_folder).resolve()),
                "pages": options.pages,
            }
            told = run_in_child("tests.benchmarks.evaluation:read_pages", asked, threads=4)
            lines.append([profile, asked["precision"], f"{asked['memory_gb']:g}", *told["cells"]])
    return lines


def read_pages(
    base: str, precision: str, batch_size: int, memory_gb: float, task: str, task_folder: str, pages: int
) -> dict[str, Any]:
    """In a child: every page of a task, with no more memory than a card has."""
    import torch

    from tasks.evaluate.harness import Evaluator

    cuda = torch.cuda.is_available()
    if cuda:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_gb * 1e9 / whole))
    evaluator = Evaluator(base, precision=precision, batch_size=batch_size, reserved_tokens=20)
    answer = evaluator.evaluate(task, [task_folder], stock=False, limit=pages)
    peak = f"{torch.cuda.max_memory_reserved() / 1e9:.1f}" if cuda else "-"
    bits = answer["results"]["results"][task]["bits_per_byte,none"]
    return {"cells": [str(len(answer["samples"])), f"{answer['seconds']:.1f}", f"{bits:.3f}", peak]}


def listed(seconds: list[float]) -> str:
    """Seconds of each round."""
    return " ".join(f"{value:.1f}" for value in seconds)


def time_lm_eval(settings: Settings, place: Workspace, folder: Path) -> tuple[float, dict[Any, float]]:
    """Seconds of lm-eval's command for every model, and each (method, benchmark)'s score."""
    base, evaluation = Path(model_source(settings.models.base, place)), settings.evaluation
    context = read_json(base / "config.json")["max_position_embeddings"] - settings.tuning.longest_soft_prompt
    shutil.rmtree(folder, ignore_errors=True)
    scores = {}
    started = time.perf_counter()
    with benchmark_tasks(settings, place) as known:
        for method in METHODS:
            adapter = [] if method == BASE else [f"peft={place.adapter(method, settings.seed)}"]
            arguments = ",".join([f"pretrained={base}", f"dtype=float32,max_length={context}", *adapter])
            names = ",".join(benchmark.task for benchmark in evaluation.benchmarks.values())
            run(
                [
                    *("lm_eval", "run", "--model", "hf", "--model_args", arguments, "--tasks", names),
                    *(
                        "--include_path",
                        known["task_folders"][0],
                        "--batch_size",
                        str(evaluation.batch_size),
                        "--device",
                        "cpu",
                    ),
                    *("--output_path", str(folder / method), "--log_samples"),
                ]
            )
    took = time.perf_counter() - started
    for method in METHODS:
        results = json.loads(next((folder / method).rglob("results_*.json")).read_text())["results"]
        for name, benchmark in evaluation.benchmarks.items():
            scores[method, name] = results[benchmark.task][f"{benchmark.metric},none"]
    return took, scores


def time_ours(settings: Settings, study: Path, folder: Path) -> tuple[float, dict[Any, float]]:
    """Seconds of our command on a copy of the study without its results, and the same scores."""
    shutil.rmtree(folder, ignore_errors=True)
    unwanted = shutil.ignore_patterns("results", "answers", "checkpoints", "rows", "prefect", "export")
    shutil.copytree(study, folder, ignore=unwanted)
    words = [word for key, value in WITHOUT.items() for word in (f"--{key}", value)]
    home = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    started = time.perf_counter()
    run([sys.executable, "-m", "flows.evaluate", "--workspace", str(folder), *words], home)
    took = time.perf_counter() - started
    scores = {}
    for method in METHODS:
        for name, benchmark in settings.evaluation.benchmarks.items():
            results = read_json(results_folder(Workspace(folder), method) / f"{name}.json")["results"]
            scores[method, name] = results[benchmark.task][f"{benchmark.metric},none"]
    return took, scores


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command of this environment to its end.

    Raises:
        RuntimeError: it failed; the message is its last words.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"} | (environment or {})
    ended = subprocess.run(command, env=variables, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed:\n{ended.stderr[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
