"""What a method forgot: its loss on general text above the base model's, in bits a byte, document by document.

After the loss on Wikipedia text in PEFT's method comparison, with what that lacks: pairs, intervals, a test. A
document counts as one, however long; seeds are averaged. A text longer than 2,048 tokens is read in windows of as many
(`tasks.evaluate.prefix`), whatever the model's context.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from configs.settings import Settings
from storage.workspace import Workspace
from tasks.evaluate.results import BASE, FORGETTING, load_samples, results_folder, study_methods, study_seeds
from tasks.evaluate.statistics import adjust, estimate, sign_flip_p

FIGURES = ("seeds", "documents", "baseline_value", "value", "difference", "low", "high", "p", "p_holm")

Losses = dict[str, float]


def build_forgetting(
    workspace: Workspace, settings: Settings, refused: Collection[tuple[str, int]] = ()
) -> dict[str, Any] | None:
    """`forgetting.json`, a row a method with None where it was not measured; None where the study does not ask.

    Args:
        workspace: with `forgetting.samples.jsonl` among each method's results.
        settings: whose methods and seeds are read.
        refused: method and seed of results that must not be used.
    """
    asked = settings.evaluation.forgetting
    if asked is None:
        return None

    def losses(method: str, seed: int) -> Losses | None:
        return None if (method, seed) in refused else _losses(workspace, method, seed, asked.metric)

    base = losses(BASE, settings.seed)
    rows = []
    for method in study_methods(settings):
        runs = [run for seed in study_seeds(settings) if (run := losses(method, seed))]
        figures = _figures(runs, base, settings) if base and runs else dict.fromkeys(FIGURES)
        rows.append({"method": method, "baseline": BASE, **figures})
    adjust(rows)
    return {"task": asked.task, "metric": asked.metric, "rows": rows}


def _figures(runs: list[Losses], base: Losses, settings: Settings) -> dict[str, Any]:
    shared = [name for name in base if all(name in run for run in runs)]
    if not shared:
        return dict.fromkeys(FIGURES)
    differences = [sum(run[name] for run in runs) / len(runs) - base[name] for name in shared]
    mean = estimate(differences)
    low, high = mean.interval(1 - settings.evaluation.alpha)
    baseline = sum(base[name] for name in shared) / len(shared)
    return {
        "seeds": len(runs),
        "documents": len(shared),
        "baseline_value": baseline,
        "value": baseline + mean.value,
        "difference": mean.value,
        "low": low,
        "high": high,
        "p": sign_flip_p(differences, draws=settings.evaluation.permutations, seed=settings.seed),
        "p_holm": None,
    }


def _losses(workspace: Workspace, method: str, seed: int, metric: str) -> Losses | None:
    """Bits a byte of each document; lm-eval keeps its log-likelihood [nats] and its length [bytes]."""
    rows = load_samples(results_folder(workspace, method, seed), FORGETTING)
    try:
        return {
            row["doc_hash"]: -row["metrics"][metric][0] / (row["metrics"][metric][1] * math.log(2))
            for row in rows or []
        } or None
    except (KeyError, TypeError, ZeroDivisionError):
        return None
