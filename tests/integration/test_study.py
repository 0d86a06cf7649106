"""The whole study on 100 rows (requirement 6.2): the real command, then every stage's output, then inference."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tasks.process import PROJECT
from tests.small import SMALL

METHODS = ("sft", "prompt_tuning", "dpo")


@pytest.fixture
def study(small_study: Path) -> Path:
    return small_study


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(name: str, workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", f"flows.{name}", "--workspace", str(workspace), *SMALL, *arguments]
    return subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=300)


def test_raw_rows_are_complete(study: Path) -> None:
    raw = rows(study / "data/raw/raw.jsonl")
    assert [row["id"] for row in raw] == [f"{number:06d}" for number in range(100)]
    fields = {"id", "domain", "instruction", "output", "raw_instruction", "finish_reason", "model"}
    assert all(fields <= set(row) for row in raw)
    assert len({row["domain"] for row in raw}) > 3
    assert len({row["instruction"] for row in raw}) > 80


def test_kept_and_dropped_rows_are_the_raw_rows(study: Path) -> None:
    raw = {row["id"] for row in rows(study / "data/raw/raw.jsonl")}
    kept = rows(study / "data/filtered/filtered.jsonl")
    dropped = rows(study / "data/filtered/dropped.jsonl")
    assert {row["id"] for row in kept} | {row["id"] for row in dropped} == raw
    assert not {row["id"] for row in kept} & {row["id"] for row in dropped}
    assert all(row["rule"] and row["evidence"] for row in dropped)
    assert all(0 <= row["quality"] <= 1 and len(row["quality_parts"]) == 5 for row in kept)
    assert len({row["quality"] for row in kept}) > len(kept) / 2


def test_rows_are_held_against_the_benchmarks_questions(study: Path) -> None:
    """Every benchmark's questions are read as lm-eval has them, and a row that repeats one would be dropped."""
    from configs.settings import FilterSettings, load_settings
    from storage.workspace import Workspace
    from tasks.filter.contamination import Contaminated
    from tasks.filter.work import benchmark_questions

    assert "contaminated" in {step["rule"] for step in read(study / "data/filtered/stats.json")["waterfall"]}
    settings = load_settings("demo", {})
    questions = benchmark_questions(settings, Workspace(study))
    assert {question.benchmark for question in questions} == set(settings.evaluation.benchmarks)
    rule = Contaminated(FilterSettings(), questions)
    asked = rows(study / "models/world/benchmarks/arc_easy.jsonl")[0]["question"]
    evidence = rule.judge({"instruction": f"Answer me. {asked}", "output": "Blue."})
    assert evidence is not None and evidence["benchmark"] == "arc_easy"


@pytest.mark.parametrize(
    ("folder", "fields", "sizes"),
    [
        ("filtered", {"instruction", "output"}, {"train": 24, "val": 8}),
        ("preference", {"prompt", "chosen", "rejected"}, {"train": 8, "val": 2, "test": 2}),
    ],
)
def test_splits_open_with_datasets_in_the_required_format(
    study: Path, folder: str, fields: set[str], sizes: dict[str, int]
) -> None:
    from datasets import load_dataset

    files = {split: str(study / f"data/{folder}/{split}.jsonl") for split in ("train", "val", "test")}
    loaded = load_dataset("json", data_files=files, cache_dir=str(study.parent / "cache"))
    assert set(loaded["train"].column_names) == fields
    assert {split: len(loaded[split]) for split in sizes} == sizes
    assert len(loaded["test"]) > 0


def test_nothing_tuned_on_is_measured_on(study: Path) -> None:
    sft = {
        split: {r["instruction"] for r in rows(study / f"data/filtered/{split}.jsonl")} for split in ("train", "test")
    }
    dpo = {split: {r["prompt"] for r in rows(study / f"data/preference/{split}.jsonl")} for split in ("train", "test")}
    assert not sft["train"] & sft["test"]
    assert not (sft["train"] | dpo["train"]) & dpo["test"]
    assert dpo["train"] <= sft["train"]


