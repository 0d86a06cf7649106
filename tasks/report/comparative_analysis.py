"""The cells of `evaluation/comparative_analysis.ipynb`: a script in the percent format, which `notebook.py` executes.

A markdown cell is a string. What the cell of constants imports from the project stands in the notebook as literals, so
that the notebook needs the folder that it lies in and no more. Like any notebook it imports at its top.
"""

# mypy: disable-error-code="no-untyped-call"
# ruff: noqa: E402

# %% [markdown]
"""
# Comparative analysis, recomputed step by step

This notebook makes every table of `report.md` again, from the files beside it. Each section says in plain words what
the figures mean, computes them in a few lines, and checks them against those that the report was written from. A check
that fails stops with an error, so a notebook that has run to its end has confirmed the report.

**What it needs.** The folder `evaluation/` of a study, with this notebook in it, and Python with numpy, pandas, scipy
and matplotlib. It needs no models, no data and no network.

**How to run it.**

- On your machine: `pip install -c constraints.txt -e . jupyterlab` in the project's folder brings everything (without
  the project, `pip install numpy pandas scipy matplotlib jupyterlab` does). Then
  `jupyter lab comparative_analysis.ipynb` in this folder, and *Run → Run All Cells*.
- In Colab: open it from your Drive and choose *Runtime → Run all*. The first cell mounts the Drive; correct the folder
  there if your study lies elsewhere.

What was not taken is shown as *not measured*, never as zero, and the checks leave it out and say so.
"""

# %%
import json
import math
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy import stats

FOLDER = Path.cwd()
if "google.colab" in sys.modules:  # Colab starts a notebook in a folder of its own
    from google.colab import drive

    drive.mount("/content/drive")
    FOLDER = Path("/content/drive/MyDrive/synthetic-instruction-tuner/evaluation")

# %% [markdown]
"""
## 1. The files, and a few tools

First the report's own names, colours and rules. Then the tools: `load` reads a file, `show` displays a table, and
`check` holds what was recomputed against what the report says. It compares the figures that are there on both sides,
and tells how many are on one side only.
"""

# %% constants
from tasks.report.charts import COLOURS, MARKERS, STYLE
from tasks.report.recommend import LEAD
from tasks.report.report import RULES
from tasks.report.words import BENCHMARK_NAMES, METHOD_NAMES, NOT_MEASURED

# %%
NAMES = METHOD_NAMES | BENCHMARK_NAMES
checked: dict[str, int] = {}


def load(name: str) -> Any:
    """A JSON file of the folder, or None where there is none that can be read."""
    try:
        return json.loads((FOLDER / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def look_up(record: Any, *keys: str) -> Any:
    """A figure inside nested objects, or None where a step is missing."""
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def text(table: pd.DataFrame, column: Any, form: str | Callable[[Any], str] = "{}", factor: float = 1) -> pd.Series:
    """A column as words; two columns become "low to high"."""
    if isinstance(column, list):
        low, high = (text(table, one, form, factor) for one in column)
        return low.mask(low != NOT_MEASURED, low + " to " + high)
    write = form.format if isinstance(form, str) else form
    words = [
        NOT_MEASURED if pd.isna(value) else write(value if factor == 1 else value * factor) for value in table[column]
    ]
    return pd.Series(words, table.index, dtype=object)


def show(table: pd.DataFrame, columns: Mapping[str, Any]) -> None:
    """Display columns of a table by title, each as the arguments of `text` or as ready words."""
    ready = {title: told if isinstance(told, pd.Series) else text(table, *told) for title, told in columns.items()}
    shown = pd.DataFrame(ready, index=table.index).rename(index=NAMES)
    if "seed" in shown.index.names and shown.index.get_level_values("seed").nunique() == 1:
        shown = shown.droplevel("seed")
    display(shown.rename_axis(index=str.capitalize) if len(shown) else Markdown(f"*{NOT_MEASURED}*"))


def check(what: str, ours: Mapping[Any, Any], theirs: Mapping[Any, Any], tolerance: float = 1e-9) -> None:
    """Assert that the figures recomputed here equal the report's, wherever both are there.

    They may differ by a billionth of the larger one, or by `tolerance`.
    """
    both = [key for key, value in ours.items() if not pd.isna(value) and not pd.isna(theirs.get(key))]
    one_sided = sum(pd.isna(value) != pd.isna(theirs.get(key)) for key, value in ours.items())
    for key in both:
        equal = math.isclose(ours[key], theirs[key], rel_tol=1e-9, abs_tol=tolerance)
        assert equal, f"{what}, {key}: recomputed {ours[key]}, but the report has {theirs[key]}"
    deviation = max((abs(ours[key] - theirs[key]) for key in both), default=0.0)
    told = f"{len(both)} recomputed, largest deviation {round(deviation, 10):g}" if both else NOT_MEASURED
    print(f"{what}: {told}" + (f"; {one_sided} on one side only" if one_sided else ""))
    checked[what] = len(both)


def figures(table: pd.DataFrame, *columns: str) -> dict[Any, Any]:
    """Figures of a table by row and column."""
    return {(row, column): table.loc[row, column] for row in table.index for column in columns}


def reported(rows: Any, keys: Sequence[str], *columns: str) -> dict[Any, Any]:
    """The same of a list in a metrics file; `keys` name the row."""
    return {
        (tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]], column): row.get(column)
        for row in rows or []
        for column in columns
    }


def draw(chart: Figure, told: str) -> None:
    """Display a chart, without the version that would make equal charts differ."""
    image = BytesIO()
    chart.savefig(image, format="png", dpi=110, metadata={"Software": None})
    plt.close(chart)
    display(Image(image.getvalue(), alt=told))


pd.set_option("display.max_rows", None, "display.max_columns", None, "display.max_colwidth", None, "display.width", 250)
plt.rcdefaults()
plt.rcParams.update(STYLE | {"figure.constrained_layout.use": True})

files = ["provenance", "dataset", "training", "comparison", "tests", "efficiency", "checklist"]
files += ["win_rates", "forgetting", "human", "attached"]
metrics = {name: load(f"metrics/{name}.json") for name in files}
found = pd.DataFrame(
    {"there": ["there" if metrics[name] else NOT_MEASURED for name in files]},
    index=pd.Index([f"metrics/{name}.json" for name in files], name="file"),
)
show(found, {"State": ("there",)})

# %% [markdown]
"""
## 2. What was compared

One base model, frozen, is adapted in several ways. Methods, seeds, benchmarks and the limits of the tests below are
read from the settings in `metrics/provenance.json`. The *share* of parameters that are trained is what makes a method
"parameter-efficient".
"""

# %%
settings: Any = look_up(metrics["provenance"], "settings") or {}
tuning, evaluation = settings.get("tuning") or {}, settings.get("evaluation") or {}
sections = tuning | (tuning.get("also") or {})
methods = [name for name in METHOD_NAMES if sections.get(name)]
questions_of: Any = evaluation.get("benchmarks") or {}
benchmarks = [name for name in BENCHMARK_NAMES if name in questions_of]
benchmarks += sorted(set(questions_of) - set(benchmarks))
seed = settings.get("seed")
seeds = [seed + number for number in range(tuning.get("seeds", 0))]
runs = [("base", seed), *((method, one) for method in methods for one in seeds)] if methods else []
run_index = pd.MultiIndex.from_tuples(runs, names=["method", "seed"])
alpha, power, draws = (evaluation.get(name, math.nan) for name in ("alpha", "power", "permutations"))
training: Any = {(run["method"], run["seed"]): run for run in look_up(metrics["training"], "runs") or []}


def setting(method: str, name: str) -> str:
    """A setting of a method in words; nothing where it has no such setting."""
    value = sections[method].get(name)
    if name == "learning_rate":  # where rates were searched, the one that was chosen
        value = look_up(training.get((method, seed)), "metrics", name) or (
            NOT_MEASURED if sections[method].get("search_rates") else value
        )
    return "" if value is None else ", ".join(value) if isinstance(value, list) else f"{value}"


names = ["epochs", "batch_size", "learning_rate", "max_length", "r", "lora_alpha", "alpha", "target_modules"]
names += ["feedforward_modules", "num_virtual_tokens", "init_method", "encoder_hidden_size", "beta"]
chosen_settings = pd.DataFrame(
    {name.replace("_", " "): [setting(method, name) for method in methods] for name in names},
    index=pd.Index(methods, name="method"),
)
for kind in ("trainable", "total"):
    counted = [look_up(training.get((method, seed)), "metrics", f"{kind}_parameters") for method in methods]
    chosen_settings[kind] = pd.Series(counted, chosen_settings.index, dtype=float)
chosen_settings["share"] = chosen_settings["trainable"] / chosen_settings["total"]
used = {name: (name,) for name in chosen_settings.columns[: len(names)] if chosen_settings[name].any()}
show(chosen_settings, used | {"trainable": ("trainable", "{:,.0f}"), "share": ("share", "{:.4%}")})
print(f"Base model: {look_up(settings, 'models', 'base', 'name') or NOT_MEASURED}. Seeds: {seeds}.")

# %% [markdown]
"""
## 3. The data

All training data are synthetic: a model wrote instructions and answers, rules dropped the poor rows, and a reward
model chose the better and the worse of several answers as a *preference pair*. The rows themselves lie outside this
folder; what was counted of them lies in `metrics/dataset.json`. This section recomputes what follows from those
counts.

**From raw to kept.** A row falls to the first rule that it breaks. The rows left after a rule are those before it
minus those that it dropped; after the last rule the kept rows must remain.
"""

