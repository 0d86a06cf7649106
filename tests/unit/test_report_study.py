"""The report's files, made from a small study with planted effects; what is missing is told, nothing is made up."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.settings import Settings, load_settings
from storage.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from storage.stages import MANIFEST, StageKey, write_manifest
from storage.workspace import Workspace
from tasks.evaluate.results import (
    BASE,
    TUNED,
    answers_folder,
    results_folder,
    study_methods,
    study_runs,
    write_benchmark,
)
from tasks.report.charts import write_charts
from tasks.report.checklist import SECTIONS, write_checklist
from tasks.report.metrics import load_metrics, write_metrics
from tasks.report.recommend import mean_gain, recommendations
from tasks.report.report import render_report, write_report
from tasks.report.slides.findings import load_study, memory, verdict_counts
from tasks.report.slides.write import write_slides
from tasks.report.tables import checklist_table, comparison_table
from tasks.report.words import interval_name
from tasks.stages import VERSIONS, study_stages
from tasks.tune.rows import PLAIN_TEMPLATE

QUESTIONS = 240
SUBJECTS = 12
SKILL = {"base": 0.45, "sft": 0.70, "prompt_tuning": 0.46, "dpo": 0.25}
COSTS = {
    "sft": (2000, 60_000_000, 30.0, 9000),
    "prompt_tuning": (100, 40_000_000, 20.0, 900),
    "dpo": (2000, 80_000_000, 50.0, 9000),
}
RAW, KEPT, PAIRS = 60, 40, 24
HELD_OUT = 80


def build_study(root: Path, settings: Settings) -> Workspace:
    """Publish a study: SFT much better than the base model, DPO much worse, all other methods about equal to it."""
    workspace = Workspace(root)
    for name in ("base", "reward", "teacher", "responder_a", "responder_b", "responder_c", "benchmarks"):
        write_json(workspace.world / name / "config.json", {"name": name})
    for method, section in settings.tuning.methods.items():
        if section.search_rates:
            write_search(workspace, method)
    for method, seed in study_runs(settings):
        write_held_out(workspace, method, seed)
        for name, benchmark in settings.evaluation.benchmarks.items():
            write_answers(workspace, settings, method, name, SKILL.get(method, 0.46), seed)
            assert benchmark.metric in ("acc", "acc_norm")
        write_json(
            results_folder(workspace, method, seed) / "speed.json",
            {
                "tokens_per_second": 100.0 + len(method),
                "tokens_per_second_merged": 1234.0 if method in ("sft", "dpo") else None,
                "parameters": 1_000_000,
                "seconds": [1.0],
                "device": "cpu",
            },
        )
        if method != BASE:
            write_training(workspace, method, *COSTS.get(method, (500, 70_000_000, 40.0, 3000)), seed)
    write_data(workspace)
    publish(workspace, settings)
    return workspace


def publish(workspace: Workspace, settings: Settings) -> None:
    """Give every folder of the study its manifest, each after those it reads."""
    for name in study_stages(settings, workspace):
        stage = study_stages(settings, workspace)[name]
        if stage.kind != "report":
            files = [path for path in stage.folder.rglob("*") if path.is_file() and path.name != MANIFEST]
            known = {name: digest for name, digest in stage.inputs().items() if digest}  # not a hub model's
            key = StageKey(stage.name, VERSIONS[stage.kind], stage.settings, known)
            write_manifest(stage.folder, key, {}, files, ["cost.json", "speed.json", "*.seconds.json"])


def write_search(workspace: Workspace, method: str) -> None:
    """A search for a learning rate, one of whose candidates diverged."""
    losses = {"learning_rate": 1e-4, "val_loss": 1.5, "failure": None}, {
        "learning_rate": 1e-3, "val_loss": None, "failure": "the loss of step 4 is nan",
    }  # fmt: skip
    search = {"method": method, "candidates": losses, "chosen": 1e-4, "at_edge": method == "ia3"}
    write_json(workspace.search(method) / "search.json", search)
    write_json(workspace.search(method) / "cost.json", {"seconds": 12.0, "tokens": 3400})


def write_held_out(workspace: Workspace, method: str, seed: int = 0) -> None:
    """Scored answers, and the loss on general text: SFT is preferred and longer, and forgot a little."""
    noise = random.Random(f"{method}-{seed}")
    lead, loss = {"sft": (1.0, 0.1), "dpo": (0.2, 0.3)}.get(method, (0.0, 0.0))
    answers = [
        {
            "id": f"{i:04d}",
            "instruction": f"Tell me about {i}.",
            "output": f"{method} " * (8 + noise.randrange(6) + int(4 * lead)),
            "finish_reason": "length" if i == 3 else "stop",
            "tokens": 12,
            "score": lead + noise.gauss(0, 1),
        }
        for i in range(HELD_OUT)
    ]
    write_jsonl(answers_folder(workspace, method, seed) / "answers.jsonl", answers)
    samples = [
        {"task": "demo_text", "doc_id": i, "doc_hash": f"page-{i}", "cluster": None, "responses": {},
         "metrics": {"bits_per_byte": [-100.0 * (1 + loss) - i, 200]}}
        for i in range(20)
    ]  # fmt: skip
    results = {"results": {"demo_text": {"bits_per_byte,none": 0.7}}, "config": {"questions": len(samples)}}
    answer = {"results": results, "samples": samples, "seconds": 1.0}
    write_benchmark(results_folder(workspace, method, seed), "forgetting", answer, CPU)


def write_answers(
    workspace: Workspace, settings: Settings, method: str, name: str, skill: float, seed: int = 0
) -> None:
    """Answers of one method, in lm-eval's shape; question i is as hard for every method."""
    benchmark = settings.evaluation.benchmarks[name]
    chance = random.Random(f"{name}-questions")
    samples: list[dict[str, Any]] = []
    for i in range(QUESTIONS):
        right = float(chance.random() < skill)
        subject = f"{benchmark.task}_{i % SUBJECTS}"
        clustered = name == "mmlu"
        samples.append(
            {
                "task": subject if clustered else benchmark.task,
                "doc_id": i,
                "doc_hash": f"{name}-{i}",
                "cluster": subject if clustered else None,
                "metrics": {benchmark.metric: right},
                "responses": {},
            }
        )
    mean = sum(row["metrics"][benchmark.metric] for row in samples) / QUESTIONS
    results = {
        "results": {benchmark.task: {f"{benchmark.metric},none": mean}},
        "config": {"questions": QUESTIONS},
    }
    answer = {"results": results, "samples": samples, "seconds": 2.5}
    write_benchmark(results_folder(workspace, method, seed), name, answer, CPU)


