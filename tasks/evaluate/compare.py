"""What the answers say: scores, paired contrasts with the base model, and what each method cost.

Every figure is read from a published file; one that is not there is None, never zero and never an exception.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from configs.settings import BenchmarkSettings, Settings
from storage.workspace import Workspace
from tasks.evaluate.results import (
    BASE,
    SPEED,
    load_json,
    load_samples,
    results_folder,
    study_methods,
    study_runs,
    study_seeds,
)
from tasks.evaluate.statistics import (
    Estimate,
    adjust,
    estimate,
    estimate_over_seeds,
    mcnemar_p,
    sign_flip_level,
    sign_flip_p,
)

Question = tuple[str, str, int]
Answers = dict[Question, tuple[float, str | None]]
Read = dict[tuple[str, int, str], Answers | None]

REFERENCE = "sft"
"""The method that the others are compared with, beside the base model."""
CONTRAST_FIGURES = ("difference", "low", "high", "p", "p_holm", "mde")
TEST_FIGURES = (
    "questions", "clusters", "unpaired", "changed", "right_to_wrong", "wrong_to_right", "stderr", "p_mcnemar", "seeds",
)  # fmt: skip


def build_comparison(
    workspace: Workspace, settings: Settings, refused: Collection[tuple[str, int]] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`comparison.json`, each method's scores and its paired differences to the base model, and `tests.json`.

    The second says on how many questions and clusters each contrast rests, gives the test beside the primary one, and
    how many questions the base model had right and the method wrong, and the reverse (means over seeds; None where
    answers are not right or wrong). Differences, intervals, tests and verdicts hold for the trained adapters, averaged
    over seeds, on new questions; `seeds` holds the interval for new trainings as well, None with one seed.

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
    methods = study_methods(settings)
    contrasts, tests = _contrasts(read, settings, methods, BASE)
    between, _ = _contrasts(read, settings, [method for method in methods if method != REFERENCE], REFERENCE)
    options = settings.evaluation
    return {"scores": _scores(workspace, read, settings), "contrasts": contrasts, "between": between}, {
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
        evaluation_seconds: asking and scoring all benchmarks; loading the model, tasks and data is left out.
        adapter_bytes: the published safetensors file.
        device, inference_device, evaluation_device: what each was measured on; null where it was on several.
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
        took = [load_json(results / f"{name}.seconds.json") for name in settings.evaluation.benchmarks] if used else []
        seconds = [figure(part, "seconds") for part in took]
        devices = {(figure(part, "device"), figure(part, "device_memory_gb")) for part in took}
        device, device_memory = devices.pop() if len(devices) == 1 else (None, None)
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
                "evaluation_seconds": sum(seconds) if seconds and None not in seconds else None,
                "evaluation_device": device,
                "evaluation_device_memory_gb": device_memory,
                "adapter_bytes": figure(cost, "adapter_bytes"),
                "device": figure(cost, "device"),
                "device_memory_gb": figure(cost, "device_memory_gb"),
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
    if contrast["p_holm"] is None or contrast["difference"] is None:
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


def _contrasts(
    read: Read, settings: Settings, methods: Sequence[str], baseline: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each method against the baseline on each benchmark: figures, and what they rest on. Holm's family is all."""
    options = settings.evaluation
    contrasts: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    for method in methods:
        for name, benchmark in options.benchmarks.items():
            known = {"method": method, "baseline": baseline, "benchmark": name, "metric": benchmark.metric}
            pairs = _pairs(read, settings, method, baseline, name)
            shared = _shared(pairs)
            if not shared:
                contrasts.append(known | dict.fromkeys(CONTRAST_FIGURES))
                tests.append(known | dict.fromkeys(TEST_FIGURES))
                continue
            own = [[run[question][0] - base[question][0] for question in shared] for run, base in pairs]
            values = [sum(answers) / len(pairs) for answers in zip(*own, strict=True)]
            clusters = _clusters([pairs[0][1][question] for question in shared])
            mean = estimate(values, clusters)
            low, high = mean.interval(1 - options.alpha)
            level = sign_flip_level(values, clusters, alpha=options.alpha, draws=options.permutations)
            contrasts.append(
                known
                | {"difference": mean.value, "low": low, "high": high}
                | {"p": sign_flip_p(values, clusters, draws=options.permutations, seed=settings.seed), "p_holm": None}
                | {"mde": mean.detectable(level, options.power)}
            )
            lost, gained = _flips(pairs, shared)
            tests.append(
                known
                | {"questions": mean.questions, "clusters": mean.clusters if clusters else None}
                | {"unpaired": len({question for pair in pairs for run in pair for question in run}) - mean.questions}
                | {"changed": sum(value != 0 for value in values), "right_to_wrong": lost, "wrong_to_right": gained}
                | {"stderr": mean.stderr, "p_mcnemar": mcnemar_p(values) if clusters is None else None}
                | {"seeds": _over_seeds(own, clusters, settings)}
            )
    adjust(contrasts)
    return contrasts, tests


def _pairs(read: Read, settings: Settings, method: str, baseline: str, name: str) -> list[tuple[Answers, Answers]]:
    """A method's answers and the baseline's, a pair a seed; the base model answers once for all of them."""
    pairs = []
    for seed in study_seeds(settings):
        run, base = read[method, seed, name], read[baseline, settings.seed if baseline == BASE else seed, name]
        if run and base:
            pairs.append((run, base))
    return pairs


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


def _shared(pairs: Sequence[tuple[Answers, Answers]]) -> list[Question]:
    """The questions that all have answered."""
    first = pairs[0][1] if pairs else {}
    return [question for question in first if all(question in run for pair in pairs for run in pair)]


def _over_seeds(own: Sequence[Sequence[float]], clusters: list[str] | None, settings: Settings) -> Any:
    if len(own) < 2:
        return None
    confidence, draws = 1 - settings.evaluation.alpha, settings.evaluation.permutations
    return asdict(estimate_over_seeds(own, clusters, confidence=confidence, draws=draws, seed=settings.seed))


def _flips(
    pairs: Sequence[tuple[Answers, Answers]], shared: Sequence[Question]
) -> tuple[float, float] | tuple[None, None]:
    """Questions that the baseline had right and a method wrong, and the reverse, in the mean over its seeds."""
    told = Counter((base[question][0], run[question][0]) for run, base in pairs for question in shared)
    if not {value for pair in told for value in pair} <= {0.0, 1.0}:
        return None, None
    lost, gained = told[1.0, 0.0], told[0.0, 1.0]
    return (lost, gained) if len(pairs) == 1 else (lost / len(pairs), gained / len(pairs))


def _clusters(answers: Collection[tuple[float, str | None]]) -> list[str] | None:
    """The cluster of each answer, or None where any has none."""
    clusters = [cluster for _, cluster in answers if cluster is not None]
    return clusters if len(clusters) == len(answers) else None


def _estimate(answers: Answers) -> Estimate:
    return estimate([value for value, _ in answers.values()], _clusters(answers.values()))
