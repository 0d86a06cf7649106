"""What the answers say: scores, paired contrasts with the base model, and what each method cost.

Every figure is read from a published file; one that is not there is None, never zero and never an exception.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from configs.settings import BenchmarkSettings, Settings
from storage.workspace import Workspace
from tasks.evaluate.results import BASE, SPEED, load_json, load_samples, results_folder, study_methods, study_runs
from tasks.evaluate.statistics import Estimate, estimate, holm, mcnemar_p, sign_flip_p

Question = tuple[str, str, int]
Answers = dict[Question, tuple[float, str | None]]
Read = dict[tuple[str, int, str], Answers | None]

CONTRAST_FIGURES = ("difference", "low", "high", "p", "p_holm", "mde")
TEST_FIGURES = ("questions", "clusters", "unpaired", "changed", "stderr", "p_mcnemar")


def build_comparison(
    workspace: Workspace, settings: Settings, refused: Collection[tuple[str, int]] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`comparison.json`, each method's scores and its paired differences to the base model, and `tests.json`.

    The second says on how many questions and clusters each contrast rests, and gives the test beside the primary one.

    Args:
        workspace: with `evaluation/results/`.
        settings: whose methods, seeds and benchmarks are read.
        refused: method and seed of results that must not be used.
    """
    read = {
        (method, seed, name): None if (method, seed) in refused else _answers(workspace, method, seed, name, benchmark)
        for method, seed in study_runs(settings)
        for name, benchmark in settings.evaluation.benchmarks.items()
    }
    contrasts, tests = _contrasts(read, settings)
    options = settings.evaluation
    return {"scores": _scores(workspace, read, settings), "contrasts": contrasts}, {
        "alpha": options.alpha,
        "power": options.power,
        "adjustment": f"Holm over {sum(row['p'] is not None for row in contrasts)} method × benchmark tests",
        "tests": tests,
    }


def build_efficiency(
    workspace: Workspace,
    settings: Settings,
    refused: Collection[tuple[str, int]] = (),
    refused_adapters: Collection[tuple[str, int]] = (),
) -> dict[str, Any]:
    """`efficiency.json`: a run a method and seed; the base model's run has no training figures.

    Figures from results that are `refused`, or from such an adapter, are None.

    How each figure was measured:
        trainable_parameters: elements that take a gradient; total_parameters: weights of the base model, each of
            those packed into 4 bits counted; trainable_percent: the first in per cent of the second.
        peak_memory_bytes, peak_memory_reserved_bytes, peak_memory_process_bytes: of training in a process of its own,
            loading and evaluation left out, as `CUDA_METHOD` and `CPU_METHOD` in `tasks.tune.memory` say.
        train_seconds: the steps that made the adapter (rows, forward, backward, optimizer, log), synchronized, over
            all segments; loading, checkpoints and evaluation left out.
        train_tokens_per_second: tokens that are no padding over the seconds of the steps after the warm-up.
        inference_tokens_per_second, inference_tokens_per_second_merged: `Evaluator.measure_speed`, with the adapter
            beside the weights and merged into them.
        evaluation_seconds: all benchmarks, model loading left out.
        adapter_bytes: the published safetensors file.
        device, inference_device: what training and inference were measured on.
    """
    runs = []
    for method, seed in study_runs(settings):
        used, trained = (method, seed) not in refused, (method, seed) not in refused_adapters
        folder = workspace.adapter(method, seed)
        metrics = load_json(folder / "metrics.json") if trained and method != BASE else None
        cost = load_json(folder / "cost.json") if trained and method != BASE else None
        results = results_folder(workspace, method, seed)
        speed = load_json(results / SPEED) if used else None
        memory = figure(cost, "peak_memory_bytes")
        memory = memory if isinstance(memory, Mapping) else {"allocated": memory}
        seconds = [
            figure(load_json(results / f"{benchmark}.seconds.json"), "seconds")
            for benchmark in settings.evaluation.benchmarks
        ]
        trainable = figure(metrics, "trainable_parameters")
        total = figure(metrics, "total_parameters")
        if method == BASE and total is None:
            total = figure(speed, "parameters")
        runs.append(
            {
                "method": method,
                "seed": seed,
                "trainable_parameters": trainable,
                "total_parameters": total,
                "trainable_percent": 100 * trainable / total if trainable is not None and total else None,
                "peak_memory_bytes": memory.get("allocated"),
                "peak_memory_reserved_bytes": memory.get("reserved"),
                "peak_memory_process_bytes": memory.get("process"),
                "train_seconds": figure(cost, "train_seconds"),
                "train_tokens_per_second": figure(cost, "train_tokens_per_second"),
                "inference_tokens_per_second": figure(speed, "tokens_per_second"),
                "inference_tokens_per_second_merged": figure(speed, "tokens_per_second_merged"),
                "evaluation_seconds": sum(seconds) if used and None not in seconds else None,
                "adapter_bytes": figure(cost, "adapter_bytes"),
                "device": figure(cost, "device"),
                "inference_device": figure(speed, "device"),
            }
        )
    return {"runs": runs}


