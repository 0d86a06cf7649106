"""Every verification criterion of the requirements, with its threshold and what was measured: never adjusted.

`passed` is None where a thing was not measured here, or where the requirements state no limit to hold it against.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from configs.settings import FilterSettings, GenerationSettings, HardwareSettings, PreferenceSettings, Section, Settings
from storage.files import write_json
from storage.workspace import Workspace
from tasks.evaluate.compare import figure
from tasks.evaluate.results import METHODS, TUNED
from tasks.report.metrics import load_metrics, metrics_file, own_runs

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "flows", "storage", "tasks")
COST_FIGURES = ("trainable_parameters", "peak_memory_bytes", "train_seconds", "inference_tokens_per_second")
EFFICIENCY_CHART = "efficiency.png"
TRADE_OFF_CHART = "trade_off.png"
CHARTS = ("scores.png", "differences.png", EFFICIENCY_CHART, TRADE_OFF_CHART)
SECTIONS = (
    "Introduction & Dataset",
    "Model & Adaptation Methods",
    "Training Process",
    "Evaluation Results",
    "Comparative Analysis",
    "Conclusion",
)
RECOMMENDATIONS = "Recommendations by use case"
HOUR = 3600
MEMORY_TOLERANCE = 0.15  # a T4 "of 15 GB" tells 15.8, an A100 "of 40 GB" 42.4


def _required(section: type[Section], name: str) -> int:
    """A count of section 4.2 is the schema's default: a study run with other counts is held against the same."""
    return int(section.model_fields[name].default)


RAW_ROWS = _required(GenerationSettings, "rows")
SFT_TRAIN, SFT_VAL = _required(FilterSettings, "train_rows"), _required(FilterSettings, "val_rows")
PAIRS = _required(PreferenceSettings, "pairs")
DPO_TRAIN, DPO_VAL = _required(PreferenceSettings, "train_pairs"), _required(PreferenceSettings, "val_pairs")

Item = dict[str, Any]


def write_checklist(workspace: Workspace, settings: Settings) -> dict[str, Any]:
    """Hold what `evaluation/` says against the requirements and write `checklist.json`."""
    checklist = {"items": build_checklist(workspace, settings)}
    write_json(metrics_file(workspace, "checklist"), checklist)
    return checklist


def build_checklist(workspace: Workspace, settings: Settings) -> list[Item]:
    """The items in the order of the requirements."""
    study = _Study(workspace, settings)
    return [
        *_generation(study),
        *_filtering(study),
        *_preferences(study),
        *_tuning(study),
        *_evaluation(study),
        *_hours(study),
        *_sizes(study),
        *_quality(study),
        *_final(study),
    ]


class _Study:
    """What the metrics files say, by short names; every lookup may be None."""

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self.workspace = workspace
        self.settings = settings
        self.dataset = load_metrics(workspace, "dataset")
        self.comparison = load_metrics(workspace, "comparison")
        self.efficiency = load_metrics(workspace, "efficiency")
        self.training = load_metrics(workspace, "training")

    def rows(self, name: str) -> int | None:
        count: int | None = figure(self.dataset, "rows", name)
        return count

    def run(self, method: str) -> Any:
        return own_runs(self.efficiency, self.settings.seed).get(method)

    def trained(self, method: str, *path: str) -> Any:
        return figure(own_runs(self.training, self.settings.seed).get(method), *path)

    def contrasts(self) -> list[Any] | None:
        """Those of the required methods; None where nothing was compared."""
        rows = figure(self.comparison, "contrasts")
        return None if rows is None else [row for row in rows if row["method"] in TUNED]

    def contrast(self, method: str, benchmark: str) -> Any:
        rows = self.contrasts() or []
        return next((row for row in rows if (row["method"], row["benchmark"]) == (method, benchmark)), None)


def _generation(study: _Study) -> list[Item]:
    targets, title = study.settings.targets, "2.1 Data generation (Magpie)"

    def stat(name: str) -> Any:
        return figure(study.dataset, "stats", "raw", name)

    return [
        _between("2.1-instruction-words", title, "Mean instruction length in words", targets.instruction_words,
                 stat("mean_instruction_words")),
        _between("2.1-response-words", title, "Mean response length in words", targets.response_words,
                 stat("mean_response_words")),
        _at_least("2.1-success-rate", title, "Share of attempts that gave a complete pair", targets.success_rate,
                  stat("success_rate")),
    ]  # fmt: skip


def _filtering(study: _Study) -> list[Item]:
    targets, title = study.settings.targets, "2.2 Quality filtering"
    quality = figure(study.dataset, "quality", "mean")
    return [
        _at_least("2.2-rows", title, "Rows after filtering", targets.filtered_rows, study.rows("filtered")),
        _at_least("2.2-quality", title, "Mean quality score of the kept rows", targets.mean_quality, quality),
    ]