def write_training(
    workspace: Workspace, method: str, trainable: int, memory: int, seconds: float, size: int, seed: int = 0
) -> None:
    """An adapter's figures, as `tasks.tune.train` writes them."""
    folder = workspace.adapter(method, seed)
    held_out: dict[str, Any] = {"rows": 10, "loss_before": 2.0, "loss_after": 1.2}
    if method == "dpo":
        held_out = {"pairs": 100, "accuracy": 0.8, "margin": 0.4, "loss_before": 0.6931, "loss_after": 0.55}
    write_json(
        folder / "metrics.json",
        {
            "method": method,
            "seed": seed,
            "learning_rate": 2e-4,
            "trainable_parameters": trainable,
            "total_parameters": 1_000_000 + trainable,
            "steps": 480,
            "rows": {split: {"rows": 10, "dropped": 0, "cut": 1} for split in ("train", "val", "test")},
            "loss_curve": [[10 * (i + 1), 2.0 / (i + 1) + 1] for i in range(20)],
            "convergence": {"converged": True, "test": "It fell, then flattened."},
            "eval": {"val": held_out, "test": held_out},
            **({"first_loss": 0.693147} if method == "dpo" else {}),
        },
    )
    write_json(
        folder / "cost.json",
        {
            "train_seconds": seconds,
            "train_tokens_per_second": 5000.0,
            "peak_memory_bytes": {"allocated": memory, "reserved": None, "process": 4 * memory},
            "peak_memory_method": "counted by hand",
            "adapter_bytes": size,
            "device": "cpu",
        },
    )
    write_json(folder / "adapter_config.json", {})
    write_text(folder / "adapter_model.safetensors", "weights")