# %%
data = metrics["dataset"]
rows: Any = look_up(data, "rows") or {}
stages = look_up(data, "stats") or {}
waterfall = look_up(data, "waterfall") or []
steps = pd.DataFrame(waterfall, columns=["step", "dropped", "rows"]).set_index("step").rename_axis("rule")
steps["left"] = (rows.get("raw") or math.nan) - steps["dropped"].cumsum()
steps["why"] = [RULES.get(rule, "") for rule in steps.index]
show(
    steps.drop(["raw", "kept"], errors="ignore"),
    {"Drops a row when": ("why",), "Dropped": ("dropped", "{:,.0f}"), "Rows left": ("left", "{:,.0f}")},
)
check("rows left after each rule", steps["left"].to_dict(), steps["rows"].to_dict())

# %% [markdown]
"""
**Domains.** The instructions come from several domains. Where the share of rows kept is low, the rules took more from
a domain than from the others.
"""

# %%
domains = pd.DataFrame({side: look_up(data, f"domains{side}") or {} for side in ("", "_kept")}, dtype=float)
domains = domains.rename_axis("domain").rename(columns={"": "raw", "_kept": "filtered"})
domains["filtered"] = domains["filtered"].mask(domains["raw"].notna() & domains["filtered"].isna(), 0)
domains["kept"] = domains["filtered"] / domains["raw"]
show(
    domains,
    {"Raw rows": ("raw", "{:,.0f}"), "Kept rows": ("filtered", "{:,.0f}"), "Kept": ("kept", "{:.1%}")},
)
check("rows of all domains", domains[["raw", "filtered"]].sum(min_count=1).to_dict(), rows)

# %% [markdown]
"""
**Quality score.** Each row has a score between 0 and 1, the weighted sum of five parts. The mean of weighted sums is
the weighted sum of the means, so the mean score follows from the parts' means. (Each score was rounded to six digits,
hence the tolerance.)
"""

# %%
parts = pd.DataFrame(
    {"weight": look_up(settings, "filter", "quality") or {}, "mean": look_up(data, "quality_parts") or {}}, dtype=float
).rename_axis("part")
parts["product"] = parts["weight"] * parts["mean"]
show(
    parts,
    {"Weight": ("weight", "{:.2f}"), "Mean over the kept rows": ("mean", "{:.3f}"), "Product": ("product", "{:.3f}")},
)
quality = {"mean": parts["product"].sum(skipna=False) if len(parts) else None}
check("mean quality score", quality, look_up(data, "quality") or {}, tolerance=5e-6)

# %% [markdown]
"""
**Preference pairs.** Several models answered each instruction and a reward model scored the answers; the best became
*chosen*, the worst *rejected*. A model that is chosen far more often than it is rejected writes what the reward model
likes.
"""

# %%
preference, margins = stages.get("preference"), look_up(data, "margins")
pairs = look_up(margins, "pairs")
responders: Any = look_up(preference, "models") or {}
models = pd.DataFrame(index=pd.Index(responders, name="responder"))
for name in ("mean", "low", "high"):
    models[name] = [look_up(told, "score", name) for told in responders.values()]
for name, side in (("win_share", "chosen_models"), ("loss_share", "rejected_models")):
    models[name] = [(look_up(margins, side) or {}).get(model, 0) / pairs if pairs else None for model in models.index]
show(
    models,
    {
        "Mean score": ("mean", "{:.2f}"),
        "95% interval": (["low", "high"], "{:.2f}"),
        "Chosen": ("win_share", "{:.1%}"),
        "Rejected": ("loss_share", "{:.1%}"),
    },
)
shares = {(model, name): told.get(name) for model, told in responders.items() for name in ("win_share", "loss_share")}
check("shares chosen and rejected", figures(models, "win_share", "loss_share"), shares)

# %% [markdown]
"""
**In one table.** The *margin* is the chosen answer's score minus the rejected one's, in units of the reward model,
which have no meaning of their own. A correlation of score and length far above 0 warns that the reward model likes
long answers. What can be computed in a second way is: the share of complete pairs from the attempts, the pairs as the
sum of their splits, and the mean margin as the stage itself took it.
"""

# %%
raw: Any = stages.get("raw")
facts: dict[str, Any] = {
    "Raw instruction and response pairs": rows.get("raw"),
    "Share of attempts that gave a complete pair": look_up(raw, "success_rate"),
    "Mean instruction length [words]": look_up(raw, "mean_instruction_words"),
    "Mean response length [words]": look_up(raw, "mean_response_words"),
    "Rows after filtering": rows.get("filtered"),
    "Mean quality score of the kept rows": look_up(data, "quality", "mean"),
    "SFT training rows": rows.get("sft_train"),
    "SFT validation rows": rows.get("sft_val"),
    "SFT test rows": rows.get("sft_test"),
    "Preference pairs": rows.get("pairs"),
    "DPO training pairs": rows.get("dpo_train"),
    "DPO validation pairs": rows.get("dpo_val"),
    "DPO test pairs": rows.get("dpo_test"),
    "Mean score margin of a pair [reward units]": look_up(margins, "spread", "mean"),
    "Spearman correlation of score and length": look_up(preference, "length", "spearman_score_words"),
    "Spearman correlation of score and quality score": look_up(preference, "quality", "spearman"),
}
table = pd.DataFrame({"value": list(facts.values())}, index=pd.Index(facts, name="figure"), dtype=float)
show(table, {"Value": ("value", lambda value: f"{value:,.0f}" if value == int(value) else f"{value:,.3f}")})
attempts, completed = look_up(raw, "attempts"), look_up(raw, "completed")
of_splits: list[Any] = [rows.get(f"dpo_{split}") for split in ("train", "val", "test")]
again = {
    "success rate": completed / attempts if attempts and completed is not None else None,
    "pairs": sum(of_splits) if preference and None not in of_splits else None,
    "margin": look_up(preference, "mean_margin"),
}
told = {"success rate": look_up(raw, "success_rate"), "pairs": look_up(preference, "pairs")}
check("facts about the data", again, told | {"margin": look_up(margins, "spread", "mean")})

# %% [markdown]
"""
## 4. The training

A *loss* is the mean surprise about each token of the answers, in nats: lower is better, and only the loss on rows that
were never trained on tells whether something was learned that carries over. DPO's loss is of another kind: it measures
how well chosen and rejected answers are told apart, starts at ln 2 ≈ 0.693 where neither is preferred, and cannot be
compared with the others'. *Preference accuracy* is the share of held-out pairs whose chosen answer the trained model
prefers; 50% is guessing.

**Converged** means: the loss fell (from the first eighth of the steps to the last quarter, by more than two standard
errors) and then flattened (from the third quarter to the last it fell by at most a tenth of that, or by less than two
standard errors). The falls were measured on single steps; the decision is made again here.
"""

# %%
losses = pd.DataFrame(index=run_index[1:])
for name in ("fall", "fall_standard_error", "late_fall", "late_fall_standard_error", "converged"):
    losses[name] = [look_up(training.get(run), "metrics", "convergence", name) for run in losses.index]
losses["steps"] = [look_up(training.get(run), "metrics", "steps") for run in losses.index]
for name in ("rows", "dropped", "cut", "tokens"):
    losses[name] = [look_up(training.get(run), "metrics", "rows", "train", name) for run in losses.index]
for split in ("val", "test"):
    for name in ("loss_before", "loss_after", "accuracy"):
        losses[f"{split}_{name}"] = [look_up(training.get(run), "metrics", "eval", split, name) for run in losses.index]
losses = losses.astype(float)  # yes becomes 1, no becomes 0
show(
    losses,
    {
        "Rows": ("rows", "{:,.0f}"),
        "Dropped as too long": ("dropped", "{:,.0f}"),
        "Cut": ("cut", "{:,.0f}"),
        "Tokens an epoch": ("tokens", "{:,.0f}"),
        "Steps": ("steps", "{:,.0f}"),
        "Converged": ("converged", lambda value: "yes" if value else "no"),
        "Validation loss": (["val_loss_before", "val_loss_after"], "{:.3f}"),
        "Test loss": (["test_loss_before", "test_loss_after"], "{:.3f}"),
        **{
            f"Preference accuracy, {name}": text(losses, f"{split}_accuracy", "{:.1%}").where(
                losses.index.get_level_values("method") == "dpo", ""
            )
            for split, name in (("val", "validation"), ("test", "test"))
        },
    },
)
fell = losses["fall"] > 2 * losses["fall_standard_error"]
flat = losses["late_fall"] <= np.maximum(losses["fall"] / 10, 2 * losses["late_fall_standard_error"])
decided = (fell & flat).astype(float).where(losses["late_fall_standard_error"].notna())
check("convergence", decided.to_dict(), losses["converged"].to_dict())

# %% [markdown]
"""
**Learning rates.** A method that is shown with a poor learning rate looks worse than it is. Where rates were searched,
each was trained for a short while, and the one with the lowest *validation* loss was taken: never the benchmarks, or
the comparison would be decided before it began. A choice at the edge of the candidates hints that a better one lies
beyond.
"""

# %%
searches = look_up(metrics["training"], "searches") or []
search = pd.DataFrame(index=pd.Index([told["method"] for told in searches], name="method"))
candidates = [
    [(one["val_loss"] or math.inf, one["learning_rate"]) for one in look_up(told, "search", "candidates") or []]
    for told in searches
]
search["tried"] = ["; ".join(f"{rate}: {loss:.3f}" for loss, rate in tried) or None for tried in candidates]
search["best"] = [min(tried, default=(None, None))[1] for tried in candidates]
search["edge"] = [look_up(told, "search", "at_edge") for told in searches]
search["seconds"] = [look_up(told, "cost", "seconds") for told in searches]
if searches:
    show(
        search,
        {
            "Rate: validation loss (inf: failed)": ("tried",),
            "Lowest at": ("best", "{:g}"),
            "At the edge": ("edge", lambda value: "yes" if value else "no"),
            "Cost [s]": ("seconds", "{:,.1f}"),
        },
    )