def _preferences(study: _Study) -> list[Item]:
    title = "2.3 Preference data"
    margins = figure(study.dataset, "margins")
    pairs, ordered = figure(margins, "pairs"), figure(margins, "ordered")
    share = ordered / pairs if pairs and ordered is not None else None
    mean = figure(margins, "spread", "mean")
    return [
        _at_least("2.3-order", title, "Share of pairs whose chosen score exceeds the rejected score", 1.0, share),
        _at_least("2.3-margin", title, "Mean score difference of a pair", study.settings.targets.mean_margin, mean),
    ]


def _tuning(study: _Study) -> list[Item]:
    targets = study.settings.targets
    lora, prompt, dpo = "2.4.1 LoRA SFT", "2.4.2 Prompt tuning", "2.4.3 DPO"
    loss = study.trained("sft", "metrics", "eval", "val", "loss_after")
    sft_memory = figure(study.run("sft"), "peak_memory_bytes")
    prompt_memory = figure(study.run("prompt_tuning"), "peak_memory_bytes")
    truthful = figure(study.contrast("dpo", "truthfulqa"), "difference")
    return [
        _converged("2.4.1-converged", lora, study, "sft"),
        _judge("2.4.1-eval-loss", lora, "Loss on the validation rows [nats a token]", f"< {targets.eval_loss:g}", loss,
               lambda value: value < targets.eval_loss),
        _between("2.4.1-share", lora, "Trainable parameters [%]", targets.lora_share,
                 figure(study.run("sft"), "trainable_percent")),
        _converged("2.4.2-converged", prompt, study, "prompt_tuning"),
        _judge("2.4.2-memory", prompt, "Peak training memory below LoRA's [bytes]",
               "< LoRA's" if sft_memory is None else f"< {sft_memory:,}",
               prompt_memory if sft_memory is not None else None, lambda value: value < sft_memory),
        _stated("2.4.2-share", prompt, "Trainable parameters [%], about 0.003 expected", "~ 0.003",
                figure(study.run("prompt_tuning"), "trainable_percent")),
        _judge("2.4.3-accuracy", dpo, "Held-out preference accuracy", f"> {targets.preference_accuracy:g}",
               _preference_accuracy(study), lambda value: value > targets.preference_accuracy),
        _judge("2.4.3-truthfulqa", dpo, "TruthfulQA score minus the base model's", "> 0", truthful,
               lambda value: value > 0),
    ]  # fmt: skip


def _evaluation(study: _Study) -> list[Item]:
    required = study.settings.evaluation.benchmarks
    scores = figure(study.comparison, "scores")
    scored = None
    if scores is not None:
        found = {(row["method"], row["benchmark"]) for row in scores if row["value"] is not None}
        scored = sum(method in METHODS for method, _ in found)
    contrasts = study.contrasts()
    paired = None if contrasts is None else sum(row["difference"] is not None for row in contrasts)
    return [
        _at_least("2.5.1-benchmarks", "2.5.1 Benchmarks", "Benchmarks scored for the base model and every method",
                  len(METHODS) * len(required), scored),
        _at_least("2.5.1-baseline", "2.5.1 Benchmarks", "Comparisons with the zero-shot base model",
                  len(TUNED) * len(required), paired),
        _true("2.5.2-efficiency", "2.5.2 Comparative analysis", "Efficiency chart", _charts(study, EFFICIENCY_CHART)),
        _true("2.5.2-trade-off", "2.5.2 Comparative analysis", "Performance against efficiency chart",
              _charts(study, TRADE_OFF_CHART)),
        _true("2.5.2-use-cases", "2.5.2 Comparative analysis", "Recommended method for each use case",
              RECOMMENDATIONS in _report(study)),
    ]  # fmt: skip


def _hours(study: _Study) -> list[Item]:
    """Hours count only on the card that the profile is for: another one's, or a CPU's, say nothing about a T4."""
    targets, title = study.settings.targets, "3.1 Speed"

    def hours(record: Any, seconds: str, of: str = "") -> float | None:
        memory = figure(record, f"{of}device_memory_gb")
        counts = _is_card(study.settings.hardware, figure(record, f"{of}device"), memory)
        taken = figure(record, seconds)
        return taken / HOUR if counts and taken is not None else None

    raw = figure(study.dataset, "cost", "raw")
    models = [hours(study.run(method), "evaluation_seconds", "evaluation_") for method in METHODS]
    slowest = None if None in models else max(value for value in models if value is not None)
    return [
        _at_most("3.1-generation", title, "Raw generation [h]", targets.generation_hours,
                 hours(raw, "seconds")),
        _at_most("3.1-sft", title, "SFT training [h]", targets.sft_hours,
                 hours(study.run("sft"), "train_seconds")),
        _at_most("3.1-dpo", title, "DPO training [h]", targets.dpo_hours,
                 hours(study.run("dpo"), "train_seconds")),
        _at_most("3.1-evaluation", title, "Evaluation of the slowest model [h]", targets.evaluation_hours, slowest),
    ]  # fmt: skip


