"""`evaluation/report.md`: six sections, written from the files under `evaluation/` and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.settings import Settings
from storage.files import write_text
from storage.workspace import Workspace
from tasks.evaluate.compare import REFERENCE, figure, verdict
from tasks.evaluate.results import BASE, TUNED, study_methods, study_seeds
from tasks.report.attached import attached_section
from tasks.report.beyond import forgetting_section, refused_section, win_rate_section
from tasks.report.checklist import RECOMMENDATIONS, SECTIONS, write_checklist
from tasks.report.human import human_section
from tasks.report.metrics import load_metrics, own_runs, write_metrics
from tasks.report.recommend import mean_gain, path_costs, recommendations
from tasks.report.tables import (
    CHECKLIST_HEADER,
    arxiv,
    chart,
    checklist_rows,
    checklist_summary,
    code,
    contrast_rows,
    efficiency_rows,
    escape,
    score_rows,
    source,
    table,
    verdict_grid,
)
from tasks.report.words import (
    NOT_MEASURED,
    benchmark_name,
    count,
    duration,
    interval_name,
    method_name,
    number,
    percent,
    plural,
    points,
    size,
    study_command,
)
from tasks.tune.methods import METHODS

__all__ = ["render_report", "write_metrics", "write_report"]

NAMES = (
    *("comparison", "efficiency", "tests", "win_rates", "forgetting", "human", "attached"),
    *("dataset", "training", "provenance", "checklist"),
)
RULES = {
    "empty": "no word in the instruction or the output",
    "truncated": "the output was cut off before it ended",
    "length": "words of the output or the instruction outside the limits",
    "refusal": "the output declines to answer",
    "unsafe": "a blatant request for harm, or harm said outright",
    "contaminated": "a benchmark's question is repeated in it",
    "repetition": "a unit repeated in a row",
    "language": "not English",
    "diversity": "an instruction too similar to a better row's",
}

Metrics = Mapping[str, Any]


def write_report(workspace: Workspace, settings: Settings) -> Path:
    """Write the report; the checklist, which also judges the report, is brought up to date in between."""
    path = workspace.evaluation / "report.md"
    for _ in range(2):
        write_text(path, render_report(workspace, settings))
        write_checklist(workspace, settings)
    write_text(path, render_report(workspace, settings))
    return path


def render_report(workspace: Workspace, settings: Settings) -> str:
    """The report's text from the metrics files."""
    metrics = {name: load_metrics(workspace, name) for name in NAMES}
    sections = dict(
        zip(
            SECTIONS,
            (
                _dataset(metrics, settings),
                _methods(metrics, settings),
                _training(metrics, settings),
                _results(metrics, settings),
                _analysis(metrics, settings),
                _conclusion(metrics, settings),
            ),
            strict=True,
        )
    )
    *names, last = "LoRA", "prompt tuning", "DPO", *_further(settings)
    ways = f"{_ways(settings)} ways: {', '.join(names)} and {last}"
    title = f"# Adapting one language model in {ways} on self-written instruction data"
    intro = (
        f"Profile `{settings.profile}`, seed {settings.seed}. {_seeds(settings)}Every table and chart names the file "
        "it was made from; paths are relative to this report's folder, `evaluation/`. A figure that was not taken is "
        f'written "{NOT_MEASURED}".'
    )
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    return (
        f"{title}\n\n{intro}\n\n{_summary(metrics, settings)}\n\n{body}\n\n"
        f"## Requirements checklist\n\n{_checklist(metrics)}\n\n"
        f"## Reproduction\n\n{_reproduction(metrics, settings)}\n"
    )


def _further(settings: Settings) -> list[str]:
    return [method_name(method) for method in study_methods(settings) if method not in TUNED]


def _ways(settings: Settings) -> str:
    return "three" if not _further(settings) else f"{len(study_methods(settings))}"


def _seeds(settings: Settings) -> str:
    seeds = study_seeds(settings)
    if len(seeds) == 1:
        return ""
    return (
        f"Each method was trained with the seeds {', '.join(map(str, seeds))} on the same data. Differences to the "
        "base model are means over these seeds; where one seed is shown and none is named, it is seed "
        f"{settings.seed}. "
    )