else:
    print("No learning rate was searched for.")
chosen_rates = {told["method"]: look_up(told, "search", "chosen") for told in searches}
check("chosen learning rates", search["best"].to_dict(), chosen_rates)

# %% [markdown]
"""
## 5. The answers

From here on everything is computed from single answers. `results/<method>/<benchmark>.samples.jsonl` holds a row for
each question with the score of its answer: 1 or 0 for right or wrong, or a number between. All methods answered the
same questions, so a question is known by its task and the hash of its text (and a number, where a data set holds a
question twice). A file that has not as many rows as its results say is torn and is not believed, nor is a result that
the report refused because it belongs to other settings.
"""

# %%
refusals = look_up(metrics["tests"], "refused") or []
what = {"tune": "adapter, and all measured on it", "evaluate": "results", "judge": "answers"}


def refused(*kinds: str) -> set[tuple[str, int]]:
    """Method and seed of what was made by such a stage and must not be used."""
    return {(row["method"], row["seed"]) for row in refusals if row.get("kind") in kinds and not row.get("part")}


def folder_of(method: str, one: int) -> str:
    """What the folder of a run is called."""
    return method if one == 0 or method == "base" else f"{method}-seed-{one}"


def rows_of(name: str) -> list[Any] | None:
    """The rows of a file of JSON lines; None where there is none that can be read."""
    try:
        with (FOLDER / name).open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError):
        return None


def samples_of(method: str, one: int, benchmark: str) -> list[Any]:
    """The answers of a run to a benchmark; none where they are not to be believed."""
    path = f"results/{folder_of(method, one)}/{benchmark}"
    samples = [] if (method, one) in refused("tune", "evaluate") else rows_of(f"{path}.samples.jsonl") or []
    return samples if look_up(load(f"{path}.json"), "config", "questions") == len(samples) else []


answers: dict[tuple[str, int, str], pd.DataFrame] = {}
for method, one in runs:
    for benchmark in benchmarks:
        samples = samples_of(method, one, benchmark)
        frame = pd.DataFrame(samples, columns=["task", "doc_hash", "cluster"], dtype=object)
        frame["value"] = [row["metrics"].get(questions_of[benchmark]["metric"]) for row in samples]
        frame["copy"] = frame.groupby(["task", "doc_hash"]).cumcount()
        frame = frame.astype({"value": float}).dropna(subset="value").set_index(["task", "doc_hash", "copy"])
        if len(frame):
            answers[method, one, benchmark] = frame
counts = pd.DataFrame(index=run_index)
for benchmark in benchmarks:
    counts[benchmark] = [len(answers[(*run, benchmark)]) if (*run, benchmark) in answers else None for run in runs]
show(counts, {NAMES.get(name, name): (name, "{:,.0f} answers") for name in benchmarks})
if refusals:
    table = pd.DataFrame(refusals, columns=["method", "seed", "kind", "part", "reason"]).set_index(["method", "seed"])
    table["what"] = table["part"].map(NAMES, na_action="ignore").fillna(table["kind"].map(what))
    show(table, {"Not used": ("what",), "Why": ("reason",)})

# %% [markdown]
r"""
## 6. Scores

A score is the mean of its answers. Other questions would have given another score: the *standard error* (SE) says by
how much it would typically differ.

Where questions are independent, it is the textbook's: the spread of single answers divided by $\sqrt{n}$. MMLU's are
not: a model that knows astronomy answers most questions of that subject well, so a second one brings less news than a
question of another subject. The *cluster-robust* standard error (Miller 2024, arXiv 2411.00640) therefore sums the
deviations of each subject first, and takes these sums as the independent pieces. With $n$ questions in $J$ clusters,

$$ SE = \frac{1}{n} \sqrt{\frac{J}{J-1} \sum_{j=1}^{J} \Big( \sum_{i \in j} (x_i - \bar x) \Big)^2 } $$

Without clusters each question is one of its own, and this is the textbook's formula.
"""


# %%
def cluster_sums(values: Any, clusters: pd.Series) -> Any:
    """The sum of each cluster, or the values themselves where there are no clusters."""
    if clusters.isna().any():
        return np.asarray(values, dtype=float)
    _, number = np.unique(clusters.to_numpy(dtype=str), return_inverse=True)
    return np.bincount(number, weights=values)


def standard_error(values: pd.Series, clusters: pd.Series) -> float:
    """Of the mean, cluster-robust; NaN with fewer than two clusters."""
    sums = cluster_sums(values - values.mean(), clusters)
    count = len(sums)
    return math.sqrt(count / (count - 1) * (sums**2).sum()) / len(values) if count > 1 else math.nan


scores = pd.DataFrame(index=pd.MultiIndex.from_tuples(list(answers), names=["method", "seed", "benchmark"]))
scores["value"] = [frame["value"].mean() for frame in answers.values()]
scores["stderr"] = [standard_error(frame["value"], frame["cluster"]) for frame in answers.values()]
cells = text(scores, "value", "{:.1%}") + text(scores, "stderr", " ± {:.1f}", 100).replace(NOT_MEASURED, "")
wide = cells.unstack("benchmark").reindex(index=run_index, columns=benchmarks)
show(wide, {NAMES.get(name, name): (name,) for name in benchmarks})
told_scores = reported(look_up(metrics["comparison"], "scores"), list(scores.index.names), "value", "stderr")
check("scores and standard errors", figures(scores, "value", "stderr"), told_scores)

# %%
chart, axes = plt.subplots(figsize=(9, 4))
width = 0.8 / (1 + len(methods))
for place, method in enumerate(["base", *methods]):
    for position, benchmark in enumerate(benchmarks):
        if (method, seed, benchmark) in scores.index:
            score, error = 100 * scores.loc[(method, seed, benchmark)]
            x = position + (place - len(methods) / 2) * width
            axes.bar(x, score, 0.92 * width, color=COLOURS[method], label=METHOD_NAMES[method])
            axes.errorbar(x, score, 1.96 * error, color="black", capsize=3, linewidth=1)
legend = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # each method once
axes.legend(legend.values(), legend.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=4)
axes.set_xticks(range(len(benchmarks)), [NAMES.get(name, name) for name in benchmarks])
axes.set(ylabel="Score [%]", title="Scores, ± 1.96 standard errors" + (f", seed {seed}" if len(seeds) > 1 else ""))
axes.yaxis.grid(color="#dddddd")
draw(chart, "Scores with intervals")

# %% [markdown]
"""
## 7. Differences to the base model

### 7.1 Pairing

The intervals in that chart overlap widely, and yet it would be wrong to conclude that nothing differs. Most of their
width is the difficulty of the questions, which all methods share. So compare **question by question**: in the
difference of the two answers to a question, its difficulty cancels. The mean of these *paired differences* is the
difference of the two scores, but its standard error is smaller.

With several training seeds, the difference on a question is the mean over the runs. A question that one of them has
not answered is left out. Where the answers of a run are gone that the report still had, the mean cannot be made again,
and nothing is compared.
"""

# %%
paired: dict[tuple[str, str], pd.DataFrame] = {}
left_out: dict[tuple[str, str], int] = {}
contrasts = pd.DataFrame(index=pd.MultiIndex.from_product([methods, benchmarks], names=["method", "benchmark"]))
gone = {run for (run, figure), value in told_scores.items() if figure == "stderr" and value is not None} - set(answers)
for method, benchmark in contrasts.index:
    base = answers.get(("base", seed, benchmark))
    own = {one: answers[method, one, benchmark] for one in seeds if (method, one, benchmark) in answers}
    if base is None or not own or gone & {(method, one, benchmark) for one in seeds}:
        continue
    frame = base.join(pd.DataFrame({one: run["value"] for one, run in own.items()})).dropna(subset=list(own))
    frame["difference"] = sum(frame[one] - frame["value"] for one in own) / len(own)
    if len(frame):
        paired[method, benchmark] = frame
        left_out[method, benchmark] = len(set(base.index).union(*(run.index for run in own.values()))) - len(frame)


def of_each(figure: Callable[[pd.DataFrame], Any]) -> pd.Series:
    """A figure of each contrast; NaN where there is nothing to compare."""
    figures = [figure(paired[key]) if key in paired else None for key in contrasts.index]
    return pd.Series(figures, contrasts.index, dtype=float)


def turned(frame: pd.DataFrame, before: int, after: int) -> float:
    """Answers that turned from one to the other, in the mean over seeds; NaN where answers are graded."""
    runs = frame[[one for one in seeds if one in frame]]
    if not frame["value"].isin([0, 1]).all() or not runs.isin([0, 1]).all(axis=None):
        return math.nan
    return float(((runs == after) & (frame[["value"]].to_numpy() == before)).sum().mean())


contrasts["difference"] = of_each(lambda frame: frame["difference"].mean())
contrasts["questions"] = of_each(len)
contrasts["unpaired"] = [left_out.get(key, math.nan) for key in contrasts.index]
contrasts["changed"] = of_each(lambda frame: (frame["difference"] != 0).sum())
contrasts["right_to_wrong"] = of_each(lambda frame: turned(frame, 1, 0))
contrasts["wrong_to_right"] = of_each(lambda frame: turned(frame, 0, 1))