def write_data(workspace: Workspace) -> None:
    """Raw, kept and dropped rows, pairs and splits, and the statistics beside them."""
    rows = [{"id": f"{i:06d}", "domain": f"domain-{i % 3}", "instruction": "a b", "output": "c d"} for i in range(RAW)]
    write_jsonl(workspace.raw / "raw.jsonl", rows)
    write_json(
        workspace.raw / "stats.json",
        {"success_rate": 0.96, "mean_instruction_words": 21.5, "mean_response_words": 49.0, "rows": RAW},
    )
    kept = [row | {"quality": 0.8, "quality_parts": {"clarity": 0.9, "completeness": 1.0}} for row in rows[:KEPT]]
    write_jsonl(workspace.filtered / "filtered.jsonl", kept)
    rules = ["length"] * 12 + ["diversity"] * 8
    write_jsonl(
        workspace.filtered / "dropped.jsonl",
        [{"id": row["id"], "rule": rule, "evidence": {}} for row, rule in zip(rows[KEPT:], rules, strict=True)],
    )
    pairs = [
        {"id": f"{i}", "prompt": "p", "chosen": "c", "rejected": "r", "chosen_score": 1.0 + i / 10,
         "rejected_score": 0.5, "chosen_model": "a", "rejected_model": "b", "margin": 0.5 + i / 10}
        for i in range(PAIRS)
    ]  # fmt: skip
    write_jsonl(workspace.preference / "pairs.jsonl", pairs)
    write_json(workspace.preference / "stats.json", {"length": {"spearman_score_words": 0.1}, "models": {}})
    for split, count in (("train", 20), ("val", 10), ("test", 5)):
        write_jsonl(workspace.filtered / f"{split}.jsonl", [{"instruction": "a", "output": "b"}] * count)
        row = {"prompt": "p", "chosen": "c", "rejected": "r"}
        write_jsonl(workspace.preference / f"{split}.jsonl", [row] * (count // 2))


CPU = {"device": "cpu", "device_memory_gb": None}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings("demo")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Workspace:
    """A study with its report."""
    workspace = build_study(tmp_path_factory.mktemp("study") / "workspace", settings)
    write_metrics(workspace, settings)
    write_charts(workspace, settings)
    write_report(workspace, settings)
    return workspace


def report_of(workspace: Workspace) -> str:
    return (workspace.evaluation / "report.md").read_text(encoding="utf-8")


def items_of(workspace: Workspace) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in load_metrics(workspace, "checklist")["items"]}


def test_every_section_table_and_chart_names_a_file_that_exists(study: Workspace) -> None:
    report = report_of(study)
    headings = re.findall(r"^## (.+)$", report, re.MULTILINE)
    assert headings[: len(SECTIONS)] == list(SECTIONS)
    named = set(re.findall(r"\]\(((?:metrics|figures)/[^)]+)\)", report))
    assert len([name for name in named if name.endswith(".png")]) == 8
    assert all((study.evaluation / name).is_file() for name in named)
    tables = re.findall(r"^\| --- ", report, re.MULTILINE)
    assert len(tables) == len(re.findall(r"\|\n\nSource: \[`metrics/", report))


def test_the_words_follow_the_numbers(study: Workspace) -> None:
    report = report_of(study)
    summary = report[: report.index("## ")]
    assert "**LoRA SFT**: better on MMLU" in summary
    assert "**DPO**: worse on MMLU" in summary
    assert "**Prompt tuning**: not distinguishable at this size on MMLU" in summary


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (PLAIN_TEMPLATE, "; the adapters were trained on a plain text format, the base model having no chat template"),
        ("{{ messages }}", "; the adapters were trained on the base model's own chat template"),
        (None, ". "),  # published before templates were
    ],
)
def test_the_scores_say_how_the_benchmarks_and_the_adapters_are_prompted(
    template: str | None, told: str, settings: Settings, tmp_path: Path
) -> None:
    workspace = build_study(tmp_path, settings)
    for method in TUNED if template else ():
        write_text(workspace.adapter(method, 0) / "chat_template.jinja", template or "")
    publish(workspace, settings)
    write_metrics(workspace, settings)
    report = render_report(workspace, settings)
    results = report[report.index("lm-evaluation-harness scored") : report.index("metrics/comparison.json")]
    assert f"A prompt is the task's own text, in no chat template{told}" in results
    assert ("`chat_template.jinja`" in results) == (template is not None)


def test_recommendations_come_from_the_rules(study: Workspace, settings: Settings) -> None:
    metrics = {name: load_metrics(study, name) for name in ("comparison", "tests", "efficiency", "training")}
    picks = {pick["use_case"]: pick for pick in recommendations(metrics, settings)}
    assert picks["Tightest training memory"]["method"] == "prompt_tuning"
    assert picks["Shortest training time"]["method"] == "prompt_tuning"
    assert picks["Best benchmark quality"]["method"] == "sft"
    assert picks["Answers that a reward model prefers"]["method"] is None, "no win rates were given"
    assert "Not eligible: DPO" in picks["Many adapters served at once"]["reason"]