def _corner(settings: Settings) -> str:
    """The corner of a table that shows one seed of several."""
    return f"Seed {settings.seed}" if settings.tuning.seeds > 1 else ""


def _summary(metrics: Metrics, settings: Settings) -> str:
    lines = []
    for method in study_methods(settings):
        lines.append(f"- **{method_name(method)}**: {_verdict_sentence(metrics, settings, method)}")
    parts = ["**In short**, against the base model on the same questions:", "\n".join(lines)]
    wins = [row for row in figure(metrics["win_rates"], "rows") or [] if row["win_rate"] is not None]
    if wins:
        told = ", ".join(f"{method_name(row['method'])} {_win(row, settings.evaluation.alpha)}" for row in wins)
        parts.append(
            f"Win rates against the base model's answers by the reward model, on held-out instructions (ties count "
            f"half, 50% is no difference): {told}."
        )
    return "\n\n".join(parts)


def _win(row: Metrics, alpha: float) -> str:
    decided = row["p_holm"] is not None and row["p_holm"] <= alpha
    return percent(row["win_rate"]) + ("" if decided else " (may be chance)")


def _verdict_sentence(metrics: Metrics, settings: Settings, method: str) -> str:
    rows = [row for row in figure(metrics["comparison"], "contrasts") or [] if row["method"] == method]
    found: dict[str, list[str]] = {}
    for row in rows:
        told = benchmark_name(row["benchmark"])
        if row["difference"] is not None:
            told += f" ({points(row['difference'])} points)"
        found.setdefault(verdict(row, settings.evaluation.alpha), []).append(told)
    if not found:
        return f"{NOT_MEASURED}."
    order = ("better", "worse", "not distinguishable at this size", NOT_MEASURED)
    parts = [f"{words} on {', '.join(found[words])}" for words in order if words in found]
    return "; ".join(parts) + "."


def _dataset(metrics: Metrics, settings: Settings) -> str:
    data = metrics["dataset"]
    raw, preference = figure(data, "stats", "raw"), figure(data, "stats", "preference")
    rows = figure(data, "rows")
    models = settings.models
    facts = [
        ("Raw instruction and response pairs", count(figure(rows, "raw"))),
        ("Share of attempts that gave a complete pair", percent(figure(raw, "success_rate"))),
        ("Mean instruction length [words]", number(figure(raw, "mean_instruction_words"), 1)),
        ("Mean response length [words]", number(figure(raw, "mean_response_words"), 1)),
        ("Tokens drawn for them", count(figure(data, "cost", "raw", "tokens"))),
        ("Time of drawing them", duration(figure(data, "cost", "raw", "seconds"))),
        ("Rows after filtering", count(figure(rows, "filtered"))),
        ("Mean quality score of the kept rows", number(figure(data, "quality", "mean"))),
        ("SFT training / validation / test rows", _splits(rows, "sft")),
        ("Preference pairs", count(figure(rows, "pairs"))),
        ("DPO training / validation / test pairs", _splits(rows, "dpo")),
        ("Mean score margin of a pair [reward units]", number(figure(data, "margins", "spread", "mean"))),
        ("Spearman correlation of score and length", number(figure(preference, "length", "spearman_score_words"))),
        ("Spearman correlation of score and quality score", number(figure(preference, "quality", "spearman"))),
    ]
    steps = figure(data, "waterfall") or []
    drops = [
        [step["step"], RULES.get(step["step"], ""), count(step["dropped"]), count(step["rows"])]
        for step in steps
        if step["step"] not in ("raw", "kept")
    ]
    domains, kept = figure(data, "domains") or {}, figure(data, "domains_kept") or {}
    parts = figure(data, "quality_parts") or {}
    return "\n\n".join(
        [
            f"One base model is adapted in {_ways(settings)} ways, and what each way costs is held against what it "
            f"gains. The training data is synthetic. {code(models.teacher.name)} writes both sides of each "
            f"conversation after the Magpie method ({arxiv('2406.08464')}): given only the part of the chat "
            "template that precedes a user's message, it continues with an instruction, and then answers it. The five "
            "filter rules of the requirements and a few more decide which pairs are kept; a rule that dropped none is "
            f"not listed. Three models ({', '.join(code(model.name) for model in models.responders)}) answer the kept "
            f"instructions again, {code(models.reward.name)} scores the answers, and the best and the worst form a "
            "preference pair.",
            table(("Figure", "Value"), facts, "metrics/dataset.json"),
            chart("drop_waterfall", "Rows left after each filter rule", "metrics/dataset.json"),
            table(("Rule", "Drops a row when", "Dropped", "Rows left"), drops, "metrics/dataset.json", "waterfall"),
            table(
                ("Domain", "Raw rows", "Kept rows"),
                [(name, count(domains[name]), count(kept.get(name, 0))) for name in sorted(domains)],
                "metrics/dataset.json",
            ),
            table(
                ("Part of the quality score", "Weight", "Mean over the kept rows"),
                [
                    (part, number(getattr(settings.filter.quality, part, None), 2), number(mean))
                    for part, mean in parts.items()
                ],
                "metrics/dataset.json",
                "quality_parts",
            ),
            *_example(metrics),
            chart("preference_margins", "Score margins of the preference pairs", "metrics/dataset.json"),
            _responders(preference),
        ]
    )


