"""Slides on what came out: costs, scores, certain differences, what the study could see, quality against cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.evaluate.compare import figure
from tasks.evaluate.results import BASE
from tasks.report.charts import COLOURS, MARKERS, MIB, Z95
from tasks.report.recommend import mean_gain, path_costs
from tasks.report.slides import findings
from tasks.report.slides.charts import Curve, Panel, Series, columns, intervals, panels, scatter
from tasks.report.slides.deck import BODY, Cell, Deck, method_cell, table, unbroken, write
from tasks.report.slides.findings import Study, rows
from tasks.report.words import (
    NOT_MEASURED,
    benchmark_name,
    capital,
    count,
    duration,
    few,
    interval_name,
    method_name,
    number,
    percent,
    plural,
    points,
    size,
)

VERDICTS = {"better": "▲ better", "worse": "▼ worse", "not distinguishable at this size": "○ undecided"}
ATTACHED_SHOWN = 8
GIB = 1024 * MIB


def costs(study: Study, deck: Deck) -> None:
    """What each method costs to train and to use."""
    names = [method_name(method) for method in study.methods]
    figures: tuple[tuple[str, str, Callable[[Any], str], bool], ...] = (
        ("trainable_parameters", "Trained parameters (log)", count, True),
        ("peak_memory_bytes", "Peak memory", size, False),
        ("train_seconds", "Training time", duration, False),
        ("inference_tokens_per_second", "Inference tokens/s", count, False),
    )
    parts = [
        Panel(title, [study.cost(method, name) for method in study.methods], told, log)
        for name, title, told, log in figures
    ]
    title = findings.memory(study)
    notes = [f"{title}.", f"{findings.training_time(study)}; DPO's time includes LoRA's, from which it starts."]
    missing = []
    for part in parts:
        told = [f"{name} {part.write(value)}" for name, value in zip(names, part.values, strict=True)]
        notes.append(f"{part.title}{study.seed}: {'; '.join(told)}.")
        if absent := [name for name, value in zip(names, part.values, strict=True) if value is None]:
            missing.append(f"{part.title.removesuffix(' (log)').lower()} ({few(absent)})")
    speed = study.cost(BASE, "inference_tokens_per_second")
    speed = NOT_MEASURED if speed is None else f"{count(speed)} tokens/s"
    notes.append(f"Speed of the base model alone: {speed}.")
    slide = deck.slide(title, "metrics/efficiency.json", 75, notes)
    upper, lower = BODY.above(4.15)
    panels(slide, upper, names, [COLOURS[method] for method in study.methods], parts)
    lines = [f"DPO's time is its own, after LoRA's. Speed of the base model: {speed}."]
    if missing:
        lines.append(f"{capital(NOT_MEASURED)}: {', '.join(missing)}.")
    write(slide, lower, lines, (20, 18))


def benchmarks(study: Study, deck: Deck) -> None:
    """Scores as they are, before asking what is chance."""
    values, everyone = findings.scores(study), [BASE, *study.methods]
    title = findings.score_lead(study)
    for page in study.pages:
        series = [
            Series(method_name(one), [_in_percent(values.get((one, name))) for name in page], COLOURS[one])
            for one in everyone
        ]
        notes, missing = [f"{title}. A lead is not yet a finding: we come to what is certain."], []
        for name in page:
            told = [f"{method_name(one)} {percent(values.get((one, name)))}" for one in everyone]
            notes.append(f"{benchmark_name(name)}{study.seed}: {'; '.join(told)}.")
            if absent := [method_name(one) for one in everyone if (one, name) not in values]:
                missing.append(f"{benchmark_name(name)} ({few(absent)})")
        slide = deck.slide(title, "metrics/comparison.json", 60 // len(study.pages), notes)
        upper, lower = BODY.above(4.6) if missing else (BODY, BODY)
        columns(slide, upper, f"Zero-shot score [%]{study.seed}", list(map(benchmark_name, page)), series)
        if missing:
            write(slide, lower, [f"{capital(NOT_MEASURED)}: {', '.join(missing)}."], (18,))


def differences(study: Study, deck: Deck) -> None:
    """Every paired difference with its interval and verdict."""

    def cell(method: str, benchmark: str) -> str:
        row = study.contrasts[method, benchmark]
        if row["difference"] is None:
            return NOT_MEASURED
        spread = "" if None in (row["low"], row["high"]) else f"\n{points(row['low'])} to {points(row['high'])}"
        return unbroken(
            f"{points(row['difference'])} {VERDICTS.get(told := study.verdict(method, benchmark), told)}{spread}"
        )

    title, trainings = findings.certain(study), findings.trained_seeds(study)
    mean = f", mean of {trainings} trainings" if trainings > 1 else ""
    interval = interval_name(study.settings.evaluation.alpha)
    text = f"Percentage points{mean}; below: {interval}. ○ not distinguishable at this size."
    for page in study.pages:
        body: list[list[Cell]] = [
            [method_cell(method), *(cell(method, name) for name in page)] for method in study.methods
        ]
        notes = [f"{title}.", *(findings.method_verdicts(study, method, page) for method in study.methods)]
        if seeds := findings.seed_interval(study):
            notes.append(seeds)
        slide = deck.slide(title, "metrics/comparison.json", 90 // len(study.pages), notes)
        upper, lower = BODY.above(4.9)
        table(slide, upper, ("Method", *map(benchmark_name, page)), body)
        write(slide, lower, [text], (18,))


def detectable(study: Study, deck: Deck) -> None:
    """The same differences as a chart, beside what difference each benchmark could show at all."""
    signs = {"better": "▲", "worse": "▼"}
    series = []
    for method in study.methods:
        found = [study.contrasts[method, name] for name in study.benchmarks]
        halves = [None if None in (row["low"], row["high"]) else 50 * (row["high"] - row["low"]) for row in found]
        labels = [signs.get(study.verdict(method, name), "") for name in study.benchmarks]
        values = [_in_percent(row["difference"]) for row in found]
        series.append(Series(method_name(method), values, COLOURS[method], MARKERS[method], halves, labels))
    title, power = findings.detectable(study), f"{study.settings.evaluation.power:.0%} power"
    groups, notes = [], [f"{title}."]
    for name in study.benchmarks:
        known = [study.contrasts[method, name]["mde"] for method in study.methods]
        seen = max((one for one in known if one is not None), default=None)
        told = "unknown" if seen is None else f"{100 * seen:.1f}"
        unknown = ", since no answer changed, none was measured, or its subjects are too few"
        groups.append(f"{benchmark_name(name)} ({told})")
        notes.append(
            f"{benchmark_name(name)}, questions: {count(study.questions(name))}. Difference found with {power}: {told}"
            f"{unknown if seen is None else ' points'}."
        )
    if needed := findings.questions_needed(study):
        notes.append(needed)
    slide = deck.slide(title, "metrics/comparison.json", 60, notes)
    name = "Difference and its interval; in brackets: detectable. ▲ better, ▼ worse: certain after Holm"
    intervals(slide, BODY, name, "Percentage points", groups, series)


def trade_off(study: Study, deck: Deck) -> None:
    """Mean difference against memory and time."""
    gains = {method: mean_gain(study.metrics, method) for method in study.methods}
    costs = {method: path_costs(study.metrics, method, study.settings.seed) for method in study.methods}
    title = findings.trade_off(study)
    notes = [f"{title}."]
    for method, gain in gains.items():
        error = "" if gain is None or gain[1] is None else f", plus or minus {100 * Z95 * gain[1]:.1f}"
        notes.append(
            f"{method_name(method)}: mean difference {points(gain[0] if gain else None)} points{error}; memory "
            f"{size(costs[method]['memory'])}, time {duration(costs[method]['seconds'])}."
        )
    slide = deck.slide(title, "metrics/comparison.json, metrics/efficiency.json", 75, notes)
    left, right = BODY.beside(5.9)
    for box, name, what, units in (
        (left, "memory", "Peak training memory", ((GIB, "GiB"), (MIB, "MiB"))),
        (right, "seconds", "Training time", ((3600, "h"), (60, "min"), (1, "s"))),
    ):
        most = max((cost[name] for cost in costs.values() if cost[name] is not None), default=0)
        unit, unit_name = next((one for one in units if most >= 2 * one[0]), units[-1])
        x_title = f"{what} [{unit_name}]{'; DPO: with LoRA' if name == 'seconds' else ''}"
        spots = []
        for method, gain in gains.items():
            cost = costs[method][name]
            known = [(cost / unit, 100 * gain[0])] if gain and cost is not None else []
            half = 100 * Z95 * gain[1] if gain and gain[1] is not None else None
            spots.append(Curve(method_name(method), known, COLOURS[method], MARKERS[method], half))
        absent = [spot.name for spot in spots if not spot.points]
        upper, lower = box.above(4.75) if absent else (box, box)
        scatter(slide, upper, (x_title, "Mean difference [points]"), spots)
        if absent and len(absent) < len(spots):
            write(slide, lower, [f"{capital(NOT_MEASURED)}: {few(absent)}."], (18,))


def beyond(study: Study, deck: Deck) -> None:
    """Win rates, forgetting and people's ratings, where a study has them."""
    sources: dict[str, list[tuple[str, Callable[[Any], str]]]] = {
        "win_rates": [("Reward model", _win_rate), ("… at equal length", _win_rate_length_controlled)],
        "forgetting": [("Forgetting [bits/byte]", _forgetting)],
        "human": [("People", _win_rate)],
    }
    shown = [(name, *told) for name in sources if name in study.attempted for told in sources[name]]
    if not shown:
        return
    title = findings.beyond(study)
    notes, body = [f"{title}."], list[list[Cell]]()
    for method in study.methods:
        told = [(head, say(findings.against_base(study, name).get(method))) for name, head, say in shown]
        body.append([method_cell(method), *(text for _, text in told)])
        notes.append(f"{method_name(method)}: {'; '.join(' '.join(one) for one in told)}.")
    files = ", ".join(f"metrics/{name}.json" for name in sources if name in study.attempted)
    slide = deck.slide(title, files, 60, notes)
    upper, lower = BODY.above(4.5)
    table(slide, upper, ("Method", *(head for _, head, _ in shown)), body)
    text = []
    if {"win_rates", "human"} & study.attempted:
        text.append("Share of answers preferred to the base model's; ties count half, 50% is no difference.")
    if "forgetting" in study.attempted:
        text.append("Forgetting: rise of the loss on general text ± half its interval.")
    write(slide, lower, [" ".join(text)], (18,))