def test_costs_too_close_do_not_decide(study: Workspace, settings: Settings) -> None:
    metrics = {name: load_metrics(study, name) for name in ("comparison", "tests", "efficiency", "training")}
    efficiency = json.loads(json.dumps(metrics["efficiency"]))
    for run in efficiency["runs"]:
        run["peak_memory_bytes"] = {"sft": 100, "prompt_tuning": 99}.get(run["method"])
    picks = recommendations(metrics | {"efficiency": efficiency}, settings)
    assert picks[0]["method"] is None and "too close" in picks[0]["reason"]
    for run in efficiency["runs"]:
        run["peak_memory_bytes"] = {"prompt_tuning": 99}.get(run["method"])
    picks = recommendations(metrics | {"efficiency": efficiency}, settings)
    assert picks[0]["method"] is None and "not measured for all" in picks[0]["reason"]


def test_mean_gain_averages_the_benchmarks(study: Workspace) -> None:
    metrics = {name: load_metrics(study, name) for name in ("comparison", "tests")}
    rows = [row for row in metrics["comparison"]["contrasts"] if row["method"] == "sft"]
    errors = [row["stderr"] for row in metrics["tests"]["tests"] if row["method"] == "sft"]
    gain = mean_gain(metrics, "sft")
    assert gain is not None and gain[0] == pytest.approx(sum(row["difference"] for row in rows) / 4)
    assert gain[1] == pytest.approx(sum(error**2 for error in errors) ** 0.5 / 4)


def test_checklist_judges_without_adjusting(study: Workspace) -> None:
    items = items_of(study)
    expected = {
        "2.1-instruction-words": True, "2.1-response-words": False, "2.1-success-rate": True, "2.2-rows": False,
        "2.2-quality": True, "2.3-order": True, "2.3-margin": True, "2.4.1-converged": True, "2.4.1-eval-loss": True,
        "2.4.1-share": True, "2.4.2-memory": True, "2.4.2-share": None, "2.4.3-accuracy": True,
        "2.4.3-truthfulqa": False, "2.5.1-benchmarks": True, "2.5.1-baseline": True, "2.5.2-efficiency": True,
        "2.5.2-trade-off": True, "2.5.2-use-cases": True, "3.1-generation": None, "3.1-sft": None,
        "3.1-evaluation": None, "4.2-sft-train": False, "4.3-accurate": None, "9.1-format": True, "9.2-saved": True,
        "9.3-benchmarks": True, "9.3-efficiency": True, "9.3-charts": True, "9.3-significance": True,
        "9.4-report": True, "9.4-presentation": False,
    }  # fmt: skip
    assert {name: items[name]["passed"] for name in expected} == expected
    assert items["2.4.1-share"]["measured"] == pytest.approx(100 * 2000 / 1_002_000)
    assert items["2.4.3-accuracy"]["measured"] == pytest.approx(0.8)
    assert set(items["2.2-rows"]) == {"id", "requirement", "criterion", "threshold", "measured", "passed"}


def test_thresholds_do_not_follow_a_smaller_study(study: Workspace) -> None:
    small = load_settings("demo", {"generation.rows": 60, "filter.train_rows": 20, "filter.val_rows": 10})
    items = {item["id"]: item for item in write_checklist(study, small)["items"]}
    assert (items["4.2-raw"]["threshold"], items["4.2-raw"]["passed"]) == (">= 1500", False)
    assert (items["4.2-sft-train"]["threshold"], items["4.2-sft-train"]["passed"]) == ("= 640", False)


@pytest.mark.parametrize(
    ("profile", "device", "memory_gb", "counts"),
    [
        ("t4", "cpu", None, False),
        ("t4", "Tesla T4", 15.8, True),
        ("t4", "NVIDIA H200", 150.8, False),
        ("t4", "Tesla T40", 15.8, False),
        ("a100", "NVIDIA A100-SXM4-40GB", 42.4, True),
        ("a100", "NVIDIA A100-SXM4-80GB", 85.0, False),
        ("smol", "Tesla T4", 15.8, False),
    ],
)
def test_hours_count_on_the_profiles_card_only(
    tmp_path: Path, profile: str, device: str, memory_gb: float | None, counts: bool
) -> None:
    """By name and memory, for training, generation and evaluation alike; else requirement 3.1 is not decided."""
    settings, workspace = load_settings(profile), Workspace(tmp_path)
    computed = {"device": device, "device_memory_gb": memory_gb}
    write_training(workspace, "sft", 1, 1, 7200.0, 1)
    folder = workspace.adapter("sft", 0)
    write_json(folder / "cost.json", read_json(folder / "cost.json") | computed)
    write_manifest(folder, StageKey("tune-sft", 1, {}, {}), {}, [folder / "metrics.json", folder / "cost.json"])
    write_json(workspace.raw / "cost.json", {"seconds": 7200.0, **computed})
    for method in ("base", "sft", "prompt_tuning", "dpo"):
        for name in settings.evaluation.benchmarks:
            path = results_folder(workspace, method) / f"{name}.seconds.json"
            write_json(path, {"seconds": 1800.0, **computed})
        folder = results_folder(workspace, method)
        write_manifest(folder, StageKey("evaluate", 1, {}, {}), {}, folder.iterdir())
    write_metrics(workspace, settings)
    items = {item["id"]: item for item in write_checklist(workspace, settings)["items"]}
    for name in ("3.1-sft", "3.1-generation", "3.1-evaluation"):
        assert items[name]["measured"] == (2.0 if counts else None)
        assert items[name]["passed"] is (True if counts else None)