def _splits(rows: Any, name: str) -> str:
    return " / ".join(count(figure(rows, f"{name}_{split}")) for split in ("train", "val", "test"))


def _example(metrics: Metrics) -> list[str]:
    """One training row and one pair, as they are trained on."""
    shown = figure(metrics["dataset"], "example") or {}
    fields = ("instruction", "output", "prompt", "chosen", "rejected")
    lines = [f"- {name}: {escape(shown[name])}" for name in fields if shown.get(name)]
    if not lines:
        return []
    told = "An example, the first row and the first pair of the training splits:"
    return [told, "\n".join(lines), source("metrics/dataset.json", "example")]


def _responders(preference: Any) -> str:
    models = figure(preference, "models") or {}
    rows = [
        (
            name,
            number(figure(told, "score", "mean"), 2),
            f"{number(figure(told, 'score', 'low'), 2)} to {number(figure(told, 'score', 'high'), 2)}",
            percent(figure(told, "win_share")),
            percent(figure(told, "loss_share")),
        )
        for name, told in models.items()
    ]
    header = ("Responder", "Mean score", "95% interval", "Chosen", "Rejected")
    return table(header, rows, "metrics/dataset.json", "stats.preference")


def _methods(metrics: Metrics, settings: Settings) -> str:
    sections, models = settings.tuning.methods, settings.models
    runs = own_runs(metrics["efficiency"], settings.seed)
    trained = own_runs(metrics["training"], settings.seed)
    rates = {method: figure(trained.get(method), "metrics", "learning_rate") for method in sections}
    rates |= {
        method: section.learning_rate
        for method, section in sections.items()
        if rates[method] is None and not section.search_rates
    }
    rows = [
        ("What is trained", *(_trained(method, settings) for method in sections)),
        ("Data", *("preference split" if method == "dpo" else "SFT split" for method in sections)),
        ("Epochs", *(f"{section.epochs:g}" for section in sections.values())),
        ("Batch size [rows]", *(f"{section.batch_size:g}" for section in sections.values())),
        ("Peak learning rate", *(NOT_MEASURED if rate is None else f"{rate:g}" for rate in rates.values())),
        ("Learning rate after warm-up", *(f"{section.schedule} to 0" for section in sections.values())),
        ("Warm-up", *(f"{section.warmup_share:.0%} of the steps" for section in sections.values())),
        ("Weight decay", *(f"{section.weight_decay:g}" for section in sections.values())),
        ("Largest gradient norm", *(f"{section.max_grad_norm:g}" for section in sections.values())),
        ("Longest row [tokens]", *(f"{section.max_length:g}" for section in sections.values())),
        ("Trainable parameters", *(count(figure(runs.get(method), "trainable_parameters")) for method in sections)),
        ("Of all parameters [%]", *(number(figure(runs.get(method), "trainable_percent"), 4) for method in sections)),
    ]
    return "\n\n".join(
        [
            f"The base model is {code(models.base.name)} in {models.base.precision}, frozen throughout. "
            f"**LoRA** ({arxiv('2106.09685')}) adds low-rank updates to its attention matrices. **Prompt tuning** "
            f"({arxiv('2104.08691')}) trains embeddings that precede every input and nothing else. **DPO** "
            f"({arxiv('2305.18290')}) goes on from the LoRA adapter with preference pairs; that adapter, frozen, "
            "is its reference. The optimizer is AdamW in fp32.",
            table(
                (_corner(settings), *map(method_name, sections)),
                rows,
                "metrics/efficiency.json",
                "and metrics/provenance.json",
            ),
        ]
    )