def where_it_applies(column: str, form: Any) -> pd.Series:
    """A figure that graded or clustered answers do not have."""
    no_use = contrasts[column].isna() & contrasts["questions"].notna()
    return text(contrasts, column, form).mask(no_use, "does not apply")


show(
    contrasts,
    {
        "Difference [points]": ("difference", "{:+.1f}", 100),
        "Questions": ("questions", "{:,.0f}"),
        "Answers changed": ("changed", "{:,.0f}"),
        "Right to wrong": where_it_applies("right_to_wrong", "{:,.4g}"),
        "Wrong to right": where_it_applies("wrong_to_right", "{:,.4g}"),
        "Left out": ("unpaired", "{:,.0f}"),
    },
)
comparison, tests = look_up(metrics["comparison"], "contrasts"), look_up(metrics["tests"], "tests")
names = ["method", "benchmark"]
check("differences", figures(contrasts, "difference"), reported(comparison, names, "difference"))
behind = ("questions", "unpaired", "changed", "right_to_wrong", "wrong_to_right")
check("counts behind the differences", figures(contrasts, *behind), reported(tests, names, *behind))

# %% [markdown]
"""
TruthfulQA's answers have scores between 0 and 1, nearly all of which change a little; they cannot turn from right to
wrong.

How much does pairing bring? Compare the standard error of the paired difference with the one that results if the
scores are treated as if they came from different questions.
"""

# %%
contrasts["stderr"] = of_each(lambda frame: standard_error(frame["difference"], frame["cluster"]))
contrasts["stderr_unpaired"] = of_each(
    lambda frame: math.hypot(
        standard_error(frame["value"], frame["cluster"]),
        standard_error(frame["value"] + frame["difference"], frame["cluster"]),
    )
)
show(contrasts, {"Paired [points]": ("stderr", "{:.2f}", 100), "Unpaired [points]": ("stderr_unpaired", "{:.2f}", 100)})
check("standard errors of the differences", figures(contrasts, "stderr"), reported(tests, names, "stderr"))

# %% [markdown]
r"""
### 7.2 The interval

The 95% interval is made so that in 95 of 100 such studies it holds the true difference: difference ± t · SE. (With
another alpha the interval has another level: 1 − alpha.) The factor t is a little above 1.96, and clearly above it
where clusters are few, since the standard error itself is then uncertain: with 5 subjects it is 2.78. It is the
quantile of a t distribution with the *effective* number of clusters less one as its degrees of freedom,
$n^2 / \sum_j n_j^2 - 1$ for clusters of $n_j$ questions (Carter et al. 2017): a few large clusters among small ones
count for little more than the large ones alone.
"""


# %%
def freedom(frame: pd.DataFrame) -> float:
    """Degrees of freedom."""
    sizes = cluster_sums(np.ones(len(frame)), frame["cluster"])
    return float(len(frame) ** 2 / (sizes**2).sum() - 1)


contrasts["clusters"] = of_each(lambda frame: len(cluster_sums(frame["difference"], frame["cluster"])))
contrasts["clustered"] = of_each(lambda frame: not frame["cluster"].isna().any())
contrasts["freedom"] = of_each(freedom)
contrasts["t"] = stats.t.ppf(1 - alpha / 2, contrasts["freedom"])
contrasts["low"] = contrasts["difference"] - contrasts["t"] * contrasts["stderr"]
contrasts["high"] = contrasts["difference"] + contrasts["t"] * contrasts["stderr"]
show(
    contrasts,
    {
        "Clusters": text(contrasts, "clusters", "{:,.0f}").mask(contrasts["clustered"] == 0, "each question"),
        "Degrees of freedom": ("freedom", "{:,.1f}"),
        "t": ("t", "{:.2f}"),
        "Difference [points]": ("difference", "{:+.1f}", 100),
        "Interval [points]": (["low", "high"], "{:+.1f}", 100),
    },
)
check("interval limits", figures(contrasts, "low", "high"), reported(comparison, names, "low", "high"))

# %% [markdown]
"""
### 7.3 The test: sign flips

Suppose that a method does not differ from the base model. Then it is a matter of chance which of the two did better on
a question: each difference might as well have the other sign. So flip signs, and look how often the sum of the
differences comes out at least as far from zero as the observed one. That share is **p**. Nothing is assumed about the
shape of the differences. All differences of a cluster are flipped together.

There are three ways to find the share.

- *Count.* Where answers are right or wrong, every sum is a whole number of steps, and the chance of each total can be
  worked out, as for the heads of many coins: coins of equal weight have a binomial distribution, and the totals of two
  kinds of coins combine by convolution.
- *Try all.* J clusters have 2ᴶ patterns; where these are few, each is tried.
- *Draw.* Else random patterns are drawn, with the study's seed, so that the result can be repeated. 1 is added to both
  counts, since the observed pattern is one of the possible ones.

The two patterns that leave all signs or flip all are always as extreme as the observed one, so no p is below 2/2ᴶ.
With 5 subjects that is 0.0625, however large the difference is.
"""