def test_format_check_finds_a_wrong_row(tmp_path: Path, settings: Settings) -> None:
    workspace = Workspace(tmp_path)
    write_data(workspace)
    write_jsonl(workspace.filtered / "val.jsonl", [{"instruction": "a", "output": ""}, {"instruction": "a"}])
    write_metrics(workspace, settings)
    item = {item["id"]: item for item in write_checklist(workspace, settings)["items"]}["9.1-format"]
    assert item["passed"] is False
    assert item["measured"] == pytest.approx((20 + 5 + 17) / (27 + 17))


def test_nothing_published_is_told_not_raised(tmp_path: Path, settings: Settings) -> None:
    workspace = Workspace(tmp_path / "empty")
    metrics = write_metrics(workspace, settings)
    charts = write_charts(workspace, settings)
    write_report(workspace, settings)
    report = report_of(workspace)
    assert len(charts) == 8 and all(path.stat().st_size > 1000 for path in charts)
    assert {row["value"] for row in metrics["comparison"]["scores"]} == {None}
    assert {row["difference"] for row in metrics["comparison"]["contrasts"]} == {None}
    assert len(metrics["comparison"]["contrasts"]) == len(TUNED) * 4
    for run in metrics["efficiency"]["runs"]:
        assert {run[name] for name in run if name not in ("method", "seed")} == {None}
    items = items_of(workspace)
    assert items["2.2-rows"]["measured"] is None and items["2.2-rows"]["passed"] is None
    assert items["2.5.1-benchmarks"]["passed"] is False
    assert "not measured" in report and "+0.0" not in report and re.search(r"\bnan\b", report) is None
    assert all(f"## {section}\n" in report for section in SECTIONS)


@pytest.mark.parametrize(
    "gone",
    ["evaluation/results/dpo", "evaluation/results/base/mmlu.samples.jsonl", "models/sft/seed-0/cost.json",
     "data/filtered/dropped.jsonl", "data/raw/stats.json", "data/preference/pairs.jsonl", "models/dpo"],
)  # fmt: skip
def test_one_missing_part_leaves_the_rest(gone: str, study: Workspace, settings: Settings, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.root, workspace.root)
    path = workspace.root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    comparison = write_metrics(workspace, settings)["comparison"]
    write_report(workspace, settings)
    contrasts = {(row["method"], row["benchmark"]): row for row in comparison["contrasts"]}
    assert contrasts["sft", "arc_easy"]["difference"] > 0.1
    assert (contrasts["dpo", "arc_easy"]["difference"] is None) == (gone == "evaluation/results/dpo")
    assert (contrasts["sft", "mmlu"]["p"] is None) == ("mmlu.samples" in gone)
    if gone.startswith("evaluation"):
        assert "not measured" in report_of(workspace)


def test_torn_samples_are_not_believed(study: Workspace, settings: Settings, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.root, workspace.root)
    path = results_folder(workspace, "sft") / "arc_easy.samples.jsonl"
    write_jsonl(path, read_jsonl(path)[:-1])
    contrasts = write_metrics(workspace, settings)["comparison"]["contrasts"]
    row = next(row for row in contrasts if (row["method"], row["benchmark"]) == ("sft", "arc_easy"))
    assert row["difference"] is None and row["p_holm"] is None


def republish(workspace: Workspace, method: str, failures: dict[str, str] | None = None, **inputs: str) -> None:
    """Write a method's manifest of results anew, with other inputs or parts that failed."""
    folder = results_folder(workspace, method)
    manifest = read_json(folder / MANIFEST)
    key = StageKey(manifest["stage"], manifest["version"], manifest["settings"], manifest["inputs"] | inputs)
    files = [path for path in folder.iterdir() if path.name != MANIFEST]
    write_manifest(folder, key, {}, files, ["speed.json", "*.seconds.json"], failures)