def _is_card(hardware: HardwareSettings, device: str | None, memory_gb: float | None) -> bool:
    """Whether a device is the profile's card, by its name and, as near as makers count it, by its memory."""
    if hardware.gpu is None or hardware.memory_gb is None or device is None or memory_gb is None:
        return False
    named = re.search(rf"\b{re.escape(hardware.gpu)}\b", device) is not None
    return named and abs(memory_gb / hardware.memory_gb - 1) < MEMORY_TOLERANCE


def _sizes(study: _Study) -> list[Item]:
    title = "4.2 Data sizes"
    return [
        _at_least("4.2-raw", title, "Raw rows", RAW_ROWS, study.rows("raw")),
        _at_least("4.2-filtered", title, "Filtered rows", study.settings.targets.filtered_rows, study.rows("filtered")),
        _exactly("4.2-sft-train", title, "SFT training rows", SFT_TRAIN, study.rows("sft_train")),
        _exactly("4.2-sft-val", title, "SFT validation rows", SFT_VAL, study.rows("sft_val")),
        _at_least("4.2-pairs", title, "Preference pairs", PAIRS, study.rows("pairs")),
        _exactly("4.2-dpo-train", title, "DPO training pairs", DPO_TRAIN, study.rows("dpo_train")),
        _exactly("4.2-dpo-val", title, "DPO validation pairs", DPO_VAL, study.rows("dpo_val")),
    ]


def _quality(study: _Study) -> list[Item]:
    instruction, response = "4.3 Instruction quality", "4.3 Response quality"
    parts = figure(study.dataset, "quality_parts")
    domains = figure(study.dataset, "domains_kept")
    steps = figure(study.dataset, "waterfall")
    return [
        _stated("4.3-clarity", instruction, "Clear: mean of the quality score's part 'clarity'", None,
                figure(parts, "clarity")),
        _stated("4.3-diversity", instruction, "Diverse: domains among the kept rows", None,
                None if domains is None else len(domains)),
        _stated("4.3-harmless", instruction, "Appropriate: rows that the safety rule dropped (blatant harm only)", None,
                None if steps is None else sum(step["dropped"] for step in steps if step["step"] == "unsafe")),
        _stated("4.3-accurate", response, "Factually accurate", None, None),
        _stated("4.3-complete", response, "Complete: mean of the quality score's part 'completeness'", None,
                figure(parts, "completeness")),
        _stated("4.3-helpful", response, "Helpful: mean of the quality score's part 'relevance'", None,
                figure(parts, "relevance")),
    ]  # fmt: skip


def _final(study: _Study) -> list[Item]:
    settings = study.settings
    data, training, evaluation, documents = "9.1 Data", "9.2 Training", "9.3 Evaluation", "9.4 Documents"
    contrasts = study.contrasts()
    tested = None if contrasts is None else sum(row["p_holm"] is not None for row in contrasts)
    cost = [figure(study.run(method), name) for method in TUNED for name in COST_FIGURES]
    saved = [study.trained(method, "adapter_saved") for method in TUNED]
    scored = figure(study.comparison, "scores")
    methods = None
    if scored is not None:
        missing = {row["method"] for row in scored if row["value"] is None}
        methods = len({row["method"] for row in scored if row["method"] in TUNED} - missing)
    report = _report(study)
    steps = study.trained("dpo", "metrics", "steps")
    documented, functions = _docstrings()
    return [
        _at_least("9.1-raw", data, "Raw rows generated", RAW_ROWS, study.rows("raw")),
        _at_least("9.1-filtered", data, "Rows after filtering", settings.targets.filtered_rows, study.rows("filtered")),
        _at_least("9.1-pairs", data, "Preference pairs", PAIRS, study.rows("pairs")),
        _judge("9.1-format", data, "Rows of the splits in the format of 4.1 (SFT and DPO)", "all", _formats(study),
               lambda value: value == 1.0),
        _converged("9.2-lora", training, study, "sft"),
        _converged("9.2-prompt-tuning", training, study, "prompt_tuning"),
        _true("9.2-dpo", training, "DPO training finished", None if steps is None else steps > 0),
        _at_least("9.2-saved", training, "Adapters saved", len(TUNED),
                  None if study.training is None else sum(bool(value) for value in saved)),
        _at_least("9.3-benchmarks", evaluation, "Methods with every benchmark scored", len(TUNED), methods),
        _at_least("9.3-efficiency", evaluation, "Efficiency figures collected", len(cost),
                  None if study.efficiency is None else sum(value is not None for value in cost)),
        _true("9.3-charts", evaluation, "Charts of the comparison drawn", _charts(study, *CHARTS)),
        _at_least("9.3-significance", evaluation, "Comparisons tested, with Holm's adjustment",
                  len(TUNED) * len(settings.evaluation.benchmarks), tested),
        _true("9.4-readme", documents, "README.md", _readme()),
        _at_least("9.4-report", documents, "Sections in the written report", len(SECTIONS),
                  sum(f"\n## {section}\n" in report for section in SECTIONS)),
        _true("9.4-presentation", documents, "Presentation",
              (study.workspace.evaluation / "presentation.pptx").is_file()),
        _at_least("9.4-docstrings", documents, "Public functions and classes with a docstring", functions, documented),
    ]  # fmt: skip