def _trained(method: str, settings: Settings) -> str:
    sft, prompt, dpo = settings.tuning.sft, settings.tuning.prompt_tuning, settings.tuning.dpo
    match method:
        case "sft":
            return f"low-rank updates of {', '.join(sft.target_modules)}; r {sft.r}, alpha {sft.lora_alpha}"
        case "prompt_tuning":
            return f"{prompt.num_virtual_tokens} virtual tokens, {prompt.init_method} start"
        case "dpo":
            return f"the SFT adapter further, beta {dpo.beta:g}"
    section = settings.tuning.methods[method].model_dump(mode="json")
    told = ((name.replace("_", " "), section[name]) for name in METHODS[method].arguments.values())
    return "; ".join(f"{name} {', '.join(v) if isinstance(v, list) else v}" for name, v in told if v is not None)


def _training(metrics: Metrics, settings: Settings) -> str:
    runs = own_runs(metrics["training"], settings.seed)
    methods = study_methods(settings)

    def own(method: str, *path: str) -> Any:
        return figure(runs.get(method), "metrics", *path)

    def change(method: str, split: str) -> str:
        before, after = (own(method, "eval", split, f"loss_{when}") for when in ("before", "after"))
        if before is None or after is None:
            return NOT_MEASURED
        return f"{before:.3f} to {after:.3f} ({100 * (after / before - 1):+.0f}%)"

    def lost(method: str) -> list[str]:
        return [count(own(method, "rows", "train", name)) for name in ("rows", "dropped", "cut")]

    accuracies = " / ".join(percent(own("dpo", "eval", split, "accuracy")) for split in ("val", "test"))
    yes = {True: "yes", False: "no", None: NOT_MEASURED}
    rows = [
        ("Training rows / dropped as too long / cut", *(" / ".join(lost(method)) for method in methods)),
        ("Training tokens an epoch", *(count(own(method, "rows", "train", "tokens")) for method in methods)),
        ("Optimizer steps", *(count(own(method, "steps")) for method in methods)),
        ("Training loss converged", *(yes[own(method, "convergence", "converged")] for method in methods)),
        ("Validation loss, before to after", *(change(method, "val") for method in methods)),
        ("Test loss, before to after", *(change(method, "test") for method in methods)),
        ("First loss", *(_of_dpo(method, number(own("dpo", "first_loss"), 6)) for method in methods)),
        ("Preference accuracy, validation / test", *(_of_dpo(method, accuracies) for method in methods)),
    ]
    test = own("sft", "convergence", "test")
    lines = [
        *_searches(metrics, settings),
        table((_corner(settings), *map(method_name, methods)), rows, "metrics/training.json"),
        chart("loss_curves", "Training loss by step, and validation loss before and after", "metrics/training.json"),
        "Losses are means over answer tokens in nats; DPO's is a mean over pairs and starts at ln 2 = 0.693147, where "
        "policy and reference agree. Validation and test rows were never trained on. The checklist takes preference "
        "accuracy over both splits.",
    ]
    if test:
        lines.append(f'"Converged" is decided by a stated test: {test}')
    return "\n\n".join(lines)


def _of_dpo(method: str, told: str) -> str:
    return told if method == "dpo" else "does not apply"