@pytest.mark.parametrize("kind", ["stale", "foreign", "altered", "retrained"])
def test_results_of_something_else_are_refused_with_the_reason(
    kind: str, study: Workspace, settings: Settings, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.root, workspace.root)
    folder = results_folder(workspace, "sft")
    if kind == "stale":
        republish(workspace, "sft", **{"models/sft": "another adapter"})
    elif kind == "foreign":
        (folder / MANIFEST).unlink()
    elif kind == "altered":
        results = read_json(folder / "arc_easy.json")
        results["results"]["demo_arc_easy"]["acc,none"] = 1.0
        write_json(folder / "arc_easy.json", results)
    else:
        write_text(workspace.adapter("sft", 0) / "adapter_model.safetensors", "other weights")
    metrics = write_metrics(workspace, settings)
    write_report(workspace, settings)
    reasons = {
        "stale": "input models/sft changed",
        "foreign": "no manifest.json says what it was made from",
        "altered": "arc_easy.json fails its checksum",
        "retrained": "adapter_model.safetensors fails its checksum",
    }
    refused = metrics["tests"]["refused"]
    assert [(row["method"], row["kind"], row["reason"]) for row in refused] == [
        ("sft", "tune" if kind == "retrained" else "evaluate", reasons[kind])
    ]
    assert {row["value"] for row in metrics["comparison"]["scores"] if row["method"] == "sft"} == {None}
    assert None not in {row["value"] for row in metrics["comparison"]["scores"] if row["method"] != "sft"}
    trained = next(run for run in metrics["training"]["runs"] if run["method"] == "sft")
    assert (trained["metrics"] is None) == (kind == "retrained")
    report = report_of(workspace)
    assert "### Not used" in report and reasons[kind] in report and "### Not used" not in report_of(study)
    assert "**LoRA SFT**: not measured on" in report


def test_a_failed_benchmark_is_missing_and_the_rest_is_used(
    study: Workspace, settings: Settings, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.root, workspace.root)
    for path in results_folder(workspace, "dpo").glob("mmlu*"):
        path.unlink()
    republish(workspace, "dpo", {"mmlu": "RuntimeError: the answer is lost"})
    metrics = write_metrics(workspace, settings)
    write_charts(workspace, settings)
    write_report(workspace, settings)
    values = {row["benchmark"]: row["value"] for row in metrics["comparison"]["scores"] if row["method"] == "dpo"}
    assert values.pop("mmlu") is None and None not in values.values()
    assert "| DPO (seed 0) | MMLU failed | RuntimeError: the answer is lost |" in report_of(workspace)
    state = study_stages(settings, workspace)["evaluate-dpo"].state()
    assert not state.done and not state.reasons and list(state.failures) == ["mmlu"]


def test_a_figure_that_is_gone_casts_no_doubt_on_the_rest(study: Workspace, settings: Settings, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.root, workspace.root)
    (results_folder(workspace, "sft") / "speed.json").unlink()
    shutil.rmtree(workspace.adapter("dpo", 0))
    metrics = write_metrics(workspace, settings)
    assert metrics["tests"]["refused"] == []
    assert None not in {row["value"] for row in metrics["comparison"]["scores"]}
    runs = {run["method"]: run for run in metrics["efficiency"]["runs"]}
    assert runs["sft"]["inference_tokens_per_second"] is None and runs["dpo"]["train_seconds"] is None


def test_every_interval_is_named_by_its_level(study: Workspace, tmp_path: Path) -> None:
    looser = load_settings("demo", {"evaluation.alpha": 0.1})
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.root, workspace.root)
    write_metrics(workspace, looser)
    write_report(workspace, looser)
    tables = [line for line in report_of(workspace).splitlines() if line.startswith("| Method |")]
    assert sum(line.count("90% interval") for line in tables) == 5
    assert not any("95%" in line for line in tables)
    assert interval_name(0.025) == "97.5% interval" and interval_name(0.001) == "99.9% interval"


def test_a_study_of_the_base_model_alone_counts_nothing_as_zero(
    study: Workspace, settings: Settings, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.root, workspace.root)
    for method in TUNED:
        for folder in (
            workspace.adapter(method, 0), results_folder(workspace, method), answers_folder(workspace, method, 0)
        ):  # fmt: skip
            shutil.rmtree(folder)
    write_metrics(workspace, settings)
    write_report(workspace, settings)
    report = report_of(workspace)
    assert "better on 0" not in report and "0 seeds" not in report
    assert "LoRA SFT not measured; Prompt tuning not measured" in report
    assert "runs over the 0 tests that were made" in report
    assert "the same instructions that nothing was trained on" in report
    study_of_it = load_study(workspace, settings)
    assert verdict_counts(study_of_it) == "The 12 comparisons with the base model were not measured"


