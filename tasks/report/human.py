"""What people said about the answers, as a section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.settings import Settings
from tasks.evaluate.compare import figure, verdict
from tasks.report.tables import refused_lines, table
from tasks.report.words import NOT_MEASURED, count, interval_name, method_name, number, percent, probability

Row = Mapping[str, Any]


def human_section(metrics: Mapping[str, Any], settings: Settings) -> str:
    """Markdown with its own heading, or nothing where no page was made."""
    human = metrics.get("human")
    if not human:
        return ""
    rows = figure(human, "rows") or []
    alpha = settings.evaluation.alpha
    parts = [
        "### Ratings by people",
        f"{_raters(human)} saw pairs of answers to held-out instructions, a method's (seed {settings.seed}) and the "
        "base model's, on sides chosen by a coin and without names, and said which is better. An instruction counts "
        "once: several raters are averaged, and equal answers, which were not shown, are ties. Ties count half. The "
        "interval is a t interval over instructions; p is from a sign-flip test against 50%, with Holm's adjustment "
        "over the methods.",
        table(
            ("Method", "Wins / ties / losses", "Not shown", "Ratings", "Win rate", interval_name(alpha), "p")
            + ("p (Holm)", "Verdict"),
            [_cells(row, alpha) for row in rows],
            "metrics/human.json",
        ),
        _agreement(figure(human, "agreement")),
    ]
    if any(row.get("checked") for row in rows):
        parts.append(
            table(
                ("Method", "Answers checked", "Marked false", "Marked false, base model"),
                [
                    (
                        method_name(row["method"]),
                        count(row.get("checked")),
                        percent(row.get("false_share")),
                        percent(row.get("false_share_baseline")),
                    )
                    for row in rows
                ],
                "metrics/human.json",
            )
        )
    return "\n\n".join([*parts, *refused_lines(human, "human")])


def _raters(human: Row) -> str:
    raters = figure(human, "raters")
    return "No one yet" if not raters else "One person" if raters == 1 else f"{raters} people"


def _cells(row: Row, alpha: float) -> list[str]:
    rate, low, high = row.get("win_rate"), row.get("low"), row.get("high")
    measured = rate is not None
    interval = f"{percent(low)} to {percent(high)}" if low is not None else "unknown" if measured else NOT_MEASURED
    outcome = {"p_holm": row.get("p_holm"), "difference": (rate or 0) - 0.5}
    return [
        method_name(row["method"]),
        " / ".join(count(row.get(name)) for name in ("wins", "ties", "losses")) if measured else NOT_MEASURED,
        count(row.get("identical")),
        count(row.get("ratings")),
        percent(rate),
        interval,
        probability(row.get("p")),
        probability(row.get("p_holm")),
        verdict(outcome, alpha),
    ]


def _agreement(told: Row | None) -> str:
    if told is None:
        return f"Agreement between raters: {NOT_MEASURED}, since no pair has two."
    alpha = "undefined, since all verdicts are one" if told["alpha"] is None else number(told["alpha"], 2)
    return (
        f"On the {told['pairs']} pairs that two or more people rated, {percent(told['equal'])} of the verdicts agree; "
        f"Krippendorff's alpha is {alpha} (0 is chance, 1 is full agreement)."
    )