def _searches(metrics: Metrics, settings: Settings) -> list[str]:
    """How the learning rates were chosen, where they were."""
    searches = figure(metrics["training"], "searches") or []
    if not searches:
        return []
    rows = []
    for told in searches:
        tried = figure(told, "search", "candidates") or []
        losses = (
            f"{row['learning_rate']:g}: {'failed' if row['val_loss'] is None else number(row['val_loss'])}"
            for row in tried
        )
        chosen, seconds = figure(told, "search", "chosen"), figure(told, "cost", "seconds")
        cost = f"{duration(seconds)}, {count(figure(told, 'cost', 'tokens'))} tokens"
        rows.append(
            (
                method_name(told["method"]),
                "; ".join(losses) or NOT_MEASURED,
                NOT_MEASURED if chosen is None else f"{chosen:g}",
                NOT_MEASURED if seconds is None else cost,
            )
        )
    edges = [method_name(told["method"]) for told in searches if figure(told, "search", "at_edge")]
    tried_rates = table(
        ("Method", "Validation loss by rate", "Chosen", "Cost"), rows, "metrics/training.json", "searches"
    )
    warning = (
        f"**Warning**: the chosen rate of {', '.join(edges)} is the smallest or largest of its candidates; "
        "a better one may lie beyond."
    )
    return [
        "Each method's learning rate is the candidate with the lowest validation loss after training with seed "
        f"{settings.seed} (epochs: {settings.tuning.search_epochs:g}); every method had as many candidates. DPO's loss "
        "is DPO's own.",
        tried_rates,
        *([warning] if edges else []),
    ]


def _results(metrics: Metrics, settings: Settings) -> str:
    options = settings.evaluation
    scored = [f"{benchmark_name(name)} (`{told.task}`, {told.metric})" for name, told in options.benchmarks.items()]
    header, rows = score_rows(metrics["comparison"], list(options.benchmarks))
    contrasts_header, contrasts = contrast_rows(metrics["comparison"], options.alpha)
    tests = [
        (
            method_name(row["method"]),
            benchmark_name(row["benchmark"]),
            count(row["questions"]),
            "each question" if row["questions"] and row["clusters"] is None else count(row["clusters"]),
            count(row["changed"]),
            _where_it_applies(row, "right_to_wrong", 1),
            _where_it_applies(row, "wrong_to_right", 1),
            count(row["unpaired"]),
            _where_it_applies(row, "p_mcnemar"),
            *_over_seeds(row, settings),
        )
        for row in figure(metrics["tests"], "tests") or []
    ]
    tests_header = ["Method", "Benchmark", "Questions", "Clusters", "Answers changed", "Right to wrong"]
    tests_header += ["Wrong to right", "Left out", "p (McNemar)"]
    if settings.tuning.seeds > 1:
        tests_header.append(f"{interval_name(options.alpha)} over seeds")
    return "\n\n".join(
        [
            "lm-evaluation-harness scored every method in the same process layout, precision, batch size "
            f"({options.batch_size}) and prompts, without examples in the prompt unless the task has its own. "
            + _prompt_formats(metrics)
            + (f"At most {options.limit} questions a task were drawn, the same for all. " if options.limit else "")
            + f"Tasks and metrics, as the harness names them: {', '.join(scored)}. A score is followed by "
            "its standard error, clustered by subject where a benchmark has subjects.",
            table(header, rows, "metrics/comparison.json", "scores"),
            chart("scores", "Benchmark scores with their 95% intervals", "metrics/comparison.json"),
            "Methods are compared with the base model question by question. Differences and detectable differences are "
            "in percentage points; the interval is a t interval with cluster-robust standard errors (Miller, "
            f"{arxiv('2411.00640')}). p is from a sign-flip test that flips whole subjects together, and Holm's "
            f"adjustment runs over the {_tests(metrics)} tests that were made. The detectable difference is the "
            f"smallest true one that a test at {options.alpha:g} would find with {options.power:.0%} power: a smaller "
            "one may be there and is not seen. It is unknown where no answer changed, or where the subjects are too "
            "few for any test at this level.",
            table(contrasts_header, contrasts, "metrics/comparison.json", "contrasts"),
            chart("differences", "Differences to the base model on the same questions", "metrics/comparison.json"),
            table(tests_header, tests, "metrics/tests.json"),
            *_unmoved(metrics),
            *_few_clusters(metrics),
            *filter(
                None,
                (
                    win_rate_section(metrics, settings),
                    forgetting_section(metrics, settings),
                    human_section(metrics, settings),
                    attached_section(metrics, settings),
                    refused_section(metrics),
                ),
            ),
        ]
    )