def test_the_summary_of_win_rates_says_what_may_be_chance(study: Workspace) -> None:
    rows = {row["method"]: row for row in load_metrics(study, "win_rates")["rows"]}
    assert rows["sft"]["p_holm"] <= 0.05 < rows["prompt_tuning"]["p_holm"]
    report = report_of(study)
    assert f"LoRA SFT {100 * rows['sft']['win_rate']:.1f}%, Prompt tuning" in report
    assert f"Prompt tuning {100 * rows['prompt_tuning']['win_rate']:.1f}% (may be chance)" in report


@pytest.mark.parametrize(
    ("name", "family", "figures"),
    [
        ("comparison", "contrasts", ("difference", "low", "high", "p", "p_holm", "mde")),
        ("comparison", "between", ("difference", "low", "high", "p", "p_holm", "mde")),
        ("win_rates", "rows", ("win_rate", "low", "high", "p_holm", "high_length_controlled", "mean_words")),
        ("forgetting", "rows", ("difference", "low", "high", "p_holm", "value")),
    ],
)
def test_a_figure_that_is_null_alone_is_not_measured(
    name: str, family: str, figures: tuple[str, ...], study: Workspace, settings: Settings, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.evaluation / "metrics", workspace.evaluation / "metrics")
    path = workspace.evaluation / "metrics" / f"{name}.json"
    whole = read_json(path)
    for figure in figures:
        torn = json.loads(json.dumps(whole))
        torn[family][0][figure] = None
        write_json(path, torn)
        assert re.search(r"\bNone\b|\bnan\b", render_report(workspace, settings)) is None
        write_slides(workspace, settings)
    write_charts(workspace, settings)


def test_lora_and_not_dpo_is_named_for_loras_memory(study: Workspace, settings: Settings, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.evaluation / "metrics", workspace.evaluation / "metrics")
    path = workspace.evaluation / "metrics" / "efficiency.json"
    efficiency = read_json(path)
    for run in efficiency["runs"]:
        run["peak_memory_bytes"] = {"sft": 60 << 20, "prompt_tuning": 40 << 20, "dpo": 50 << 20}.get(run["method"])
    write_json(path, efficiency)
    assert memory(load_study(workspace, settings)).endswith("LoRA SFT in the most, 60.0 MiB")


def test_win_rates_and_forgetting_stand_in_the_report(study: Workspace, settings: Settings) -> None:
    metrics = {name: load_metrics(study, name) for name in ("comparison", "tests", "win_rates", "forgetting")}
    pick = recommendations(metrics, settings)[-1]
    assert pick["use_case"] == "Answers that a reward model prefers" and pick["method"] == "sft"
    report = report_of(study)
    assert "### Answers to held-out instructions" in report and "### Forgetting" in report
    rate = metrics["win_rates"]["rows"][0]["win_rate"]
    assert f"| {100 * rate:.1f}% |" in report
    assert f"| {metrics['forgetting']['rows'][0]['difference']:+.4f} |" in report


def test_writing_again_gives_the_same_bytes(study: Workspace, settings: Settings, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "again")
    build_study(workspace.root, settings)
    write_metrics(workspace, settings)
    write_charts(workspace, settings)
    write_checklist(workspace, settings)
    write_report(workspace, settings)
    write_report(study, settings)
    files = sorted(path.relative_to(workspace.root) for path in workspace.evaluation.rglob("*") if path.is_file())
    assert len(files) > 50
    for file in files:
        assert (workspace.root / file).read_bytes() == (study.root / file).read_bytes(), file


def test_terminal_tables_fit_in_100_columns(study: Workspace, settings: Settings) -> None:
    checklist = checklist_table(load_metrics(study, "checklist")["items"])
    comparison = comparison_table(
        load_metrics(study, "comparison"), load_metrics(study, "efficiency"), list(settings.evaluation.benchmarks), 0.05
    )
    for table in (checklist, comparison, comparison_table(None, None, ["mmlu"], 0.05)):
        assert max(map(len, table.splitlines())) <= 100
    assert "FAIL" in checklist and "not decided" in checklist
    assert "LoRA SFT" in comparison and "better" in comparison and "worse" in comparison


