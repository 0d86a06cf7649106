"""The charts of the report, drawn from `evaluation/metrics/` alone; what was not measured says so.

Colours are Okabe and Ito's and two shades of theirs, one a method throughout; no date or version is stored, so equal
figures give equal files.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.settings import Settings
from storage.files import write_bytes
from storage.workspace import Workspace
from tasks.evaluate.compare import figure
from tasks.evaluate.results import BASE, study_methods
from tasks.evaluate.win_rates import LENGTH_CONTROLLED
from tasks.report.metrics import load_metrics, own_runs
from tasks.report.recommend import mean_gain, path_costs
from tasks.report.words import NOT_MEASURED, benchmark_name, count, duration, interval_name, method_name, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "base": "#6b6b6b", "sft": "#0072b2", "prompt_tuning": "#e69f00", "dpo": "#009e73",
    "prefix_tuning": "#cc79a7", "p_tuning": "#f0e442", "ia3": "#000000", "dora": "#004d80", "loha": "#7fc8f8",
}  # fmt: skip
MARKERS = {
    "base": "s", "sft": "o", "prompt_tuning": "^", "dpo": "D",
    "prefix_tuning": "v", "p_tuning": "<", "ia3": "P", "dora": "X", "loha": "h",
}  # fmt: skip
NEUTRAL = "#56b4e9"
DROP = "#d55e00"
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
DPI = 150
Z95 = 1.959964
MIB = 1024**2

Metrics = Mapping[str, Any]


def write_charts(workspace: Workspace, settings: Settings) -> list[Path]:
    """Draw every chart into `evaluation/figures/`."""
    import matplotlib

    names = ("comparison", "efficiency", "tests", "win_rates", "forgetting", "dataset", "training")
    metrics = {name: load_metrics(workspace, name) for name in names}
    charts = {
        "scores": _scores,
        "differences": _differences,
        "efficiency": _efficiency,
        "trade_off": _trade_off,
        "beyond_benchmarks": _beyond_benchmarks,
        "loss_curves": _loss_curves,
        "drop_waterfall": _waterfall,
        "preference_margins": _margins,
    }
    paths = []
    with matplotlib.rc_context():
        # a user's own matplotlibrc must not change the report
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        for name, draw in charts.items():
            buffer = io.BytesIO()
            draw(metrics, settings).savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
            path = workspace.evaluation / "figures" / f"{name}.png"
            write_bytes(path, buffer.getvalue())
            paths.append(path)
    return paths


def _scores(metrics: Metrics, settings: Settings) -> Figure:
    chart, (axes,) = _canvas(1, 1, (9, 4.6))
    benchmarks = list(settings.evaluation.benchmarks)
    rows = {
        (row["method"], row["benchmark"]): row
        for row in figure(metrics["comparison"], "scores") or []
        if row["seed"] == settings.seed
    }
    methods = [BASE, *study_methods(settings)]
    width = 0.8 / len(methods)
    top = 0.0
    for place, method in enumerate(methods):
        offset = (place - (len(methods) - 1) / 2) * width
        labelled = False
        for position, benchmark in enumerate(benchmarks):
            row = rows.get((method, benchmark))
            if row is None or row["value"] is None:
                axes.text(position + offset, 1.5, NOT_MEASURED, rotation=90, ha="center", va="bottom", fontsize=8)
                continue
            value, error = 100 * row["value"], 100 * Z95 * (row["stderr"] or 0)
            axes.bar(
                position + offset, value, width * 0.92, color=COLOURS[method],
                label=None if labelled else method_name(method),
            )  # fmt: skip
            labelled = True
            if row["stderr"] is not None:
                axes.errorbar(position + offset, value, error, color="black", capsize=3, linewidth=1)
            axes.text(position + offset, value + error + 1, f"{value:.0f}", ha="center", va="bottom", fontsize=8.5)
            top = max(top, value + error)
    axes.set_xticks(range(len(benchmarks)), [benchmark_name(name) for name in benchmarks])
    axes.set_ylabel("Score [%]")
    axes.set_ylim(0, min(108, max(top * 1.15, 20)))
    axes.yaxis.grid(True, color="#dddddd")
    axes.set_title(f"Zero-shot benchmark scores, ± 1.96 standard errors{_seed(settings)}")
    _legend(axes)
    return chart


def _differences(metrics: Metrics, settings: Settings) -> Figure:
    benchmarks, tuned = list(settings.evaluation.benchmarks), study_methods(settings)
    chart, (axes,) = _canvas(1, 1, (9, 1.6 + 1.05 * len(benchmarks)))
    rows = {(row["method"], row["benchmark"]): row for row in figure(metrics["comparison"], "contrasts") or []}
    ticks = []
    for group, benchmark in enumerate(benchmarks):
        middle = -group * (len(tuned) + 1)
        ticks.append(middle - (len(tuned) - 1) / 2)
        for place, method in enumerate(tuned):
            y, row = middle - place, rows.get((method, benchmark))
            if row is None or row["difference"] is None:
                axes.text(0, y, f" {NOT_MEASURED}", va="center", fontsize=8.5, color=COLOURS[method])
                continue
            decided = row["p_holm"] is not None and row["p_holm"] <= settings.evaluation.alpha
            if None not in (row["low"], row["high"]):
                axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=COLOURS[method], linewidth=2)
            axes.plot(
                100 * row["difference"], y, MARKERS[method], color=COLOURS[method], markersize=8,
                markerfacecolor=COLOURS[method] if decided else "white", markeredgewidth=1.6,
            )  # fmt: skip
    for method in tuned:
        axes.plot([], [], MARKERS[method], color=COLOURS[method], markersize=8, label=method_name(method))
    axes.plot([], [], "o", color="black", markerfacecolor="white", label="open: not distinguishable (Holm)")
    for group in range(1, len(benchmarks)):
        axes.axhline(1 - group * (len(tuned) + 1), color="#dddddd", linewidth=1)
    axes.axvline(0, color="black", linewidth=1)
    axes.xaxis.grid(True, color="#dddddd")
    axes.set_yticks(ticks, [benchmark_name(name) for name in benchmarks])
    axes.set_ylim(-len(benchmarks) * (len(tuned) + 1) + 1, 1)
    axes.tick_params(axis="y", length=0)
    interval = interval_name(settings.evaluation.alpha)
    axes.set_xlabel(f"Difference to the base model on the same questions [percentage points], {interval}")
    seeds = f", mean of {settings.tuning.seeds} seeds" if settings.tuning.seeds > 1 else ""
    axes.set_title(f"Paired differences to the base model{seeds}")
    _legend(axes)
    return chart


def _efficiency(metrics: Metrics, settings: Settings) -> Figure:
    chart, panels = _canvas(2, 3, (11.5, 6))
    runs = own_runs(metrics["efficiency"], settings.seed)
    tuned = study_methods(settings)
    figures: tuple[tuple[str, str, Any, bool, list[str]], ...] = (
        ("trainable_parameters", "Trainable parameters (log scale)", count, True, tuned),
        ("peak_memory_bytes", "Peak training memory", size, False, tuned),
        ("train_seconds", "Training time", duration, False, tuned),
        ("train_tokens_per_second", "Training tokens/s", count, False, tuned),
        ("inference_tokens_per_second", "Inference tokens/s", count, False, [BASE, *tuned]),
        ("adapter_bytes", "Adapter on disk (log scale)", size, True, tuned),
    )
    for axes, (name, title, write, log, methods) in zip(panels, figures, strict=True):
        values = [figure(runs.get(method), name) for method in methods]
        known = [value for value in values if value]
        if log and known:
            axes.set_xscale("log")
        left, right = (min(known) / 10, max(known) * 60) if log and known else (0, 1.45 * max(known, default=1))
        axes.set_xlim(left, right)
        for y, (method, value) in enumerate(zip(methods, values, strict=True)):
            if value is None:
                axes.text(0.02, -y, NOT_MEASURED, va="center", fontsize=9, transform=axes.get_yaxis_transform())
                continue
            axes.barh(-y, value - left, left=left, height=0.65, color=COLOURS[method])
            axes.text(value, -y, f" {write(value)}", va="center", fontsize=9)
        axes.set_yticks([-y for y in range(len(methods))], [method_name(method) for method in methods])
        axes.set_ylim(-len(methods) + 0.4, 0.6)
        axes.tick_params(axis="x", which="both", labelbottom=False, length=0)
        axes.tick_params(axis="y", length=0)
        axes.set_title(title)
    if settings.tuning.seeds > 1:
        chart.suptitle(f"Costs{_seed(settings)}")
    return chart


def _trade_off(metrics: Metrics, settings: Settings) -> Figure:
    chart, panels = _canvas(1, 3, (11.5, 4.4))
    tuned = study_methods(settings)
    costs: tuple[tuple[str, str, float, bool], ...] = (
        ("parameters", "Trainable parameters (log scale)", 1, True),
        ("memory", "Peak training memory [MiB]", MIB, False),
        ("seconds", "Training time [s], DPO's with LoRA's", 1, False),
    )
    for axes, (name, label, unit, log) in zip(panels, costs, strict=True):
        axes.axhline(0, color=COLOURS["base"], linestyle="--", linewidth=1.4, label=method_name("base"))
        seen: list[tuple[float, float]] = []
        for method in tuned:
            gained, cost = mean_gain(metrics, method), path_costs(metrics, method, settings.seed)[name]
            if gained is None or cost is None:
                continue
            error = None if gained[1] is None else 100 * Z95 * gained[1]
            axes.errorbar(
                cost / unit, 100 * gained[0], error, fmt=MARKERS[method], color=COLOURS[method],
                markersize=9, capsize=4, label=method_name(method),
            )  # fmt: skip
            seen.append((cost / unit, 100 * gained[0]))
        axes.set_xlabel(label)
        if not seen:
            _nothing(axes)
            continue
        if missing := len(tuned) - len(seen):
            told = f"{missing} of {len(tuned)} methods {NOT_MEASURED}"
            axes.text(0.03, 0.03, told, transform=axes.transAxes, fontsize=9)
        if log:
            axes.set_xscale("log")
        prices = [price for price, _ in seen]
        axes.set_xlim((min(prices) / 3, max(prices) * 3) if log else (0, 1.25 * max(prices)))
        # the base model costs nothing, which a log scale cannot show
        front = [point for point in pareto_front([(0.0, 0.0), *seen]) if point[0] or not log]
        axes.plot(
            [cost for cost, _ in front], [gain for _, gain in front], color=NEUTRAL, linewidth=6, alpha=0.4, zorder=0,
            solid_capstyle="round", marker="o", markersize=14, label="Pareto front: nothing is cheaper and better",
        )  # fmt: skip
        axes.grid(True, color="#dddddd")
    panels[0].set_ylabel("Mean difference to the base model\nover the benchmarks [points], ± 1.96 SE")
    panels[0].set_title("Quality against cost" + (f" (cost{_seed(settings)})" if settings.tuning.seeds > 1 else ""))
    _shared_legend(chart, panels)
    return chart


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, quality) points that no other beats in both, from the cheapest up."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def _beyond_benchmarks(metrics: Metrics, settings: Settings) -> Figure:
    """Win rates as they are (filled) and at equal length (open); loss on general text."""
    chart, (wins, losses) = _canvas(1, 2, (11.5, 1.8 + 0.55 * len(study_methods(settings))))
    tuned = study_methods(settings)
    rates = {row["method"]: row for row in figure(metrics["win_rates"], "rows") or []}
    forgot = {row["method"]: row for row in figure(metrics["forgetting"], "rows") or []}
    for place, method in enumerate(tuned):
        shown = [
            (wins, rates.get(method), ("win_rate", "low", "high"), 100, -place + 0.13, COLOURS[method]),
            (wins, rates.get(method), LENGTH_CONTROLLED, 100, -place - 0.13, "white"),
            (losses, forgot.get(method), ("difference", "low", "high"), 1, -place, COLOURS[method]),
        ]
        for axes, row, names, unit, y, face in shown:
            value, low, high = (figure(row, name) for name in names)
            if value is None:
                told = "no finite fit" if face == "white" and figure(row, "win_rate") is not None else NOT_MEASURED
                axes.text(0.02, y, told, va="center", fontsize=9, transform=axes.get_yaxis_transform())
                continue
            if low is not None and high is not None:
                axes.plot([unit * low, unit * high], [y, y], color=COLOURS[method], linewidth=2)
            axes.plot(
                unit * value, y, MARKERS[method], color=COLOURS[method], markersize=8, markerfacecolor=face,
                markeredgewidth=1.6,
            )  # fmt: skip
    for axes, middle in ((wins, 50), (losses, 0)):
        axes.axvline(middle, color="black", linewidth=1)
        axes.set_yticks([-place for place in range(len(tuned))], [method_name(method) for method in tuned])
        axes.set_ylim(-len(tuned) + 0.4, 0.6)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.grid(True, color="#dddddd")
    wins.set_xlim(0, 100)
    wins.set_xlabel("Answers preferred to the base model's [%]\nfilled: as they are; open: at equal length")
    interval = interval_name(settings.evaluation.alpha)
    wins.set_title(f"Win rate, {interval}")
    losses.set_xlabel("Loss on general text above the base model's\n[bits a byte]; right of the line: forgotten")
    losses.set_title(f"Forgetting, {interval}")
    return chart


def _loss_curves(metrics: Metrics, settings: Settings) -> Figure:
    chart, panels = _canvas(1, 2, (11, 4.2))
    runs = own_runs(metrics["training"], settings.seed)
    on_answers = [method for method in study_methods(settings) if method != "dpo"]
    for axes, methods, title in (
        (panels[0], on_answers, f"Training loss on answers{_seed(settings)}"),
        (panels[1], ["dpo"], f"Training loss: DPO{_seed(settings)}"),
    ):
        for method in methods:
            own = figure(runs.get(method), "metrics")
            curve = figure(own, "loss_curve")
            if not curve:
                axes.plot([], [], color=COLOURS[method], label=f"{method_name(method)}: {NOT_MEASURED}")
                continue
            axes.plot(*zip(*curve, strict=True), color=COLOURS[method], linewidth=1.8, label=method_name(method))
            before, after = (figure(own, "eval", "val", f"loss_{when}") for when in ("before", "after"))
            ends = [(x, y) for x, y in ((0, before), (curve[-1][0], after)) if y is not None]
            if ends:
                # see-through, since methods that start from one model start at one loss
                axes.plot(
                    *zip(*ends, strict=True), MARKERS[method], linestyle="none", color=COLOURS[method],
                    markerfacecolor="none", markeredgewidth=1.6, markersize=8, zorder=3,
                )  # fmt: skip
        axes.set_title(title)
        if not any(figure(runs.get(method), "metrics", "loss_curve") for method in methods):
            _nothing(axes)
            continue
        axes.set_xlabel("Optimizer step")
        axes.grid(True, color="#dddddd")
    panels[0].set_ylabel("Loss [nats a token]")
    panels[1].set_ylabel("Loss [nats a pair]")
    panels[1].plot(
        [], [], "o", color="black", markerfacecolor="none", markeredgewidth=1.6, markersize=8,
        label="open marks: validation, before and after",
    )  # fmt: skip
    _shared_legend(chart, panels)
    return chart


def _waterfall(metrics: Metrics, settings: Settings) -> Figure:
    chart, (axes,) = _canvas(1, 1, (9, 4.2))
    steps = figure(metrics["dataset"], "waterfall")
    axes.set_title("Rows left after each filter rule")
    if not steps:
        _nothing(axes)
        return chart
    top = steps[0]["rows"]
    for position, step in enumerate(steps):
        axes.bar(position, step["rows"], 0.7, color=NEUTRAL)
        axes.bar(position, step["dropped"], 0.7, bottom=step["rows"], color=DROP, hatch="//", edgecolor="white")
        note = f"{step['rows']:,}" + (f"\n−{step['dropped']:,}" if step["dropped"] else "")
        axes.text(position, step["rows"] + step["dropped"] + 0.015 * top, note, ha="center", va="bottom", fontsize=9.5)
    turned: dict[str, Any] = {"rotation": 20, "ha": "right"} if len(steps) > 8 else {}  # side by side they would touch
    axes.set_xticks(range(len(steps)), [step["step"] for step in steps], **turned)
    axes.set_ylim(0, 1.18 * top)
    axes.set_ylabel("Rows (hatched: dropped by the rule)")
    axes.yaxis.grid(True, color="#dddddd")
    return chart


def _margins(metrics: Metrics, settings: Settings) -> Figure:
    from matplotlib.ticker import MaxNLocator

    chart, (axes,) = _canvas(1, 1, (9, 4))
    margins = figure(metrics["dataset"], "margins")
    axes.set_title("Score margin of the preference pairs")
    if not margins:
        _nothing(axes)
        return chart
    edges, mean = margins["edges"], margins["spread"]["mean"]
    axes.bar(
        edges[:-1], margins["counts"], [b - a for a, b in zip(edges, edges[1:], strict=False)], align="edge",
        color=NEUTRAL, edgecolor="white",
    )  # fmt: skip
    axes.axvline(mean, color=DROP, linewidth=2, label=f"mean {mean:.2f}")
    axes.set_xlabel("Chosen score minus rejected score [reward units]")
    axes.set_ylabel("Pairs")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.grid(True, color="#dddddd")
    axes.legend()
    return chart


def _canvas(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chart = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(chart)
    return chart, list(chart.subplots(rows, columns, squeeze=False).flat)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4)


def _shared_legend(chart: Figure, panels: list[Axes]) -> None:
    """Below all panels, where it covers no curve."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    chart.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, NOT_MEASURED, ha="center", va="center", fontsize=14, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _seed(settings: Settings) -> str:
    """What a title says where there are several seeds and one is shown."""
    return f", seed {settings.seed}" if settings.tuning.seeds > 1 else ""