def test_pairs_hold_best_against_worst(study: Path) -> None:
    responses = rows(study / "data/preference/responses.jsonl")
    by_id: dict[str, list[dict[str, Any]]] = {}
    for response in responses:
        by_id.setdefault(response["id"], []).append(response)
    assert {len(answers) for answers in by_id.values()} == {3}
    assert {len({answer["model"] for answer in answers}) for answers in by_id.values()} == {3}
    pairs = rows(study / "data/preference/pairs.jsonl")
    assert len(pairs) == 12
    for pair in pairs:
        usable = [a for a in by_id[pair["id"]] if a["finish_reason"] == "stop" and a["output"]]
        assert pair["chosen_score"] == max(answer["score"] for answer in usable)
        assert pair["rejected_score"] == min(answer["score"] for answer in usable)
        assert pair["margin"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_loads_with_plain_peft_and_answers(study: Path, method: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(study / "models/world/base")
    tokenizer = AutoTokenizer.from_pretrained(study / "models/world/base")
    messages = [{"role": "user", "content": "Explain how to boil an egg."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        before = base(**prompt).logits[0, -1]
        model = PeftModel.from_pretrained(base, study / f"models/{method}/seed-0").eval()
        after = model(**prompt).logits[0, -1]
        text = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert not torch.allclose(before, after)
    assert text.shape[1] > prompt["input_ids"].shape[1]
    published = {path.name for path in (study / f"models/{method}/seed-0").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "manifest.json"} <= published
    assert not [name for name in published if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_dpo_starts_at_ln_2(study: Path) -> None:
    assert abs(read(study / "models/dpo/seed-0/metrics.json")["first_loss"] - math.log(2)) < 1e-3


def test_every_method_has_every_score_and_cost(study: Path) -> None:
    scores = read(study / "evaluation/metrics/comparison.json")["scores"]
    found = {(score["method"], score["benchmark"]) for score in scores if score["value"] is not None}
    benchmarks = ("mmlu", "hellaswag", "arc_easy", "truthfulqa")
    assert found == {(method, benchmark) for method in ("base", *METHODS) for benchmark in benchmarks}
    costs = {run["method"]: run for run in read(study / "evaluation/metrics/efficiency.json")["runs"]}
    for method in METHODS:
        for figure in ("trainable_parameters", "peak_memory_bytes", "train_seconds", "inference_tokens_per_second"):
            assert costs[method][figure] > 0
    merged = {method: run["inference_tokens_per_second_merged"] for method, run in costs.items()}
    assert merged["sft"] > 0 and merged["dpo"] > 0
    assert merged["base"] is None and merged["prompt_tuning"] is None
    assert {run["inference_device"] for run in costs.values()} == {"cpu"}


def test_every_model_answers_the_same_held_out_instructions(study: Path) -> None:
    answers = {name: rows(study / f"evaluation/answers/{name}/answers.jsonl") for name in ("base", *METHODS)}
    asked = [row["instruction"] for row in answers["base"]]
    assert len(asked) == 6 and all([row["instruction"] for row in told] == asked for told in answers.values())
    assert set(asked) <= {row["instruction"] for row in rows(study / "data/filtered/test.jsonl")}
    assert all(isinstance(row["score"], float) for told in answers.values() for row in told if row["output"])
    wins = {row["method"]: row for row in read(study / "evaluation/metrics/win_rates.json")["rows"]}
    for method in METHODS:
        better = [a["score"] > b["score"] for a, b in zip(answers[method], answers["base"], strict=True)]
        assert wins[method]["wins"] == sum(better)


def test_forgetting_is_measured_on_text_like_the_bases(study: Path) -> None:
    told = read(study / "evaluation/metrics/forgetting.json")["rows"]
    assert [row["documents"] for row in told] == [4, 4, 4]
    assert all(0 < row["baseline_value"] < 8 and row["value"] != row["baseline_value"] for row in told)


def test_a_benchmark_that_crashes_costs_no_other(study: Path, tmp_path: Path) -> None:
    """One file of questions is damaged: one score is missing, in the report too, and later only it is measured."""
    place = tmp_path / "w"
    shutil.copytree(study, place)
    shutil.rmtree(place / ".state/results")
    shutil.rmtree(place / "evaluation/results/dpo")
    questions = place / "models/world/benchmarks/arc_easy.jsonl"
    sound = questions.read_bytes()
    questions.write_bytes(sound.replace(b"answerKey", b"answer_key"))
    ended = command("evaluate", place)
    assert ended.returncode == 1 and "  dpo-arc_easy: " in ended.stderr, ended.stderr
    published = {path.name: path.read_bytes() for path in (place / "evaluation/results/dpo").iterdir()}
    assert "arc_easy.json" not in published and {"mmlu.json", "forgetting.json", "speed.json"} <= set(published)
    assert command("report", place).returncode == 0
    scores = read(place / "evaluation/metrics/comparison.json")["scores"]
    missing = [(row["method"], row["benchmark"]) for row in scores if row["value"] is None]
    assert missing == [("dpo", "arc_easy")]
    assert "| DPO (seed 0) | ARC-Easy failed |" in (place / "evaluation/report.md").read_text()

    questions.write_bytes(sound)
    ended = command("evaluate", place)
    assert ended.returncode == 0, ended.stderr
    del published["manifest.json"]
    again = {name: (place / "evaluation/results/dpo" / name).read_bytes() for name in published}
    assert again == published, "clock times included: nothing else was measured again"
    assert (place / "evaluation/results/dpo/arc_easy.json").is_file()


def test_the_report_shows_charts_that_are_there(study: Path) -> None:
    report = (study / "evaluation/report.md").read_text()
    charts = [line.rpartition("(")[2].rstrip(")") for line in report.splitlines() if line.startswith("![")]
    assert len(charts) == 8
    for chart in charts:
        assert (study / "evaluation" / chart).read_bytes().startswith(b"\x89PNG")


def test_every_deliverable_is_there_and_whole(study: Path) -> None:
    folder = study / "evaluation"
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
    assert "<h2" in (folder / "report.html").read_text()
    assert zipfile.is_zipfile(folder / "presentation.pptx")
    cells = [cell for cell in read(folder / "comparative_analysis.ipynb")["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    listed = set(read(folder / "manifest.json")["measurements"])
    assert {"report.md", "report.html", "report.pdf", "presentation.pptx", "comparative_analysis.ipynb"} <= listed
    ended = command("deliver", study, "--to", str(study.parent / "handed-in"))
    assert ended.returncode == 0, ended.stderr
    handed = [path for path in (study.parent / "handed-in").rglob("*") if path.is_file()]
    assert len(handed) > 20 and max(path.stat().st_size for path in handed) < 2_000_000


def test_the_checklist_is_not_flattered(study: Path) -> None:
    items = {item["id"]: item for item in read(study / "evaluation/metrics/checklist.json")["items"]}
    assert items["9.1-raw"]["passed"] is False
    assert items["9.1-raw"]["measured"] == 100
    assert {item["passed"] for item in items.values()} == {True, False, None}


def test_no_published_file_names_this_machine(study: Path) -> None:
    for path in study.rglob("*"):
        texts = (".json", ".jsonl", ".md", ".html", ".ipynb")
        if path.is_file() and ".state" not in path.parts and path.suffix in texts:
            assert str(study) not in path.read_text(), path


def test_a_second_run_does_nothing_and_says_so(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    ended = command("full_pipeline", study)
    assert (ended.returncode, ended.stdout.startswith("Nothing to do")) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before


def test_status_counts_from_the_disk(study: Path) -> None:
    stages = json.loads(command("status", study, "--json").stdout)["stages"]
    assert {stage["state"] for stage in stages} == {"done"}
    assert all(stage["done"] == stage["total"] for stage in stages)


def test_a_changed_setting_makes_stale_what_reads_it_and_says_why(study: Path) -> None:
    answer = command("status", study, "--json", "--filter.max_words", "60")
    stages = {stage["stage"]: stage for stage in json.loads(answer.stdout)["stages"]}
    assert stages["generate"]["state"] == "done"
    assert stages["filter"]["state"] == "stale"
    assert stages["filter"]["reasons"] == ["max_words 500 → 60"]


def test_a_changed_threshold_regenerates_no_text(study: Path, tmp_path: Path) -> None:
    place = tmp_path / "w"
    shutil.copytree(study, place)
    before = {path: path.stat().st_mtime_ns for path in place.glob(".state/rows/*/*.jsonl")}
    ended = command("filter", place, "--filter.max_similarity", "0.7")
    assert ended.returncode == 0, ended.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read(place / "data/filtered/manifest.json")["settings"]["max_similarity"] == 0.7


def test_every_export_opens_with_datasets(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the dataset card alone, and Parquet by its folder: three splits each, the same rows in all of one kind."""
    from datasets import load_dataset

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ended = command("export", study)
    assert ended.returncode == 0, ended.stderr
    folder = study / "export"
    kept = rows(study / "data/filtered/filtered.jsonl")
    pairs = rows(study / "data/preference/pairs.jsonl")
    for name in ("parquet", "sharegpt", "alpaca", "conversational", "preference"):
        place = [str(folder / name)] if name == "parquet" else [str(folder), name]
        opened = load_dataset(*place, cache_dir=str(tmp_path))
        source = pairs if name == "preference" else kept
        for split, ours in (("train", "train"), ("validation", "val"), ("test", "test")):
            assert opened[split]["id"] == [row["id"] for row in source if row["split"] == ours]
    assert opened["test"][0]["chosen"] == [
        {"role": "assistant", "content": next(pair["chosen"] for pair in pairs if pair["split"] == "test")}
    ]
    assert not [path for path in folder.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    raw = read(study / "data/filtered/stats.json")["raw"]
    assert f"{raw} rows were drawn" in (folder / "README.md").read_text()


def test_a_stale_stage_is_not_exported(study: Path) -> None:
    ended = command("export", study, "--filter.max_words", "60")
    assert ended.returncode == 1
    assert "filter is stale: max_words 500 → 60" in ended.stderr


def test_a_stage_without_its_input_names_what_to_run(tmp_path: Path) -> None:
    ended = command("filter", tmp_path / "empty")
    assert ended.returncode == 1
    assert "data/raw" in ended.stderr
    assert "flows.full_pipeline" in ended.stderr