def attached(study: Study, deck: Deck) -> None:
    """Results of other evaluations, where a person put some beside the study."""
    if "attached" not in study.attempted:
        return
    found = rows(study.metrics["attached"], "results")
    body: list[list[Cell]] = []
    for one in found:
        for row in rows(one, "scores"):
            error = figure(row, "stderr")
            value = number(figure(row, "value")) + ("" if error is None else f" ± {number(error)}")
            body.append([str(one["title"]), method_name(row["method"]), str(figure(row, "metric")), value])
    title = f"What other evaluations found was {NOT_MEASURED}"
    if body:
        title = f"{capital(plural(len(found), 'other evaluation'))} can be held beside the study"
    notes = [f"{title}. This study did not run them; they are shown as they were given."]
    notes += [f"{one['title']}, from {figure(one, 'source')}. {figure(one, 'note') or ''}".rstrip() for one in found]
    slide = deck.slide(title, "metrics/attached.json", 30, notes)
    if more := len(body) - ATTACHED_SHOWN if len(body) > ATTACHED_SHOWN else 0:
        body = [*body[:ATTACHED_SHOWN], [f"and {more} more", "", "", ""]]
    table(slide, BODY, ("Evaluation", "Method", "Metric", "Value"), body or [[NOT_MEASURED, "", "", ""]])


def _win_rate(row: Any, ending: str = "") -> str:
    value, low, high = (figure(row, f"{name}{ending}") for name in ("win_rate", "low", "high"))
    spread = "" if low is None or high is None else f" ({percent(low, 0)} to {percent(high, 0)})"
    return NOT_MEASURED if value is None else f"{percent(value, 0)}{spread}"


def _win_rate_length_controlled(row: Any) -> str:
    return _win_rate(row, "_length_controlled")


def _forgetting(row: Any) -> str:
    value, low, high = (figure(row, name) for name in ("difference", "low", "high"))
    spread = "" if low is None or high is None else f" ± {(high - low) / 2:.3f}"
    return NOT_MEASURED if value is None else f"{value:+.3f}{spread}"


def _in_percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
