"""The comparison and the checklist as tables: Markdown in the report, plain text of at most 100 columns elsewhere."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from tasks.evaluate.compare import verdict
from tasks.report.words import (
    NOT_MEASURED,
    benchmark_name,
    count,
    duration,
    interval_name,
    method_name,
    number,
    percent,
    points,
    probability,
    size,
)
from tasks.tune.methods import METHODS

WIDTH = 100
PASSED = {True: "pass", False: "FAIL", None: "not decided"}

SPECIAL = re.compile(r"([\\`*|]|(?<!\w)_|_(?!\w)|\](?=\()|<(?=[A-Za-z/!?])|&(?=[\w#]))")
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?%?"
NUMBERS = re.compile(rf"(?:< )?{NUMBER}(?: (?:to|/|±) {NUMBER})*(?: \w+)?")
WORDS = (NOT_MEASURED, "none", "unknown", "does not apply", "")  # what stands where a number would

Row = Mapping[str, Any]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of plain text; columns of nothing but numbers stand to the right."""
    rows = list(rows)
    ends = ["---:" if _numeric([row[column] for row in rows]) else "---" for column in range(len(header))]
    lines = [map(escape, header), ends, *(map(escape, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escape(text: str) -> str:
    """Text that Markdown reads as it stands."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text as Markdown code, backticks in it included."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def _numeric(cells: Sequence[str]) -> bool:
    measured = [cell for cell in cells if cell not in WORDS]
    return bool(measured) and all(map(NUMBERS.fullmatch, measured))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], file: str, note: str = "") -> str:
    """A Markdown table over a link to the file it was made from; `note` says where in the file, or which others."""
    return f"{markdown(header, rows) if rows else NOT_MEASURED.capitalize() + '.'}\n\n{source(file, note)}"


def chart(name: str, caption: str, file: str, note: str = "") -> str:
    """A chart of `figures/` over a link to the file it was drawn from."""
    return f"![{caption}](figures/{name}.png)\n\n{source(file, note)}"


def arxiv(paper: str) -> str:
    """A link to a paper by its number."""
    return f"[arXiv {paper}](https://arxiv.org/abs/{paper})"


def source(file: str, note: str = "") -> str:
    """A link to the file that a table, a chart or an example was made from."""
    return f"Source: [`{file}`]({file}){f' ({note})' if note else ''}."


def refused_lines(told: Row, folder: str) -> list[str]:
    """Files of `evaluation/<folder>/` that were not used, each with its reason."""
    refused = told.get("refused") or []
    lines = [f"- {escape(one['file'])}: {escape(one['reason'])}" for one in refused]
    return ["\n".join([f"Not used, in `{folder}/`:", "", *lines])] if lines else []


def plain(header: Sequence[str], rows: Sequence[Sequence[str]], flexible: int) -> str:
    """A plain text table no wider than 100 columns; the `flexible` column is wrapped, and headings between words."""
    widths = [max(*map(len, title.split()), *(len(row[column]) for row in rows)) for column, title in enumerate(header)]
    widths[flexible] = max(12, min(widths[flexible], WIDTH - sum(widths) + widths[flexible] - 2 * (len(widths) - 1)))
    lines = _wrapped(header, widths)
    lines.append("  ".join("-" * width for width in widths))
    for row in rows:
        lines += _wrapped(row, widths)
    return "\n".join(lines)


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [textwrap.wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip_longest(*cells, fillvalue="")
    ]


def measured_text(value: Any) -> str:
    """A checklist's measured value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value)


def checklist_rows(items: Sequence[Row]) -> list[list[str]]:
    """Cells of the checklist: id, criterion, threshold, measured, outcome."""
    return [
        [
            item["id"],
            item["criterion"],
            item["threshold"] or "none stated",
            measured_text(item["measured"]),
            PASSED[item["passed"]],
        ]
        for item in items
    ]


CHECKLIST_HEADER = ("Item", "Criterion", "Required", "Measured", "Outcome")


def checklist_table(items: Sequence[Row]) -> str:
    """The checklist for the terminal, and how many items passed."""
    table = plain(CHECKLIST_HEADER, checklist_rows(items), flexible=1)
    return f"{table}\n\n{checklist_summary(items)}"


def checklist_summary(items: Sequence[Row]) -> str:
    """How many items passed, failed, and were not decided."""
    outcomes = [item["passed"] for item in items]
    return (
        f"{outcomes.count(True)} of {len(items)} pass, {outcomes.count(False)} fail, "
        f"{outcomes.count(None)} are not decided here."
    )


def score_rows(comparison: Row | None, benchmarks: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """A row a method, a column a benchmark: score ± standard error in per cent."""
    scores = (comparison or {}).get("scores") or []
    runs = list(dict.fromkeys((row["method"], row["seed"]) for row in scores))
    cells = {(row["method"], row["seed"], row["benchmark"]): row for row in scores}

    def cell(row: Row | None) -> str:
        if row is None or row["value"] is None:
            return NOT_MEASURED
        return percent(row["value"]) + ("" if row["stderr"] is None else f" ± {100 * row['stderr']:.1f}")

    named = _names(runs)
    rows = [
        [named[method, seed]] + [cell(cells.get((method, seed, name))) for name in benchmarks] for method, seed in runs
    ]
    return ["Method", *map(benchmark_name, benchmarks)], rows


def contrast_rows(comparison: Row | None, alpha: float, family: str = "contrasts") -> tuple[list[str], list[list[str]]]:
    """A row a method and benchmark: paired difference, interval, p, minimal detectable difference, verdict.

    The `family` is `contrasts`, with the base model, or `between`, with LoRA SFT.
    """
    header = ["Method", "Benchmark", "Difference", interval_name(alpha), "p", "p (Holm)", "Detectable", "Verdict"]
    rows = [
        [
            method_name(row["method"]),
            benchmark_name(row["benchmark"]),
            points(row["difference"]),
            NOT_MEASURED if None in (row["low"], row["high"]) else f"{points(row['low'])} to {points(row['high'])}",
            probability(row["p"]),
            probability(row["p_holm"]),
            _detectable(row),
            verdict(row, alpha),
        ]
        for row in (comparison or {}).get(family) or []
    ]
    return header, rows


def verdict_grid(comparison: Row | None, alpha: float) -> tuple[list[str], list[list[str]]]:
    """A row a method, a column a benchmark: the paired difference to the base model and what it amounts to."""
    short = {"not distinguishable at this size": "open"}
    rows = (comparison or {}).get("contrasts") or []
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    cells = {(row["method"], row["benchmark"]): row for row in rows}

    def cell(row: Row) -> str:
        words = verdict(row, alpha)
        return words if row["difference"] is None else f"{points(row['difference'])} {short.get(words, words)}"

    methods = dict.fromkeys(row["method"] for row in rows)
    lines = [[method_name(method), *(cell(cells[method, name]) for name in benchmarks)] for method in methods]
    return ["Method", *map(benchmark_name, benchmarks)], lines


def _detectable(row: Row) -> str:
    if row["mde"] is not None:
        return f"{100 * row['mde']:.1f}"
    return NOT_MEASURED if row["difference"] is None else "unknown"


def efficiency_rows(efficiency: Row | None) -> tuple[list[str], list[list[str]]]:
    """A row a run: parameters, memory, time, speeds, size."""
    header = ["Method", "Trainable", "Share", "Peak memory", "Training time", "Train tok/s", "Infer tok/s"]
    header += ["Merged tok/s", "Adapter"]
    rows = []
    runs = (efficiency or {}).get("runs") or []
    named = _names([(run["method"], run["seed"]) for run in runs])
    for run in runs:
        share = run["trainable_percent"]
        base = run["method"] == "base"
        rows.append(
            [
                named[run["method"], run["seed"]],
                "none" if base else count(run["trainable_parameters"]),
                "none" if base else NOT_MEASURED if share is None else f"{share:.4f}%",
                "none" if base else size(run["peak_memory_bytes"]),
                "none" if base else duration(run["train_seconds"]),
                "none" if base else count(run["train_tokens_per_second"]),
                count(run["inference_tokens_per_second"]),
                "none" if base else _merged(run),
                "none" if base else size(run["adapter_bytes"]),
            ]
        )
    return header, rows


def _merged(run: Row) -> str:
    """Speed with the adapter in the weights, which a soft prompt cannot be."""
    value, method = run["inference_tokens_per_second_merged"], METHODS.get(run["method"])
    soft = method is not None and method.virtual_tokens and run["inference_tokens_per_second"] is not None
    return "does not apply" if value is None and soft else count(value)


def _names(runs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """Methods with their seeds, unless all have the same; the base model has none."""
    one = len({seed for _, seed in runs}) == 1
    return {(method, seed): method_name(method, None if one or method == "base" else seed) for method, seed in runs}


def comparison_table(comparison: Row | None, efficiency: Row | None, benchmarks: Sequence[str], alpha: float) -> str:
    """Scores, paired differences and costs for the terminal."""
    parts = []
    for title, (header, rows) in (
        ("Scores (± standard error)", score_rows(comparison, benchmarks)),
        ("Differences to the base model, in points", contrast_rows(comparison, alpha)),
        ("Costs", efficiency_rows(efficiency)),
    ):
        flexible = len(header) - 1 if "Verdict" in header else 0
        parts.append(f"{title}\n{plain(header, rows, flexible) if rows else NOT_MEASURED}")
    return "\n\n".join(parts)