def figure(record: Any, *path: str) -> Any:
    """A figure inside nested mappings, or None where any step is missing."""
    for key in path:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def verdict(contrast: Mapping[str, Any], alpha: float) -> str:
    """Plain words that follow the numbers."""
    if contrast["p_holm"] is None:
        return "not measured"
    if contrast["p_holm"] > alpha:
        return "not distinguishable at this size"
    return "better" if contrast["difference"] > 0 else "worse"


def _scores(workspace: Workspace, read: Read, settings: Settings) -> list[dict[str, Any]]:
    rows = []
    for (method, seed, name), answers in read.items():
        benchmark = settings.evaluation.benchmarks[name]
        metric = benchmark.metric if "," in benchmark.metric else f"{benchmark.metric},none"
        results = load_json(results_folder(workspace, method, seed) / f"{name}.json") if answers else None
        value = figure(results, "results", benchmark.task, metric)
        mean = _estimate(answers) if answers else None
        if value is None and mean:  # lm-eval adds up the tasks of a group, and not those of a tag
            value = mean.value
        stderr = mean.stderr if mean and value is not None else None
        rows.append(
            {"method": method, "seed": seed, "benchmark": name, "metric": benchmark.metric}
            | {"value": value, "stderr": stderr}
        )
    return rows


def _contrasts(read: Read, settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    options = settings.evaluation
    contrasts: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    for method in study_methods(settings):
        for name, benchmark in options.benchmarks.items():
            known = {"method": method, "baseline": BASE, "benchmark": name, "metric": benchmark.metric}
            base = read[BASE, settings.seed, name]
            runs = [answers for (one, _, asked), answers in read.items() if (one, asked) == (method, name) and answers]
            differences = _differences(runs, base)
            if not differences:
                contrasts.append(known | dict.fromkeys(CONTRAST_FIGURES))
                tests.append(known | dict.fromkeys(TEST_FIGURES))
                continue
            mean = _estimate(differences)
            values, clusters = _columns(differences)
            low, high = mean.interval(1 - options.alpha)
            contrasts.append(
                known
                | {"difference": mean.value, "low": low, "high": high}
                | {"p": sign_flip_p(values, clusters, draws=options.permutations, seed=settings.seed), "p_holm": None}
                | {"mde": mean.detectable(options.alpha, options.power)}
            )
            questions = set(base or ()).union(*runs)
            tests.append(
                known
                | {"questions": mean.questions, "clusters": mean.clusters if clusters else None}
                | {"unpaired": len(questions) - mean.questions, "changed": sum(value != 0 for value in values)}
                | {"stderr": mean.stderr, "p_mcnemar": mcnemar_p(values) if clusters is None else None}
            )
    measured = [row for row in contrasts if row["p"] is not None]
    for row, adjusted in zip(measured, holm([row["p"] for row in measured]), strict=True):
        row["p_holm"] = adjusted
    return contrasts, tests


def _answers(workspace: Workspace, method: str, seed: int, name: str, benchmark: BenchmarkSettings) -> Answers | None:
    rows = load_samples(results_folder(workspace, method, seed), name)
    if rows is None:
        return None
    seen: Counter[tuple[str, str]] = Counter()
    answers: Answers = {}
    for row in rows:
        question = (row["task"], row["doc_hash"])
        value = figure(row, "metrics", benchmark.metric)
        if value is not None:
            # a data set may hold a question twice: the first pairs with the first
            answers[*question, seen[question]] = (float(value), row["cluster"])
        seen[question] += 1
    return answers


def _differences(runs: list[Answers], base: Answers | None) -> Answers:
    """Per-question difference to the base model, averaged over seeds, of the questions that all have answered."""
    if not runs or base is None:
        return {}
    shared = [question for question in base if all(question in run for run in runs)]
    return {
        question: (sum(run[question][0] for run in runs) / len(runs) - base[question][0], base[question][1])
        for question in shared
    }


def _columns(answers: Answers) -> tuple[list[float], list[str] | None]:
    values = [value for value, _ in answers.values()]
    clusters = [cluster for _, cluster in answers.values() if cluster is not None]
    return values, clusters if len(clusters) == len(values) else None


def _estimate(answers: Answers) -> Estimate:
    return estimate(*_columns(answers))