LARGER = {
    "tuning.seeds": 3,
    "tuning.also": {name: {"learning_rate": 1e-3, "search_rates": [1e-4, 1e-3]} for name in ("ia3", "loha")},
    **{f"tuning.{name}.search_rates": [1e-4, 1e-3] for name in TUNED},
}


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Settings]:
    """A study of five methods, three seeds and a search for every learning rate, with its report."""
    settings = load_settings("demo", LARGER)
    workspace = build_study(tmp_path_factory.mktemp("larger") / "workspace", settings)
    write_metrics(workspace, settings)
    write_charts(workspace, settings)
    write_report(workspace, settings)
    return workspace, settings


def test_every_method_and_seed_is_in_the_files(larger: tuple[Workspace, Settings]) -> None:
    workspace, settings = larger
    adapters = {(method, seed) for method in study_methods(settings) for seed in (0, 1, 2)}
    comparison, efficiency = load_metrics(workspace, "comparison"), load_metrics(workspace, "efficiency")
    assert {(row["method"], row["seed"]) for row in comparison["scores"]} == adapters | {("base", 0)}
    assert len(comparison["scores"]) == 4 * (5 * 3 + 1)
    assert [(run["method"], run["seed"]) for run in efficiency["runs"]] == study_runs(settings)
    assert {(run["method"], run["seed"]) for run in load_metrics(workspace, "training")["runs"]} == adapters
    assert {row["method"] for row in comparison["contrasts"]} == set(study_methods(settings))
    stages = load_metrics(workspace, "provenance")["stages"]
    assert {"models/ia3/seed-2", "evaluation/results/base", "evaluation/results/ia3-seed-1"} <= set(stages)


def test_a_report_of_many_runs_says_which_it_shows(larger: tuple[Workspace, Settings]) -> None:
    workspace, settings = larger
    report = report_of(workspace)
    assert "{" not in report[: report.index("## Reproduction")]
    assert "in 5 ways: LoRA, prompt tuning, DPO, IA3 and LoHa" in report
    assert "the seeds 0, 1, 2 on the same data" in report and "it is seed 0" in report
    assert "| LoRA SFT (seed 0) |" in report and "| IA3 (seed 2) |" in report and "Base model (seed" not in report
    assert "| IA3 | 0.0001: 1.500; 0.001: failed | 0.0001 | 12.0 s, 3,400 tokens |" in report
    assert report.count("| Seed 0 | LoRA SFT |") == 2 and "| Peak memory, seed 0 |" in report
    assert report.count("**Warning**") == 1 and "the chosen rate of IA3 is" in report
    assert "none was searched for" not in report
    table = comparison_table(
        load_metrics(workspace, "comparison"), load_metrics(workspace, "efficiency"), ["mmlu", "arc_easy"], 0.05
    )
    assert max(map(len, table.splitlines())) <= 100


def test_the_tests_show_flips_and_the_interval_over_seeds(
    study: Workspace, larger: tuple[Workspace, Settings], tmp_path: Path
) -> None:
    assert "over seeds" not in report_of(study) and "| LoRA SFT | HellaSwag | 240 | each question |" in report_of(study)
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(larger[0].root, workspace.root)
    tests = load_metrics(workspace, "tests")
    own, foreign, graded, old = tests["tests"][:4]
    own |= {
        "right_to_wrong": 4,
        "wrong_to_right": 7.5,
        "seeds": {"count": 3, "low": -0.021, "high": 0.3, "stderr": 0.1},
    }
    foreign["seeds"] = None
    graded |= {"right_to_wrong": None, "wrong_to_right": None}
    for name in ("right_to_wrong", "wrong_to_right", "seeds"):
        del old[name]
    write_json(workspace.evaluation / "metrics" / "tests.json", tests)
    write_report(workspace, larger[1])
    report = report_of(workspace)
    assert "| 95% interval over seeds |" in report and "holds for new trainings on the same data too" in report
    table = report[report.index("| 95% interval over seeds |") :].splitlines()[2:6]
    assert "| 4 | 7.5 |" in table[0] and table[0].endswith("| -2.1 to +30.0 |")
    assert table[1].endswith("| not measured |")
    assert "| does not apply | does not apply |" in table[2]
    assert "| not measured | not measured |" in table[3] and table[3].endswith("| not measured |")


def test_the_checklist_counts_the_required_methods_only(larger: tuple[Workspace, Settings]) -> None:
    items = items_of(larger[0])
    counts = {"2.5.1-benchmarks": 16, "2.5.1-baseline": 12, "9.2-saved": 3, "9.3-benchmarks": 3, "9.3-significance": 12}
    assert {name: items[name]["measured"] for name in counts} == counts


def test_a_report_without_searches_has_no_table_of_them(study: Workspace) -> None:
    report = report_of(study)
    assert "Validation loss by rate" not in report and "Warning" not in report and "(seed" not in report