def _preference_accuracy(study: _Study) -> Any:
    """Of validation and test pairs together: neither is trained on, and together they decide more surely."""
    splits = [study.trained("dpo", "metrics", "eval", split) for split in ("val", "test")]
    known = [split for split in splits if figure(split, "accuracy") is not None and figure(split, "pairs")]
    pairs = sum(split["pairs"] for split in known)
    return sum(split["accuracy"] * split["pairs"] for split in known) / pairs if pairs else None


def _formats(study: _Study) -> float | None:
    formats = [figure(study.dataset, "formats", kind) for kind in ("sft", "dpo")]
    counts = [(figure(kind, "valid"), figure(kind, "rows")) for kind in formats]
    if any(None in pair for pair in counts) or not (rows := sum(rows for _, rows in counts)):
        return None
    return float(sum(valid for valid, _ in counts) / rows)


def _charts(study: _Study, *names: str) -> bool:
    return all((study.workspace.evaluation / "figures" / name).is_file() for name in names)


def _report(study: _Study) -> str:
    try:
        return (study.workspace.evaluation / "report.md").read_text(encoding="utf-8")
    except OSError:
        return ""


def _readme() -> bool | None:
    # an installed package lies elsewhere than its README
    return (PROJECT / "README.md").is_file() if (PROJECT / "pyproject.toml").is_file() else None


@cache
def _docstrings() -> tuple[int, int]:
    documented = total = 0
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            for node in _public(ast.parse(path.read_text(encoding="utf-8"))):
                total += 1
                documented += ast.get_docstring(node) is not None
    return documented, total


def _public(scope: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of those classes."""
    found: list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef] = []
    for node in scope.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            found.append(node)
            if isinstance(node, ast.ClassDef):
                found += _public(node)
    return found


def _item(name: str, requirement: str, criterion: str, threshold: Any, measured: Any, passed: bool | None) -> Item:
    return {
        "id": name,
        "requirement": requirement,
        "criterion": criterion,
        "threshold": threshold,
        "measured": measured,
        "passed": passed,
    }


def _judge(
    name: str, requirement: str, criterion: str, threshold: Any, measured: Any, passes: Callable[[Any], bool]
) -> Item:
    passed = None if measured is None else bool(passes(measured))
    return _item(name, requirement, criterion, threshold, measured, passed)


def _at_least(name: str, requirement: str, criterion: str, least: float, measured: Any) -> Item:
    return _judge(name, requirement, criterion, f">= {least:g}", measured, lambda value: value >= least)


def _at_most(name: str, requirement: str, criterion: str, most: float, measured: Any) -> Item:
    return _judge(name, requirement, criterion, f"<= {most:g}", measured, lambda value: value <= most)


def _exactly(name: str, requirement: str, criterion: str, wanted: int, measured: Any) -> Item:
    return _judge(name, requirement, criterion, f"= {wanted}", measured, lambda value: value == wanted)


def _between(name: str, requirement: str, criterion: str, limits: Sequence[float], measured: Any) -> Item:
    low, high = limits
    return _judge(name, requirement, criterion, f"{low:g} to {high:g}", measured, lambda value: low <= value <= high)


def _true(name: str, requirement: str, criterion: str, measured: bool | None) -> Item:
    return _judge(name, requirement, criterion, "there", measured, bool)


def _stated(name: str, requirement: str, criterion: str, threshold: Any, measured: Any) -> Item:
    return _item(name, requirement, criterion, threshold, measured, None)


def _converged(name: str, requirement: str, study: _Study, method: str) -> Item:
    measured = study.trained(method, "metrics", "convergence", "converged")
    return _judge(name, requirement, "Training loss converged (test in training.json)", "converged", measured, bool)