def _prompt_formats(metrics: Metrics) -> str:
    """How a benchmark prompts and how the adapters were trained to be prompted, as far as that is published."""
    told = {
        "own": "the base model's own chat template",
        "plain": "a plain text format, the base model having no chat template",
    }
    runs = figure(metrics["training"], "runs") or []
    kinds = sorted({run["chat_template"] for run in runs if run.get("chat_template")})
    trained = f"; the adapters were trained on {' or '.join(told[kind] for kind in kinds)}" if kinds else ""
    beside = " (`chat_template.jinja` and the model card in each adapter's folder)" if kinds else ""
    return f"A prompt is the task's own text, in no chat template{trained}{beside}. "


def _where_it_applies(row: Metrics, name: str, digits: int = 3) -> str:
    """A figure of right and wrong answers, which graded ones do not have, nor clustered ones McNemar's p."""
    value = row.get(name, NOT_MEASURED)
    return "does not apply" if row["questions"] and value is None else number(value, digits)


def _over_seeds(row: Metrics, settings: Settings) -> list[str]:
    """The interval for new trainings too, in a study that has several."""
    low, high = figure(row, "seeds", "low"), figure(row, "seeds", "high")
    known = NOT_MEASURED if low is None or high is None else f"{points(low)} to {points(high)}"
    return [known] if settings.tuning.seeds > 1 else []


def _tests(metrics: Metrics) -> int:
    """Comparisons with the base model that were made."""
    return sum(row["p"] is not None for row in figure(metrics["comparison"], "contrasts") or [])


def _unmoved(metrics: Metrics) -> list[str]:
    """Benchmarks on which no method answered anything otherwise than the base model."""
    changed: dict[str, list[Any]] = {}
    for row in figure(metrics["tests"], "tests") or []:
        changed.setdefault(row["benchmark"], []).append(row["changed"])
    return [
        f"On {benchmark_name(name)} no method changed any answer: it tells nothing about them, and mean differences "
        "over the benchmarks, in which it counts as an exact zero, look a little surer than they are."
        for name, counts in changed.items()
        if not any(counts) and None not in counts
    ]


def _few_clusters(metrics: Metrics) -> list[str]:
    """With few subjects no difference, however large, passes Holm's first step; say so."""
    rows = [row for row in figure(metrics["tests"], "tests") or [] if row["clusters"]]
    tests, alpha = _tests(metrics), figure(metrics["tests"], "alpha")
    weak = sorted({(row["benchmark"], row["clusters"]) for row in rows if 2 ** (1 - row["clusters"]) * tests > alpha})
    return [
        f"{benchmark_name(name)} has {clusters} subjects: the test's smallest p is 2/2^{clusters} = "
        f"{2 ** (1 - clusters):.3g}, "
        + (
            "so that no difference on it can count, however large."
            if 2 ** (1 - clusters) > alpha
            else f"too large for Holm's first step over {tests} tests. Only after smaller p values elsewhere can a "
            "difference on it count."
        )
        for name, clusters in weak
    ]