# %%
def flip(frame: pd.DataFrame) -> tuple[Any, Any, Any]:
    """Flip the signs of the differences, those of a cluster together.

    Returns:
        The sums that are flipped; the totals that result, without their sign and as shares of the largest possible one;
        the chance of each, or None where they were drawn.
    """
    changed = frame[frame["difference"] != 0]
    sums = cluster_sums(changed["difference"], changed["cluster"])
    sums = sums[np.abs(sums) > 1e-9 * changed["difference"].abs().sum()]  # zero but for rounding
    if not len(sums):
        return sums, np.zeros(1), np.ones(1)
    steps = np.abs(sums) / changed["difference"].abs().min()
    whole = np.rint(steps)
    if whole.min() >= 1 and whole.sum() <= 50_000 and np.abs(steps - whole).max() < 1e-6:
        chances: Any = np.ones(1)
        for size, count in zip(*np.unique(whole.astype(int), return_counts=True), strict=True):
            heads = np.zeros(size * count + 1)
            heads[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
            chances = np.convolve(chances, heads)
        longest = len(chances) - 1
        return sums, np.abs(2 * np.arange(longest + 1) - longest) / longest, chances
    if 2 ** len(sums) <= draws:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        totals = np.abs(1 - 2 * (patterns @ (steps / steps.sum())))
        return sums, totals, np.full(len(totals), 0.5 ** len(sums))
    random = np.random.default_rng(seed)
    drawn = []
    block = max(1, 4_000_000 // len(sums))  # patterns at a time, to save memory
    for start in range(0, draws, block):
        size = (min(block, draws - start), (len(sums) + 7) // 8)
        patterns = np.unpackbits(random.integers(0, 256, size, dtype=np.uint8), axis=1, count=len(sums))
        drawn.append(np.abs(sums.sum() - 2 * (patterns @ sums)) / np.abs(sums).sum())
    return sums, np.concatenate(drawn), None


def sign_flip_p(frame: pd.DataFrame) -> float:
    """Two-sided p."""
    sums, totals, chances = flip(frame)
    if not len(sums):
        return 1.0
    hits = totals >= abs(sums.sum()) / np.abs(sums).sum() - 1e-9  # equal totals may differ in their last digits
    return min(1.0, float(chances[hits].sum())) if chances is not None else float((1 + hits.sum()) / (1 + len(hits)))


def p_text(p: float) -> str:
    """A p value as the report writes it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


contrasts["p"] = of_each(sign_flip_p)
show(contrasts, {"Difference [points]": ("difference", "{:+.1f}", 100), "p": ("p", p_text)})
check("p values of the sign-flip test", figures(contrasts, "p"), reported(comparison, names, "p"))

# %% [markdown]
"""
The chart shows the idea for one contrast, the one whose p lies nearest to alpha: how likely each difference is if
signs are flipped at random. p is the share of the bars at or beyond the lines, which are the observed difference and
its mirror image.
"""

# %%
chart, axes = plt.subplots(figsize=(9, 3.2))
title = NOT_MEASURED
if contrasts["p"].notna().any():
    example: Any = (contrasts["p"] - alpha).abs().idxmin()
    sums, totals, chances = flip(paired[example])
    chances = np.full(len(totals), 1 / len(totals)) if chances is None else chances
    both = pd.Series(np.concatenate([chances, chances]) / 2, np.concatenate([-totals, totals]))
    both.index *= 100 * np.abs(sums).sum() / len(paired[example])
    seen = 100 * contrasts["difference"][example]
    both = both[np.abs(both.index) <= max(1.2 * abs(seen), 4 * math.sqrt((both * both.index**2).sum()))]
    steps = both.index.to_series().round(9).nunique()
    places = steps if steps < 400 else 41  # a bar for each possible difference, where they are not too many
    largest = both.index.max() * places / max(1, places - 1)
    axes.hist(
        both.index, np.linspace(-largest, largest, places + 1).tolist(), weights=both, color="#bbbbbb", rwidth=0.9
    )
    axes.axvline(seen, color=COLOURS[example[0]], linewidth=2)
    axes.axvline(-seen, color=COLOURS[example[0]], linewidth=2, linestyle="--")
    title = f"{NAMES[example[0]]} on {NAMES.get(example[1], example[1])}, p = {contrasts['p'][example]:.3f}"
axes.set(title=title, xlabel="Mean difference after sign flips [points]", ylabel="Chance")
draw(chart, "Differences after sign flips, and the observed one")

# %% [markdown]
"""
**A second test.** Where answers are only right or wrong and questions are independent, the sign-flip test is an old
acquaintance, *McNemar's*: of the questions that exactly one of the two answered rightly, how surprising is it that a
fair coin falls that way? Both p values must be the same. It does not apply to clusters, to graded answers, or to means
over seeds.
"""


# %%
def mcnemar_p(frame: pd.DataFrame) -> float:
    """Exact, two-sided; NaN where the test does not apply."""
    if frame["cluster"].notna().all() or not frame["difference"].isin([-1, 0, 1]).all():
        return math.nan
    wins, losses = (frame["difference"] > 0).sum(), (frame["difference"] < 0).sum()
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


contrasts["p_mcnemar"] = of_each(mcnemar_p)
show(contrasts, {"p (sign flips)": ("p", p_text), "p (McNemar)": where_it_applies("p_mcnemar", p_text)})
check("p values of McNemar's test", figures(contrasts, "p_mcnemar"), reported(tests, names, "p_mcnemar"))

# %% [markdown]
"""
### 7.4 Many tests: Holm's adjustment

Twelve tests at 5% find something in nearly half of all studies in which there is nothing (1 − 0.95¹² = 46%). *Holm's
adjustment* keeps the chance of even one false finding at alpha: multiply the smallest p by the number of tests, the
next by one less, and so on; an adjusted p is never below the one before it, and never above 1. A difference counts
where its adjusted p is at most alpha.

The tests are those that the report counts. Where the answers behind one are missing here, its p is the report's.
"""


# %%
def holm(ours: pd.Series, theirs: Mapping[Any, Any]) -> pd.DataFrame:
    """Holm's steps, from the smallest p on."""
    told = pd.Series([theirs.get((key, "p")) for key in ours.index], ours.index, dtype=float)
    counted = told.notna() if told.notna().any() else ours.notna()
    steps = pd.DataFrame({"p": ours.where(counted).combine_first(told).dropna().sort_values(kind="stable")})
    steps["times"] = range(len(steps), 0, -1)
    steps["product"] = steps["p"] * steps["times"]
    steps["p_holm"] = steps["product"].clip(upper=1).cummax()
    return steps


adjusted = holm(contrasts["p"], reported(comparison, names, "p"))
contrasts["p_holm"] = adjusted["p_holm"].where(contrasts["p"].notna())
show(
    adjusted,
    {
        "p": ("p", "{:.5f}"),
        "Times": ("times", "{:.0f}"),
        "Product": ("product", "{:.4f}"),
        "p (Holm)": ("p_holm", "{:.4f}"),
    },
)
check("p values after Holm", figures(contrasts, "p_holm"), reported(comparison, names, "p_holm"))

# %% [markdown]
"""
Where subjects are flipped together, even the smallest possible p may be too large for Holm's first step. Such a
benchmark can only count after smaller p values elsewhere have used up the first steps, or never, where that p itself
is above alpha.
"""

# %%
few = contrasts[contrasts["clustered"] == 1].groupby("benchmark")[["clusters"]].max()
few["smallest"] = 2.0 ** (1 - few["clusters"])
few["first"] = few["smallest"] * len(adjusted)
show(
    few,
    {
        "Clusters": ("clusters", "{:.0f}"),
        "Smallest possible p": ("smallest", "{:.3g}"),
        "In Holm's first step": ("first", "{:.3g}"),
    },
)

# %% [markdown]
"""
### 7.5 What could have been seen: the minimal detectable difference

"Not distinguishable" is not "equal". The *minimal detectable difference* is the smallest true difference that one such
test would find with the power of the settings (usually 80%): the sum of two t factors, one for the test and one for
the power, times SE (Bloom 1995). A smaller difference may be there and is not seen.

The test has steps: it cannot give every p. So its own level is the largest p that it can give and that is not above
alpha; with alpha instead, more power would be promised than there is. The difference is unknown where no answer
changed, since SE is 0 there, and where the clusters are too few for any p below alpha.

With it the report's main table is complete.
"""


# %%
def level(frame: pd.DataFrame) -> float:
    """The largest p not above alpha that the sign flips can give."""
    _, totals, chances = flip(frame)
    if chances is None:
        return float(math.floor(alpha * (1 + draws)) / (1 + draws))
    possible = pd.Series(chances).groupby(np.round(-totals / 1e-9)).sum().cumsum()  # from the largest total down
    if possible.iloc[0] <= alpha:
        return float(possible[possible <= alpha].max())
    clusters = len(cluster_sums(frame["difference"], frame["cluster"]))
    return float(alpha) if 2.0 ** (1 - clusters) <= alpha else 0.0


contrasts["level"] = of_each(level)
t_test = stats.t.ppf(1 - contrasts["level"] / 2, contrasts["freedom"])
t_power = stats.t.ppf(power, contrasts["freedom"])
seen = (contrasts["stderr"] > 0) & (contrasts["level"] > 0)
contrasts["mde"] = ((t_test + t_power) * contrasts["stderr"]).where(seen)
signs = contrasts["difference"].map(lambda value: "better" if value > 0 else "worse")
contrasts["verdict"] = signs.mask(contrasts["p_holm"] > alpha, "not distinguishable at this size")
contrasts["verdict"] = contrasts["verdict"].mask(contrasts["p_holm"].isna(), NOT_MEASURED)
show(
    contrasts,
    {
        "Difference": ("difference", "{:+.1f}", 100),
        f"{1 - alpha:.0%} interval": (["low", "high"], "{:+.1f}", 100),
        "p": ("p", p_text),
        "p (Holm)": ("p_holm", p_text),
        "Detectable": text(contrasts, "mde", "{:.1f}", 100).mask(~seen & contrasts["stderr"].notna(), "unknown"),
        "Verdict": ("verdict",),
    },
)
check("minimal detectable differences", figures(contrasts, "mde"), reported(comparison, names, "mde"))

# %% [markdown]
"""
As a chart: filled marks are the differences that count after Holm's adjustment.
"""

# %%
chart, axes = plt.subplots(figsize=(9, 1.4 + 0.9 * max(1, len(benchmarks))))
for (method, benchmark), contrast in contrasts.dropna(subset="difference").iterrows():
    height = -benchmarks.index(benchmark) * (len(methods) + 1) - methods.index(method)
    low, middle, high = 100 * contrast[["low", "difference", "high"]]
    axes.plot([low, high], [height, height], color=COLOURS[method], linewidth=2)
    mark: Any = {"color": COLOURS[method], "markersize": 8, "markeredgewidth": 1.6}
    axes.plot(middle, height, MARKERS[method], **mark, label=METHOD_NAMES[method])
    if contrast["verdict"] not in ("better", "worse"):
        axes.plot(middle, height, MARKERS[method], **mark, markerfacecolor="white")
legend = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
axes.legend(legend.values(), legend.keys(), loc="upper left", bbox_to_anchor=(1, 1))
axes.axvline(0, color="black", linewidth=1)
axes.xaxis.grid(color="#dddddd")
ticks = [-place * (len(methods) + 1) - (len(methods) - 1) / 2 for place in range(len(benchmarks))]
axes.set_yticks(ticks, [NAMES.get(name, name) for name in benchmarks])
axes.set(xlabel="Difference to the base model [points]", title="Paired differences with their intervals")
draw(chart, "Differences to the base model with intervals")

# %% [markdown]
r"""
### 7.6 Would another training run say the same?

These intervals hold for *other questions* and the adapters that were trained. A second source of chance is the
training: with another seed, rows come in another order and adapters start from other numbers. With one seed nothing is
known about it.

With several, an interval can hold for new questions *and* new trainings. Its variance has two parts. $Q$ is the part
of the questions: how much the mean changes when questions (or clusters) are drawn again, with replacement. $T$ is the
part of the trainings. The spread $V$ of the seeds' means, divided by their number, would be it, if each mean were
exact; what the questions add to it is estimated by its growth $V^*$ in the drawings, and taken off: $T = \max(0, 2V -
V^*)$. The interval is the difference $\pm \sqrt{t_\nu^2 Q + t_{S-1}^2 T}$ for $S$ seeds. With three seeds $t_{S-1}$ is
4.3: few trainings say little about the next one.
"""


# %%
def over_seeds(frame: pd.DataFrame) -> tuple[float, float, float]:
    """Standard error and interval for new questions and new trainings; NaN with one seed."""
    own = [one for one in seeds if one in frame]
    if len(own) < 2 or math.isnan(standard_error(frame["difference"], frame["cluster"])):
        return math.nan, math.nan, math.nan
    by_run = np.array([frame[one] - frame["value"] for one in own])
    sums = np.array([cluster_sums(row, frame["cluster"]) for row in [*by_run, np.ones(len(frame))]])
    alike, often = np.unique(sums.T, axis=0, return_counts=True)  # clusters that are alike are drawn by their number
    clusters, random, drawn = sums.shape[1], np.random.default_rng(seed), []
    block = max(1, 4_000_000 // len(often))
    for start in range(0, draws, block):
        totals = random.multinomial(clusters, often / clusters, min(block, draws - start)) @ alike
        drawn.append(totals[:, :-1] / totals[:, -1:])
    means = np.concatenate(drawn)
    part_of_questions = clusters / (clusters - 1) * means.mean(axis=1).var()
    spread, grown = by_run.mean(axis=1).var(ddof=1) / len(own), means.var(axis=1, ddof=1).mean() / len(own)
    part_of_trainings = max(0.0, 2 * spread - grown)
    t_questions, t_trainings = stats.t.ppf(1 - alpha / 2, [freedom(frame), len(own) - 1])
    half = math.sqrt(t_questions**2 * part_of_questions + t_trainings**2 * part_of_trainings)
    middle = by_run.mean()
    return math.sqrt(part_of_questions + part_of_trainings), middle - half, middle + half


by_training = [over_seeds(paired[key]) if key in paired else (math.nan,) * 3 for key in contrasts.index]
trainings = pd.DataFrame(by_training, contrasts.index, columns=["stderr", "low", "high"])
told_seeds = {
    ((row["method"], row["benchmark"]), name): look_up(row, "seeds", name)
    for row in tests or []
    for name in trainings.columns
}
if len(seeds) > 1:
    for one in seeds:
        known = [one in paired.get(key, ()) for key in contrasts.index]
        trainings.loc[known, one] = [(frame[one] - frame["value"]).mean() for frame in paired.values() if one in frame]
    by_seed = {f"Seed {one}": (one, "{:+.1f}", 100) for one in seeds}
    show(trainings, by_seed | {"Interval over seeds and questions [points]": (["low", "high"], "{:+.1f}", 100)})
else:
    print(f"The spread between trainings: {NOT_MEASURED}, there is one seed.")
check("intervals over seeds", figures(trainings, "stderr", "low", "high"), told_seeds)

# %% [markdown]
"""
### 7.7 The methods against each other

Whether one method is better than another cannot be read from their differences to the base model: "better than base"
beside "not distinguishable from base" is no proof that the two differ. So pair the others' answers with those of the
LoRA adapter of the same seed, and go through the same steps. Holm's adjustment runs over these tests alone.
"""

# %%
others = [method for method in methods if method != "sft"]
rivals: dict[tuple[str, str], pd.DataFrame] = {}
between = pd.DataFrame(index=pd.MultiIndex.from_product([others, benchmarks], names=["method", "benchmark"]))
for method, benchmark in between.index:
    both = [one for one in seeds if {(method, one, benchmark), ("sft", one, benchmark)} <= set(answers)]
    if not both or gone & {(name, one, benchmark) for name in (method, "sft") for one in seeds}:
        continue
    first = answers["sft", both[0], benchmark]
    columns = {
        (name, one): answers[name, one, benchmark]["value"].reindex(first.index)
        for one in both
        for name in (method, "sft")
    }
    frame = pd.DataFrame({"cluster": first["cluster"]})
    frame["difference"] = sum(columns[method, one] - columns["sft", one] for one in both) / len(both)
    frame = frame.dropna(subset="difference")
    if len(frame):
        rivals[method, benchmark] = frame


def of_both(figure: Callable[[pd.DataFrame], Any]) -> pd.Series:
    """A figure of each pair of methods; NaN where there is nothing to compare."""
    figures = [figure(rivals[key]) if key in rivals else None for key in between.index]
    return pd.Series(figures, between.index, dtype=float)


told_between = look_up(metrics["comparison"], "between")
between["difference"] = of_both(lambda frame: frame["difference"].mean())
between["stderr"] = of_both(lambda frame: standard_error(frame["difference"], frame["cluster"]))
half = between["stderr"] * stats.t.ppf(1 - alpha / 2, of_both(freedom))
between["low"], between["high"] = between["difference"] - half, between["difference"] + half
between["p"] = of_both(sign_flip_p)
holm_between = holm(between["p"], reported(told_between, names, "p"))["p_holm"]
between["p_holm"] = holm_between.where(between["p"].notna())
between_level = of_both(level)
factors = stats.t.ppf(1 - between_level / 2, of_both(freedom)) + stats.t.ppf(power, of_both(freedom))
findable = (between["stderr"] > 0) & (between_level > 0)
between["mde"] = (factors * between["stderr"]).where(findable)
show(
    between,
    {
        "Difference to LoRA": ("difference", "{:+.1f}", 100),
        f"{1 - alpha:.0%} interval": (["low", "high"], "{:+.1f}", 100),
        "p": ("p", p_text),
        "p (Holm)": ("p_holm", p_text),
        "Detectable": text(between, "mde", "{:.1f}", 100).mask(~findable & between["stderr"].notna(), "unknown"),
    },
)
columns_between = ("difference", "low", "high", "p", "p_holm", "mde")
check("the methods against LoRA", figures(between, *columns_between), reported(told_between, names, *columns_between))

# %% [markdown]
"""
## 8. Beyond the benchmarks

**Win rate.** A benchmark asks for letters; people read texts. So a reward model scored the methods' answers to
held-out instructions, which lie in `answers/<method>/answers.jsonl`. The win rate is the share of instructions on
which the method's answer scores higher than the base model's, where a tie counts half; 50% is no difference. Interval
and test are those of section 7, with the outcome less one half (+½ a win, −½ a loss) in place of the difference.

Reward models like long answers. The rate *at equal length* asks what it would be if both answers were equally long: a
logistic regression models the chance of a win by the difference in length, and is read off where that difference is
zero (after Dubois et al. 2024, arXiv 2404.04475). If it lies much nearer to 50% than the plain rate, it was length
that won.
"""


# %%
def at_equal_length(outcome: Any, longer: Any, instruction: pd.Series) -> tuple[float, float, float]:
    """Win rate at equal length with its interval; NaN where the regression has no finite fit.

    The interval is that of the intercept, with the cluster-robust ("sandwich") covariance.
    """
    spread = longer.std()
    if not spread or outcome.min() == outcome.max():
        return math.nan, math.nan, math.nan
    design, weights = np.column_stack([np.ones(len(outcome)), longer / spread]), np.zeros(2)
    for _ in range(50):  # Newton's method
        chance = 1 / (1 + np.exp(-design @ weights))
        information = (design * (chance * (1 - chance))[:, None]).T @ design
        try:
            step = np.linalg.solve(information, design.T @ (outcome - chance))
        except np.linalg.LinAlgError:
            return math.nan, math.nan, math.nan
        weights = weights + step
        if not np.abs(weights).max() <= 20:
            return math.nan, math.nan, math.nan
        if np.abs(step).max() < 1e-9:
            break
    else:
        return math.nan, math.nan, math.nan
    pulls = np.column_stack([cluster_sums(pull, instruction) for pull in (design * (outcome - chance)[:, None]).T])
    inverse, count = np.linalg.inv(information), len(pulls)
    stderr = math.sqrt(max(0.0, count / (count - 1) * (inverse @ pulls.T @ pulls @ inverse)[0, 0]))
    logits = weights[0] + stderr * stats.norm.ppf(1 - alpha / 2) * np.array([0, -1, 1])
    middle, low, high = 1 / (1 + np.exp(-logits))
    return float(middle), float(low), float(high)


def read_texts(method: str, one: int) -> pd.DataFrame | None:
    """Score, words, and whether it was cut off, of each answer; None where there are none."""
    rows = rows_of(f"answers/{folder_of(method, one)}/answers.jsonl")
    if not rows or (method, one) in refused("tune", "judge"):
        return None
    table = pd.DataFrame(rows).set_index("id")
    table = table[table["score"].notna() | (table["output"] == "")].copy()  # what could not be scored is left out
    table["words"] = table["output"].str.split().str.len()
    table["cut"] = table["finish_reason"] == "length"
    return table.assign(score=table["score"].astype(float).fillna(-math.inf))[["score", "words", "cut"]]


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """Mean difference, interval and p, as in section 7."""
    mean, error = frame["difference"].mean(), standard_error(frame["difference"], frame["cluster"])
    half = stats.t.ppf(1 - alpha / 2, freedom(frame)) * error
    return {"difference": mean, "low": mean - half, "high": mean + half, "p": sign_flip_p(frame)}


def told_of(name: str, *columns: str) -> dict[Any, Any]:
    """What a metrics file reports by method."""
    return reported(look_up(metrics[name], "rows"), ["method"], *columns)


# %%
rates = pd.DataFrame(index=pd.Index(methods, name="method"))
base_texts, had = read_texts("base", seed) if methods else None, told_of("win_rates", "seeds")
for method in methods:
    texts = [found for one in seeds if (found := read_texts(method, one)) is not None]
    if base_texts is None or not texts or (had.get((method, "seeds")) or len(texts)) != len(texts):
        continue
    shared = [name for name in base_texts.index if all(name in table.index for table in texts)]
    base, ours = base_texts.loc[shared], [table.loc[shared] for table in texts]
    outcomes = [(np.sign(np.nan_to_num(table["score"] - base["score"])) + 1) / 2 for table in ours]
    told = summary(pd.DataFrame({"difference": sum(outcomes) / len(ours) - 0.5, "cluster": None}, index=shared))
    every = np.column_stack(outcomes).ravel()
    longer = np.column_stack([table["words"] - base["words"] for table in ours]).ravel().astype(float)
    equal = at_equal_length(every, longer, pd.Series(np.repeat(shared, len(ours))))
    rates.loc[method, ["wins", "ties", "losses"]] = [(every == outcome).sum() for outcome in (1, 0.5, 0)]
    rates.loc[method, ["win_rate", "p"]] = 0.5 + told["difference"], told["p"]
    rates.loc[method, ["low", "high"]] = np.clip([0.5 + told["low"], 0.5 + told["high"]], 0, 1)
    rates.loc[method, [f"{name}_length_controlled" for name in ("win_rate", "low", "high")]] = equal
    rates.loc[method, "mean_words"] = np.mean([table["words"].mean() for table in ours])
    rates.loc[method, "unfinished"] = np.mean([table["cut"].mean() for table in ours])
counted = ["wins", "ties", "losses", "win_rate", "low", "high", "p", "mean_words", "unfinished"]
counted += [f"{name}_length_controlled" for name in ("win_rate", "low", "high")]
rates = rates.reindex(columns=counted)
rates["p_holm"] = holm(rates["p"], told_of("win_rates", "p"))["p_holm"].where(rates["p"].notna())
show(
    rates,
    {
        "Wins": ("wins", "{:,.0f}"),
        "Ties": ("ties", "{:,.0f}"),
        "Losses": ("losses", "{:,.0f}"),
        "Win rate": ("win_rate", "{:.1%}"),
        "Interval": (["low", "high"], "{:.1%}"),
        "p (Holm)": ("p_holm", p_text),
        "At equal length": ("win_rate_length_controlled", "{:.1%}"),
        "Its interval": (["low_length_controlled", "high_length_controlled"], "{:.1%}"),
        "Words": ("mean_words", "{:.1f}"),
        "Cut off": ("unfinished", "{:.0%}"),
    },
)
check("win rates", figures(rates, *rates.columns), told_of("win_rates", *rates.columns), tolerance=1e-6)

# %% [markdown]
"""
**Forgetting.** Who learns to answer may unlearn to write. The loss on general text that has nothing to do with the
training was measured for each model, in bits a byte; a positive difference to the base model's is forgetting. It is
paired again, document by document.
"""

# %%
asked = look_up(evaluation, "forgetting", "metric")


def bits_per_byte(method: str, one: int) -> pd.Series:
    """Of each document: its log-likelihood [nats] over its length [bytes]."""
    samples = samples_of(method, one, "forgetting") if asked else []
    pairs = {row["doc_hash"]: row["metrics"][asked] for row in samples}
    return pd.Series({name: -nats / (size * math.log(2)) for name, (nats, size) in pairs.items()}, dtype=float)


forgot = pd.DataFrame(index=pd.Index(methods, name="method"))
base_bits, had = bits_per_byte("base", seed), told_of("forgetting", "seeds")
for method in methods:
    bits = [found for one in seeds if len(found := bits_per_byte(method, one))]
    if not len(base_bits) or not bits or (had.get((method, "seeds")) or len(bits)) != len(bits):
        continue
    grown = (sum(bits) / len(bits) - base_bits).reindex(base_bits.index).dropna()
    forgot.loc[method, ["documents", "baseline_value"]] = len(grown), base_bits[grown.index].mean()
    told = summary(pd.DataFrame({"difference": grown, "cluster": None}))
    forgot.loc[method, list(told)] = list(told.values())
counted = ["documents", "baseline_value", "difference", "low", "high", "p"]
forgot = forgot.reindex(columns=counted)
forgot["value"] = forgot["baseline_value"] + forgot["difference"]
forgot["p_holm"] = holm(forgot["p"], told_of("forgetting", "p"))["p_holm"].where(forgot["p"].notna())
show(
    forgot,
    {
        "Documents": ("documents", "{:,.0f}"),
        "Base model [bits a byte]": ("baseline_value", "{:.4f}"),
        "Adapted [bits a byte]": ("value", "{:.4f}"),
        "Difference": ("difference", "{:+.4f}"),
        "Interval": (["low", "high"], "{:+.4f}"),
        "p (Holm)": ("p_holm", p_text),
    },
)
check("forgetting", figures(forgot, *forgot.columns), told_of("forgetting", *forgot.columns))

# %% [markdown]
"""
**People.** Where people compared answers without knowing whose they were, their verdicts make a win rate too. An
instruction on which both gave the same answer was not shown and is a tie. Where each instruction was rated once, the
rate follows from the counts.
"""

# %%
counted = ["pairs", "identical", "ratings", "wins", "ties", "losses", "win_rate", "low", "high", "p_holm"]
votes = pd.DataFrame(look_up(metrics["human"], "rows") or [], columns=["method", *counted]).set_index("method")
votes = votes.astype(float)
one_each = votes["ratings"] + votes["identical"].fillna(0) == votes["pairs"]
votes["again"] = ((votes["wins"] + votes["ties"] / 2) / votes["pairs"]).where(one_each)
show(
    votes,
    {
        "Ratings": ("ratings", "{:,.0f}"),
        "Not shown": ("identical", "{:,.0f}"),
        "Wins": ("wins", "{:,.0f}"),
        "Ties": ("ties", "{:,.0f}"),
        "Losses": ("losses", "{:,.0f}"),
        "Win rate": ("win_rate", "{:.1%}"),
        "Interval": (["low", "high"], "{:.1%}"),
        "p (Holm)": ("p_holm", p_text),
    },
)
check("win rates by people, of one rating each", votes["again"].to_dict(), votes["win_rate"].to_dict())

# %% [markdown]
"""
**Other evaluations.** Results that were measured elsewhere and put beside the study are shown as they were given:
nothing here can recompute them.
"""

# %%
given = pd.DataFrame(
    [
        {"method": row.get("method"), "evaluation": told.get("title"), **row}
        for told in look_up(metrics["attached"], "results") or []
        for row in told.get("scores") or []
    ],
    columns=["method", "evaluation", "metric", "value", "stderr"],
).set_index(["method", "evaluation"])
show(given, {"Metric": ("metric",), "Value": ("value", "{:g}"), "Standard error": ("stderr", "{:g}")})

# %% [markdown]
"""
## 9. Efficiency

What each method costs, from the records of its training (in `metrics/training.json`) and of its evaluation
(`results/<method>/speed.json` and `<benchmark>.seconds.json`). Inference speed is the number of tokens in one batch
over the *median* of several repeats, which one slow repeat cannot spoil. *Merged* is the speed with the adapter added
to the weights; a soft prompt cannot be merged. Of memory, *allocated* is what tensors took at the peak of training,
*reserved* what the framework had asked of the GPU, and *process* all of the process. The first is the one to compare.
"""


# %%
def speed_of(speed: Any, repeats: str) -> float | None:
    """Tokens a second: rows times new tokens over the median of the repeats."""
    seconds, each, tokens = (look_up(speed, name) for name in (repeats, "rows", "new_tokens"))
    return float(each * tokens / np.median(seconds)) if seconds and each and tokens else None


def costs_of(method: str, one: int) -> dict[str, Any]:
    """What a run cost."""
    run, folder = training.get((method, one)), f"results/{folder_of(method, one)}"
    folder = "" if (method, one) in refused("tune", "evaluate") else folder  # where nothing is found
    speed = load(f"{folder}/speed.json")
    seconds = [look_up(load(f"{folder}/{name}.seconds.json"), "seconds") for name in benchmarks]
    trainable, total = (look_up(run, "metrics", f"{kind}_parameters") for kind in ("trainable", "total"))
    memory = look_up(run, "cost", "peak_memory_bytes")
    memory = memory if isinstance(memory, dict) else {"allocated": memory}
    return {
        "trainable_parameters": trainable,
        "trainable_percent": 100 * trainable / total if trainable is not None and total else None,
        "peak_memory_bytes": memory.get("allocated"),
        "peak_memory_reserved_bytes": memory.get("reserved"),
        "peak_memory_process_bytes": memory.get("process"),
        "train_seconds": look_up(run, "cost", "train_seconds"),
        "train_tokens_per_second": look_up(run, "cost", "train_tokens_per_second"),
        "inference_tokens_per_second": speed_of(speed, "seconds"),
        "inference_tokens_per_second_merged": speed_of(speed, "seconds_merged"),
        "adapter_bytes": look_up(run, "cost", "adapter_bytes"),
        "evaluation_seconds": None if None in seconds else sum(seconds),
    }


costs = pd.DataFrame([costs_of(*run) for run in runs], run_index, columns=list(costs_of("base", 0)), dtype=float)
MIB, KIB = 2**-20, 2**-10
titles: dict[str, Any] = {
    "Trainable": ("trainable_parameters", "{:,.0f}"),
    "Share [%]": ("trainable_percent", "{:.4f}"),
    "Peak memory [MiB]": ("peak_memory_bytes", "{:,.1f}", MIB),
    "Training [s]": ("train_seconds", "{:,.1f}"),
    "Training tokens/s": ("train_tokens_per_second", "{:,.0f}"),
    "Merged tokens/s": ("inference_tokens_per_second_merged", "{:,.0f}"),
    "Adapter [KiB]": ("adapter_bytes", "{:,.1f}", KIB),
}
is_base = run_index.get_level_values("method") == "base"
of_adapters = {title: text(costs, *told).mask(is_base, "none") for title, told in titles.items()}
of_all = {
    "Inference tokens/s": ("inference_tokens_per_second", "{:,.0f}"),
    "Evaluation [s]": ("evaluation_seconds", "{:,.1f}"),
}
show(costs, of_adapters | of_all)
kinds = {"Allocated": "peak_memory_bytes", "Reserved": "peak_memory_reserved_bytes"}
kinds |= {"Process": "peak_memory_process_bytes"}
show(costs[~is_base], {f"{kind} [MiB]": (name, "{:,.1f}", MIB) for kind, name in kinds.items()})
how = [look_up(run, "cost", "peak_memory_method") for run in training.values()]
display(Markdown(f"How memory was measured: {next(filter(None, how), NOT_MEASURED)}."))
spent = reported(look_up(metrics["efficiency"], "runs"), ["method", "seed"], *costs.columns)
check("cost figures", figures(costs, *costs.columns), spent)

# %% [markdown]
"""
## 10. Quality against cost

One number for a method's quality is the mean of its differences over the benchmarks. The benchmarks have different
questions, so their errors are independent: the variance of the mean is the sum of their variances divided by the
square of their number. Costs are relative to LoRA's. DPO goes on from the LoRA adapter, so its time is both trainings'
and its memory the larger of the two. In the chart, a method that lies above *and* left of another is better in both
respects.

These figures stand in `report.md` only, with two digits, so they are held against its text.
"""


# %%
def printed(title: str) -> dict[str, list[str]]:
    """The table of report.md that has a column of this title, by its first column; empty where there is none."""
    path = FOLDER / "report.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    start = next((number for number, line in enumerate(lines) if f"| {title} |" in line), len(lines))
    table = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        table[name] = cells
    return table


gains = pd.DataFrame(index=pd.Index(methods, name="method"))
for method in methods:
    own = contrasts.loc[method]
    gains.loc[method, "gain"] = own["difference"].mean(skipna=False)
    gains.loc[method, "stderr"] = math.sqrt((own["stderr"] ** 2).sum(skipna=False)) / len(own)
price = costs[run_index.get_level_values("seed") == seed].droplevel("seed").reindex(methods)
if methods:
    both_trainings = price.loc[["sft", "dpo"]]
    price.loc["dpo", "train_seconds"] = both_trainings["train_seconds"].sum(skipna=False)
    price.loc["dpo", "peak_memory_bytes"] = both_trainings["peak_memory_bytes"].max(skipna=False)
for name, cost in (("memory", "peak_memory_bytes"), ("time", "train_seconds")):
    gains[name] = price[cost] / price[cost].get("sft", math.nan)
gains = gains.reindex(columns=["gain", "stderr", "memory", "time"])
show(
    gains,
    {
        "Mean difference [points]": ("gain", "{:+.2f}", 100),
        "Standard error": ("stderr", "{:.2f}", 100),
        "Memory, LoRA = 1": ("memory", "{:.2f}"),
        "Time, LoRA = 1": ("time", "{:.2f}"),
    },
)
lines = printed("Mean difference [points]")
cells = pd.DataFrame(
    [lines.get(METHOD_NAMES[method], [None] * 4) for method in methods], gains.index, columns=gains.columns
)
numbers = cells.apply(pd.to_numeric, errors="coerce")
scaled = gains * [100, 100, 1, 1]
check("mean differences and ratios", figures(scaled, *gains), figures(numbers, *gains), tolerance=0.0051)

# %%
chart, panels = plt.subplots(1, 3, figsize=(10.5, 3.8), sharey=True)
shown = {
    "trainable_parameters": ("Trainable parameters (log scale)", 1),
    "peak_memory_bytes": ("Peak training memory [MiB]", MIB),
    "train_seconds": ("Training time [s], DPO's with LoRA's", 1),
}
for axes, (name, (title, factor)) in zip(panels, shown.items(), strict=True):
    axes.axhline(0, color=COLOURS["base"], linestyle="--", label=METHOD_NAMES["base"])
    for method in methods:
        x, gain, error = factor * price[name][method], 100 * gains["gain"][method], 196 * gains["stderr"][method]
        if not math.isnan(x + gain):
            style = {"color": COLOURS[method], "markersize": 9, "capsize": 4, "label": METHOD_NAMES[method]}
            axes.errorbar(x, gain, error, fmt=MARKERS[method], **style)
    axes.set(xlabel=title)
    axes.margins(x=0.25)
    axes.grid(color="#dddddd")
if price["trainable_parameters"].notna().any():
    panels[0].set_xscale("log")
    panels[0].tick_params(axis="x", which="minor", labelbottom=False)
panels[0].set(title="Quality against cost", ylabel="Mean difference [points],\n± 1.96 standard errors")
legend = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
chart.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=5)
draw(chart, "Mean difference against what a method costs")

# %% [markdown]
"""
## 11. Recommendations

Which method for which use follows from rules that were fixed before the figures were known. A method is **eligible**
if it was compared on every benchmark, is significantly worse on none, and lowered its loss on test rows. Among the
eligible the cheapest is recommended (DPO with LoRA's costs, as above), if it lies below the next by the share `LEAD`:
smaller leads come and go between repeated runs.

For answers that a reward model prefers, a method must win against the base model's (after Holm), at equal length too,
be worse on no benchmark, and its interval must lie above the win rates of all other such methods. Where the rules do
not decide, no method is recommended.
"""

# %%
verdicts = {method: list(contrasts.loc[method, "verdict"]) for method in methods}
harmless = [method for method in methods if verdicts[method] and not {"worse", NOT_MEASURED} & set(verdicts[method])]
test = losses[losses.index.get_level_values("seed") == seed].droplevel("seed")
eligible = [method for method in harmless if test["test_loss_after"][method] < test["test_loss_before"][method]]


def cheapest(cost: str) -> str | None:
    """The eligible method that is cheapest by enough; None where one was not measured, or the lead is too small."""
    known = price[cost][eligible].sort_values(kind="stable")
    if known.empty or known.isna().any() or (len(known) > 1 and known.iloc[0] > (1 - LEAD) * known.iloc[1]):
        return None
    return str(known.index[0])


winners = [method for method in harmless if "better" in verdicts[method]]
ahead = rates[(rates["p_holm"] <= alpha) & (rates[["low", "low_length_controlled"]].min(axis=1, skipna=False) > 0.5)]
ahead = ahead.loc[[method for method in ahead.index if method in harmless]]
liked = [method for method in ahead.index if (ahead["low"][method] > ahead["win_rate"].drop(method)).all()]
picks = {
    "Tightest training memory": cheapest("peak_memory_bytes"),
    "Shortest training time": cheapest("train_seconds"),
    "Best benchmark quality": winners[0] if len(winners) == 1 else None,
    "Many adapters served at once": cheapest("adapter_bytes"),
    "Answers that a reward model prefers": liked[0] if len(liked) == 1 else None,
}
recommended = {use: METHOD_NAMES[pick] if pick else "the figures do not decide" for use, pick in picks.items()}
table = pd.DataFrame({"pick": list(recommended.values())}, index=pd.Index(recommended, name="use case"))
show(table, {"Recommended": ("pick",)})
print("Eligible:", ", ".join(METHOD_NAMES[method] for method in eligible) or "none")
as_reported = {use: cells[0] == recommended[use] for use, cells in printed("Use case").items() if use in recommended}
spent_on = ["peak_memory_bytes", "train_seconds", "adapter_bytes"]
rated = [method for (method, _), p in told_of("win_rates", "p").items() if p is not None]
inputs = [
    contrasts["p_holm"],
    rates["p_holm"].reindex(rated),
    price[spent_on],
    test[["test_loss_before", "test_loss_after"]],
]
# where something is missing, the report may have known more
complete = bool(methods) and all(bool(known.notna().to_numpy().all()) for known in inputs)
check("recommendations, in report.md", dict.fromkeys(recommended, True) if complete else {}, as_reported)

# %% [markdown]
"""
## 12. The requirements' checklist

Each item of the requirements has a limit and a measured figure; whether it passes is decided here again. An item
without a limit or without a figure is not decided: that is neither a pass nor a failure.
"""

# %%
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}


def passes(limit: str | None, measured: Any) -> bool | None:
    """Whether a figure keeps its limit; None where there is no figure, or no limit that this can read."""
    if measured is None:
        return None
    match (limit or "").split():
        case [low, "to", high]:
            return bool(float(low) <= measured <= float(high))
        case [sign, number] if sign in COMPARISONS:
            return bool(COMPARISONS[sign](measured, float(number.replace(",", ""))))
        case ["all"] | ["there"] | ["converged"]:
            return bool(measured == 1)
    return None


def measured_text(value: Any) -> str:
    """A measured value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


items = look_up(metrics["checklist"], "items") or []
names = ["criterion", "threshold", "measured"]
table = pd.DataFrame(items, columns=["id", *names], dtype=object).set_index("id").rename_axis("item")
table["outcome"] = [passes(item["threshold"], item["measured"]) for item in items]
outcome = table["outcome"].map({True: "pass", False: "FAIL"}).fillna("not decided")
show(
    table,
    {
        "Criterion": ("criterion",),
        "Required": table["threshold"].fillna("none stated"),
        "Measured": ("measured", measured_text),
        "Outcome": outcome,
    },
)
tally = outcome.value_counts().reindex(["pass", "FAIL", "not decided"], fill_value=0)
print(f"{tally.iloc[0]} of {len(items)} pass, {tally.iloc[1]} fail, {tally.iloc[2]} are not decided.")
check("outcomes of the checklist", table["outcome"].to_dict(), {item["id"]: item["passed"] for item in items})

# %% [markdown]
"""
## 13. What it was made with

Package versions as the stages recorded them, several where stages were made with different ones. Other versions may
give figures that differ in their last digits.
"""

# %%
versions: dict[str, set[str]] = {}
machines: set[str] = set()
for told in (look_up(metrics["provenance"], "stages") or {}).values():
    machines |= {look_up(told, "hardware", "processor") or NOT_MEASURED}
    for package, version in (look_up(told, "packages") or {}).items():
        versions.setdefault(package, set()).add(version)
packages = pd.Index(sorted(versions), name="package")
show(pd.DataFrame({"version": [", ".join(sorted(versions[name])) for name in packages]}, packages), {"": ("version",)})
print("Machine:", "; ".join(sorted(machines)) or NOT_MEASURED)

# %% [markdown]
"""
## 14. What was confirmed

The notebook got here, so all figures that the checks above compared agree. A check that compared nothing confirms
nothing: it says *not measured*.
"""

# %%
table = pd.DataFrame({"figures": list(checked.values())}, index=pd.Index(checked, name="check"))
show(table, {"Figures compared": ("figures", lambda number: f"{number}" if number else NOT_MEASURED)})
print(f"{sum(checked.values())} figures recomputed and compared: all agree.")
