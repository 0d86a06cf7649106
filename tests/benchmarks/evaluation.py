"""What an evaluation costs against lm-eval's own command, on the same models and tasks, loading included.

    python -m tests.benchmarks.evaluation --study workspace        # a finished demo study; some minutes

One side is `python -m flows.evaluate` as a user types it, server and processes included, without the two measurements
that lm-eval does not make (speed, general text). The other is `lm_eval run`, once a model. Both get the same cores, in
turns; the scores of both sides are compared as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from configs.settings import Settings, load_settings
from storage.files import read_json
from storage.workspace import Workspace
from tasks.evaluate.results import BASE, METHODS, results_folder
from tasks.evaluate.work import benchmark_tasks
from tasks.models import model_source
from tasks.process import free_port
from tests.benchmarks.generation import print_table

WITHOUT = {
    "evaluation.forgetting": "null",
    "evaluation.speed_rows": "1",
    "evaluation.speed_new_tokens": "1",
    "evaluation.speed_repeats": "1",
}


def main() -> int:
    """Time both sides in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, help="workspace of a finished demo study; left untouched")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, each of both sides")
    options = parser.parse_args()
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
    print_table(
        [
            ["side", "seconds of each round", "median", "ratio of each round", "median"],
            ["lm_eval run", listed(seconds["lm_eval run"]), f"{statistics.median(seconds['lm_eval run']):.1f}", "", ""],
            [
                "flows.evaluate",
                listed(seconds["flows.evaluate"]),
                f"{statistics.median(seconds['flows.evaluate']):.1f}",
                " ".join(f"{ratio:.2f}" for ratio in ratios),
                f"{statistics.median(ratios):.2f}",
            ],
        ]
    )
    print(f"\n{len(theirs)} scores, at most {apart:.2g} apart")
    return 0


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
    with benchmark_tasks(settings, place) as tasks:
        for method in METHODS:
            adapter = [] if method == BASE else [f"peft={place.adapter(method, settings.seed)}"]
            arguments = ",".join([f"pretrained={base}", f"dtype=float32,max_length={context}", *adapter])
            names = ",".join(benchmark.task for benchmark in evaluation.benchmarks.values())
            run(
                [
                    *("lm_eval", "run", "--model", "hf", "--model_args", arguments, "--tasks", names),
                    *("--include_path", str(tasks), "--batch_size", str(evaluation.batch_size), "--device", "cpu"),
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
