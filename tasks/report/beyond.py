"""What the report says beyond the benchmarks: win rates, forgetting, and which results were not used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.settings import Settings
from tasks.evaluate.compare import figure
from tasks.report.tables import arxiv, chart, code, table
from tasks.report.words import (
    NOT_MEASURED,
    benchmark_name,
    count,
    interval_name,
    method_name,
    number,
    percent,
    probability,
)

Metrics = Mapping[str, Any]


def win_rate_section(metrics: Metrics, settings: Settings) -> str:
    """Win rates against the base model's answers, with length control."""
    interval = interval_name(settings.evaluation.alpha)
    rows = [
        (
            method_name(row["method"]),
            f"{count(row['wins'])} / {count(row['ties'])} / {count(row['losses'])}",
            percent(row["win_rate"]),
            _interval(row["low"], row["high"]),
            probability(row["p_holm"]),
            _controlled(row),
            _interval(row["low_length_controlled"], row["high_length_controlled"]),
            number(row["mean_words"], 1),
            percent(row["unfinished"], 0),
        )
        for row in figure(metrics["win_rates"], "rows") or []
    ]
    header = ("Method", "Wins / ties / losses", "Win rate", interval, "p (Holm)", "At equal length",
              interval, "Words", "Cut off")  # fmt: skip
    base = next((row for row in figure(metrics["win_rates"], "rows") or [] if row["mean_words_baseline"]), None)
    own = (
        f"The base model's answers have {number(base['mean_words_baseline'], 1)} words and "
        f"{percent(base['unfinished_baseline'], 0)} were cut off."
        if base
        else f"The base model's answers were {NOT_MEASURED}."
    )
    return "\n\n".join(
        [
            "### Answers to held-out instructions",
            f"Every model answers the same instructions{_questions(metrics)} that nothing was trained on, "
            f"greedily, up to {settings.evaluation.answer_max_new_tokens} tokens, and "
            f"{code(figure(metrics['win_rates'], 'judge') or settings.models.reward.name)} scores them. An answer wins "
            "if its score is above the base model's; a tie counts half. The judge also made the preference pairs, "
            "so DPO was trained towards its taste. Reward models like length: the win rate at equal "
            f"length is that of a logistic model with the difference of lengths (after {arxiv('2404.04475')}). {own}",
            table(header, rows, "metrics/win_rates.json"),
            chart(
                "beyond_benchmarks",
                "Answers preferred to the base model's, and loss on general text above its",
                "metrics/win_rates.json",
                "and metrics/forgetting.json",
            ),
        ]
    )


def forgetting_section(metrics: Metrics, settings: Settings) -> str:
    """Loss on general text against the base model's."""
    told = metrics["forgetting"]
    interval = interval_name(settings.evaluation.alpha)
    task = code(figure(told, "task") or NOT_MEASURED)
    if told is None:
        return f"### Forgetting\n\nLoss on general text was {NOT_MEASURED}."
    rows = [
        (
            method_name(row["method"]),
            count(row["documents"]),
            number(row["baseline_value"]),
            number(row["value"]),
            NOT_MEASURED if row["difference"] is None else f"{row['difference']:+.4f}",
            NOT_MEASURED if None in (row["low"], row["high"]) else f"{row['low']:+.4f} to {row['high']:+.4f}",
            probability(row["p_holm"]),
        )
        for row in figure(told, "rows") or []
    ]
    header = ("Method", "Documents", "Base model", "Adapted", "Difference", interval, "p (Holm)")
    return "\n\n".join(
        [
            "### Forgetting",
            f"What an adaptation costs elsewhere: the loss on general text ({task}) in bits a byte, "
            "document by document against the base model's. More than zero was forgotten.",
            table(header, rows, "metrics/forgetting.json"),
        ]
    )


def refused_section(metrics: Metrics) -> str:
    """Results that are there and were not used, or failed; empty where there are none."""
    refused = figure(metrics["tests"], "refused") or []
    if not refused:
        return ""
    what = {"tune": "adapter, and all measured on it", "evaluate": "results", "judge": "answers"}
    rows = [
        (
            method_name(row["method"], row["seed"]),
            f"{benchmark_name(row['part'])} failed" if row["part"] else what[row["kind"]],
            row["reason"].splitlines()[0] if row["reason"] else "",
        )
        for row in refused
    ]
    return "\n\n".join(
        [
            "### Not used",
            "These were found and are shown as not measured above, since they are not what these settings made.",
            table(("Method", "What", "Why"), rows, "metrics/tests.json", "refused"),
        ]
    )


def not_used(metrics: Metrics) -> list[tuple[str, str]]:
    """Results, ratings and attached files that were found and not used, each with its reason."""
    told = [
        (f"{row['kind']} {method_name(row['method'], row['seed'])}", row["reason"])
        for row in figure(metrics["tests"], "refused") or []
    ]
    for name in ("human", "attached"):
        told += [(f"{name}/{row['file']}", row["reason"]) for row in figure(metrics[name], "refused") or []]
    return told


def _questions(metrics: Metrics) -> str:
    known = [row["questions"] for row in figure(metrics["win_rates"], "rows") or [] if row["questions"]]
    return f" ({count(max(known))})" if known else ""


def _controlled(row: Mapping[str, Any]) -> str:
    if row["win_rate"] is not None and row["win_rate_length_controlled"] is None:
        return "no finite fit"
    return percent(row["win_rate_length_controlled"])


def _interval(low: Any, high: Any) -> str:
    return NOT_MEASURED if None in (low, high) else f"{percent(low)} to {percent(high)}"