def _analysis(metrics: Metrics, settings: Settings) -> str:
    header, rows = efficiency_rows(metrics["efficiency"])
    between_header, between = contrast_rows(metrics["comparison"], settings.evaluation.alpha, "between")
    gains = []
    for method in study_methods(settings):
        gain = mean_gain(metrics, method)
        error = gain[1] if gain else None
        gains.append(
            (
                method_name(method),
                points(gain[0] if gain else None, 2),
                NOT_MEASURED if error is None else f"{100 * error:.2f}",
                *(_ratio(metrics, settings, method, name) for name in ("memory", "seconds")),
            )
        )
    picks = [
        (
            pick["use_case"],
            method_name(pick["method"]) if pick["method"] else "the figures do not decide",
            pick["rule"],
            pick["reason"],
        )
        for pick in recommendations(metrics, settings)
    ]
    return "\n\n".join(
        [
            "### Efficiency",
            "Inference speed is greedy decoding of a fixed number of tokens for one batch, the median of several runs. "
            "Adapters stay beside the weights, as where several share one base model; the merged speed is that of the "
            "adapter added to the weights, measured in turns with the first. A soft prompt cannot be merged, and "
            "nothing is merged into 4-bit weights, which would round the sum. " + _devices(metrics, settings),
            table(header, rows, "metrics/efficiency.json"),
            chart("efficiency", "What each method costs to train, to keep and to run", "metrics/efficiency.json"),
            _memory_note(metrics, settings),
            "### Quality against cost",
            "DPO goes on from the SFT adapter: its time is both trainings', its memory the larger of the two.",
            table(
                ("Method", "Mean difference [points]", "Standard error", "Memory, LoRA = 1", "Time, LoRA = 1"),
                gains,
                "metrics/comparison.json",
                "with metrics/tests.json and metrics/efficiency.json",
            ),
            chart(
                "trade_off",
                "Mean difference to the base model against three costs",
                "metrics/comparison.json",
                "with metrics/tests.json and metrics/efficiency.json",
            ),
            f"### Against {method_name(REFERENCE)}",
            "The other methods' answers against those of the adapter that is the usual choice, on the same questions: "
            "what one would gain or lose by choosing another. These tests are a family of their own for Holm's "
            "adjustment, beside the primary one against the base model.",
            table(between_header, between, "metrics/comparison.json", "between"),
            f"### {RECOMMENDATIONS}",
            "A method is eligible if it was compared on every benchmark, is significantly worse on none, and lowered "
            "its loss on test rows. DPO's costs include those of the SFT adapter it starts from."
            + (f" Costs and losses are those of seed {settings.seed}." if settings.tuning.seeds > 1 else ""),
            table(
                ("Use case", "Recommended", "Rule", "Figures"),
                picks,
                "metrics/comparison.json",
                "with metrics/efficiency.json and metrics/training.json",
            ),
        ]
    )


def _ratio(metrics: Metrics, settings: Settings, method: str, name: str) -> str:
    ours, theirs = (path_costs(metrics, one, settings.seed)[name] for one in (method, REFERENCE))
    return f"{ours / theirs:.2f}" if ours is not None and theirs else NOT_MEASURED


def _devices(metrics: Metrics, settings: Settings) -> str:
    runs = own_runs(metrics["efficiency"], settings.seed).values()
    devices = sorted({str(run[name]) for run in runs for name in ("device", "inference_device") if run[name]})
    return f"Measured on: {', '.join(devices)}." if devices else f"The device was {NOT_MEASURED}."


def _memory_note(metrics: Metrics, settings: Settings) -> str:
    runs = [
        run
        for run in own_runs(metrics["training"], settings.seed).values()
        if figure(run, "cost", "peak_memory_method")
    ]
    rows = [
        (
            method_name(run["method"]),
            size(figure(run, "cost", "peak_memory_bytes", "allocated")),
            _reserved(run),
            size(figure(run, "cost", "peak_memory_bytes", "process")),
        )
        for run in runs
    ]
    if not rows:
        return f"How peak memory was measured: {NOT_MEASURED}."
    title = ", ".join(filter(None, ("Peak memory", _corner(settings).lower())))
    peaks = table((title, "Allocated", "Reserved", "Process"), rows, "metrics/training.json", "cost")
    return f"{peaks}\n\nHow: {runs[0]['cost']['peak_memory_method']}."


def _reserved(run: Any) -> str:
    """Memory that CUDA's allocator holds, which a CPU does not have."""
    if figure(run, "cost", "device") == "cpu":
        return "does not apply"
    return size(figure(run, "cost", "peak_memory_bytes", "reserved"))


