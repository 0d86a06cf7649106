"""Which method for which use, by stated rules; where the figures do not decide, that is the answer.

A method is eligible if it was compared with the base model on every benchmark, is significantly worse (Holm) on none,
and lowered its loss on test rows. DPO starts from the SFT adapter: its training time is both runs', its memory the
larger of the two. Costs and losses are of the study's own seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from configs.settings import Settings
from tasks.evaluate.compare import figure, verdict
from tasks.evaluate.results import study_methods
from tasks.report.metrics import own_runs
from tasks.report.words import NOT_MEASURED, duration, method_name, percent, points, size

Metrics = Mapping[str, Any]
Pick = dict[str, Any]

LEAD = 0.05  # a cost that is not at least this share below the next is a tie: repeated runs differ by as much


def recommendations(metrics: Metrics, settings: Settings) -> list[Pick]:
    """A row a use case: `use_case`, `rule`, `method` (None where the figures do not decide), `reason`."""
    methods, alpha = study_methods(settings), settings.evaluation.alpha
    costs = {method: path_costs(metrics, method, settings.seed) for method in methods}
    eligible = [one for one in methods if _harmless(metrics, one, alpha) and _learned(metrics, one, settings)]

    def cheapest(use_case: str, name: str, what: str, write: Callable[[Any], str]) -> Pick:
        rule = f"smallest {what} among the eligible, at least {LEAD:.0%} below the next"
        pick = _cheapest(eligible, costs, name, write)
        if pick["method"] and "better" not in _verdicts(metrics, pick["method"], alpha):
            pick["reason"] += " No benchmark shows it better than the base model."
        return {"use_case": use_case, "rule": rule} | pick

    return [
        cheapest("Tightest training memory", "memory", "peak training memory", size),
        cheapest("Shortest training time", "seconds", "training time", duration),
        _best_quality(metrics, settings),
        cheapest("Many adapters served at once", "bytes", "adapter on disk", size),
        _preferred_answers(metrics, settings),
    ]


def mean_gain(metrics: Metrics, method: str) -> tuple[float, float | None] | None:
    """Mean over the benchmarks of a method's differences to the base model, with its standard error.

    The benchmarks' questions are different ones, so their errors are independent. None unless all were measured.
    """
    contrasts = _of_method(figure(metrics.get("comparison"), "contrasts"), method)
    tests = _of_method(figure(metrics.get("tests"), "tests"), method)
    if not contrasts or any(row["difference"] is None for row in contrasts):
        return None
    errors = [row["stderr"] for row in tests]
    stderr = None if not errors or None in errors else sum(error**2 for error in errors) ** 0.5 / len(errors)
    return sum(row["difference"] for row in contrasts) / len(contrasts), stderr


def path_costs(metrics: Metrics, method: str, seed: int) -> dict[str, Any]:
    """What an adapter costs from the base model on; DPO's `seconds` and `memory` are with those of the SFT adapter.

    The others are `parameters`, trained ones, and `bytes` on disk.
    """
    runs = own_runs(metrics.get("efficiency"), seed)
    path = [runs.get(step) for step in (("sft", "dpo") if method == "dpo" else (method,))]
    seconds = [figure(run, "train_seconds") for run in path]
    memory = [figure(run, "peak_memory_bytes") for run in path]
    return {
        "seconds": None if None in seconds else sum(seconds),
        "memory": None if None in memory else max(memory),
        "parameters": figure(runs.get(method), "trainable_parameters"),
        "bytes": figure(runs.get(method), "adapter_bytes"),
    }


def _cheapest(
    eligible: list[str], costs: Mapping[str, Mapping[str, Any]], name: str, write: Callable[[Any], str]
) -> Pick:
    told = "; ".join(f"{method_name(method)} {write(costs[method][name])}" for method in costs)
    known = sorted((method for method in eligible if costs[method][name] is not None), key=lambda one: costs[one][name])
    if not known:
        why = "no method is eligible" if not eligible else "it was measured for no eligible method"
        return {"method": None, "reason": f"{why[0].upper()}{why[1:]} ({told})."}
    best = known[0]
    if len(known) < len(eligible):
        return {"method": None, "reason": f"It was not measured for all methods ({told})."}
    if len(known) > 1 and costs[best][name] > (1 - LEAD) * costs[known[1]][name]:
        return {"method": None, "reason": f"The two cheapest lie too close ({told})."}
    left_out = [method_name(method) for method in costs if method not in eligible]
    note = f" Not eligible: {', '.join(left_out)}." if left_out else ""
    return {"method": best, "reason": f"{told}.{note}"}


def _best_quality(metrics: Metrics, settings: Settings) -> Pick:
    rule = "the one method that is better than the base model on some benchmark and worse on none (Holm)"
    alpha = settings.evaluation.alpha
    methods = study_methods(settings)
    better = {method: _verdicts(metrics, method, alpha).count("better") for method in methods}
    told = "; ".join(f"{method_name(method)} {_gain(metrics, method, alpha)}" for method in methods)
    candidates = [method for method in methods if better[method] and _harmless(metrics, method, alpha)]
    if len(candidates) == 1:
        return {"use_case": "Best benchmark quality", "rule": rule, "method": candidates[0], "reason": f"{told}."}
    why = "no method is" if not candidates else f"{' and '.join(map(method_name, candidates))} are"
    reason = f"{why[0].upper()}{why[1:]} better on some benchmark and worse on none ({told})."
    return {"use_case": "Best benchmark quality", "rule": rule, "method": None, "reason": reason}


def _gain(metrics: Metrics, method: str, alpha: float) -> str:
    """On how many benchmarks a method is better and worse, and by how much on all."""
    verdicts, gain = _verdicts(metrics, method, alpha), mean_gain(metrics, method)
    missing = verdicts.count(NOT_MEASURED)
    if missing == len(verdicts):
        return NOT_MEASURED
    told = f"better on {verdicts.count('better')}, worse on {verdicts.count('worse')}"
    told += f", {NOT_MEASURED} on {missing}" if missing else ""
    return told + (f", mean difference {points(gain[0])} points" if gain else "")


def _preferred_answers(metrics: Metrics, settings: Settings) -> Pick:
    rule = (
        "the method whose answers win against the base model's (Holm), also at equal length, if the win rate of no "
        "other winner reaches its interval; worse on no benchmark"
    )
    alpha = settings.evaluation.alpha
    rows = {row["method"]: row for row in figure(metrics.get("win_rates"), "rows") or []}
    told = "; ".join(
        f"{method_name(method)} {percent(figure(rows.get(method), 'win_rate'))}, at equal length "
        f"{percent(figure(rows.get(method), 'win_rate_length_controlled'))}"
        for method in study_methods(settings)
    )
    winners = {
        method: row
        for method, row in rows.items()
        if row["p_holm"] is not None
        and row["p_holm"] <= alpha
        and all((row[low] or 0) > 0.5 for low in ("win_rate", "low", "low_length_controlled"))
        and _harmless(metrics, method, alpha)
    }
    ahead = [
        method
        for method, row in winners.items()
        if all(row["low"] > other["win_rate"] for name, other in winners.items() if name != method)
    ]
    pick = {"use_case": "Answers that a reward model prefers", "rule": rule}
    if len(ahead) == 1:
        return pick | {"method": ahead[0], "reason": f"{told}."}
    why = f"{len(winners)} methods win and none is ahead" if winners else "no method wins so"
    return pick | {"method": None, "reason": f"{why[0].upper()}{why[1:]} ({told})."}


def _verdicts(metrics: Metrics, method: str, alpha: float) -> list[str]:
    return [verdict(row, alpha) for row in _of_method(figure(metrics.get("comparison"), "contrasts"), method)]


def _harmless(metrics: Metrics, method: str, alpha: float) -> bool:
    verdicts = _verdicts(metrics, method, alpha)
    return bool(verdicts) and "worse" not in verdicts and NOT_MEASURED not in verdicts


def _learned(metrics: Metrics, method: str, settings: Settings) -> bool:
    test = _test_figures(metrics, method, settings)
    before, after = figure(test, "loss_before"), figure(test, "loss_after")
    return before is not None and after is not None and after < before


def _test_figures(metrics: Metrics, method: str, settings: Settings) -> Any:
    own = own_runs(metrics.get("training"), settings.seed).get(method)
    return figure(own, "metrics", "eval", "test")


def _of_method(rows: list[dict[str, Any]] | None, method: str) -> list[dict[str, Any]]:
    return [row for row in rows or [] if row["method"] == method]