def _conclusion(metrics: Metrics, settings: Settings) -> str:
    picks = recommendations(metrics, settings)
    decided = [f"- {pick['use_case']}: **{method_name(pick['method'])}**." for pick in picks if pick["method"]]
    open_ = [pick["use_case"][0].lower() + pick["use_case"][1:] for pick in picks if not pick["method"]]
    header, rows = verdict_grid(metrics["comparison"], settings.evaluation.alpha)
    text = [
        "Differences to the base model in points; open: not distinguishable at this size.",
        table(header, rows, "metrics/comparison.json", "contrasts"),
    ]
    if decided:
        text += ["By the rules above, the figures recommend:", "\n".join(decided)]
    if open_:
        text.append(f"The figures do not decide for: {'; '.join(open_)}.")
    return "\n\n".join([*text, "### Limitations", "\n".join(f"- {line}" for line in _limitations(metrics, settings))])


def _limitations(metrics: Metrics, settings: Settings) -> list[str]:
    scores = figure(metrics["comparison"], "scores") or []
    seeds = {row["seed"] for row in scores if row["method"] != BASE and row["value"] is not None}
    lines = [
        "All training data is synthetic and English; a model wrote it, a model scored it, and no person read it."
        + ("" if figure(metrics["human"], "raters") else " No person rated the models' answers."),
        (f"Trained with {plural(len(seeds), 'seed')}: the" if seeds else f"What training gains was {NOT_MEASURED}; the")
        + " intervals hold for new questions"
        + (
            ", not for another training run."
            if len(seeds) < 2
            else " and these adapters, averaged over seeds, and so do the verdicts. The interval over seeds, beside "
            "the tests, holds for new trainings on the same data too."
        ),
        "The learning rates were chosen on the validation rows among few candidates; nothing else was."
        if settings.tuning.sft.search_rates
        else "The learning rates are the profile's; none was searched for on validation data, so a method may be shown "
        "below its best.",
        "Whether the training responses are factually right was not measured, nor whether they are harmless beyond "
        "the safety rule.",
    ]
    if settings.world:
        lines.insert(
            0,
            "This is the demo: its models have about a million parameters and know a small invented world. It shows "
            "that the study runs and how to read it; its figures say nothing about Llama models.",
        )
    missing = [
        f"{method_name(row['method'])} on {benchmark_name(row['benchmark'])}" for row in scores if row["value"] is None
    ]
    if missing:
        lines.append(f"Not measured: {'; '.join(missing)}.")
    if any(run["device"] == "cpu" for run in own_runs(metrics["efficiency"], settings.seed).values()):
        lines.append("Times were taken on a CPU that other work may have shared; they order the methods only roughly.")
    return lines


def _checklist(metrics: Metrics) -> str:
    items = figure(metrics["checklist"], "items")
    if not items:
        return f"The checklist was {NOT_MEASURED}."
    listed = table(CHECKLIST_HEADER, checklist_rows(items), "metrics/checklist.json")
    return f"{checklist_summary(items)} Nothing was adjusted to pass.\n\n{listed}"


def _reproduction(metrics: Metrics, settings: Settings) -> str:
    stages = figure(metrics["provenance"], "stages") or {}
    packages: dict[str, set[str]] = {}
    machines: set[str] = set()
    for told in stages.values():
        versions = {"Python": figure(told, "python"), **(figure(told, "packages") or {})}
        for name, version in versions.items():
            packages.setdefault(name, set()).add(str(version or NOT_MEASURED))
        if processor := figure(told, "hardware", "processor"):
            machines.add(", ".join([processor, *(figure(told, "hardware", "accelerators") or [])]))
    rows = [(name, ", ".join(sorted(found))) for name, found in sorted(packages.items())]
    return "\n\n".join(
        [
            f"```\npip install -c constraints.txt -e .\n{study_command(settings)}\n```",
            "Equal settings and seed give byte-identical data and adapters on the same CPU and thread count. Every "
            "setting of this run is in `metrics/provenance.json`, and each stage's in its own `manifest.json`.",
            f"Machine: {'; '.join(sorted(machines)) or NOT_MEASURED}.",
            table(("Package", "Version"), rows, "metrics/provenance.json"),
        ]
    )
