"""The comparative notebook, executed: it confirms the report, fails where a figure was altered, and runs on its own."""

from __future__ import annotations

import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import pandas as pd
import psutil
import pytest

from configs.settings import Settings, load_settings
from storage.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from storage.workspace import Workspace
from tasks.evaluate.results import answers_file, results_folder, study_runs
from tasks.process import PROJECT, run_in_child
from tasks.report.charts import write_charts
from tasks.report.notebook import SOURCE, NotebookError, notebook_text, write_notebook
from tasks.report.report import write_metrics, write_report
from tests.unit.test_report_study import LARGER, build_study, publish

Change = Callable[[Path], Any]


def reported(workspace: Workspace, settings: Settings) -> Workspace:
    """The study with its metrics, charts and report."""
    write_metrics(workspace, settings)
    write_charts(workspace, settings)
    write_report(workspace, settings)
    return workspace


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings("demo")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Workspace:
    """A study with its report and its notebook."""
    workspace = reported(build_study(tmp_path_factory.mktemp("study") / "workspace", settings), settings)
    write_notebook(workspace, settings)
    return workspace


@pytest.fixture
def copy(study: Workspace, tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "copy")
    shutil.copytree(study.evaluation, workspace.evaluation)
    return workspace


def read_notebook(workspace: Workspace) -> Any:
    return nbformat.read(workspace.evaluation / "comparative_analysis.ipynb", as_version=4)


def told(notebook: Any) -> str:
    """All that the notebook printed or displayed, as text."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def run_cells(folder: Path) -> dict[str, Any]:
    """The notebook's names after its cells have run, without a kernel, in this process."""
    place = Path.cwd()
    os.chdir(folder)
    try:
        with matplotlib.rc_context(), pd.option_context("display.width", None):
            matplotlib.use("agg")
            return runpy.run_path(str(SOURCE))
    finally:
        os.chdir(place)
        pd.reset_option("^display")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that were started with a path in this folder: a kernel is given its connection file."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


def test_the_executed_notebook_confirms_the_report(study: Workspace) -> None:
    notebook = read_notebook(study)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for cell in code for output in cell.outputs} == {"stream", "display_data"}
    assert len([1 for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]) == 4
    text = told(notebook)
    compared = re.search(r"(\d+) figures recomputed and compared: all agree", text)
    assert compared and int(compared[1]) > 300
    assert "differences: 12 recomputed, largest deviation 0" in text
    assert "recommendations, in report.md: 5 recomputed" in text
    assert re.search(r"\b(nan|None|Warning)\b", text) is None
    everything = (study.evaluation / "comparative_analysis.ipynb").read_text(encoding="utf-8")
    for place in (str(study.root), str(PROJECT), sys.prefix, str(Path.home()) + "/"):
        assert place not in everything


def test_the_users_jupyter_changes_nothing_and_nothing_is_left_behind(
    study: Workspace, copy: Workspace, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "ipython" / "profile_default" / "startup" / "00.py", "raise SystemExit('startup file')")
    write_text(tmp_path / "ipython" / "profile_default" / "ipython_kernel_config.py", "c.IPKernelApp.pylab = 'qt'")
    write_text(tmp_path / "jupyter" / "jupyter_config.json", '{"KernelManager": {"ip": "0.0.0.0"}}')
    broken = {"argv": ["false"], "display_name": "Python 3", "language": "python"}
    write_json(tmp_path / "data" / "kernels" / "python3" / "kernel.json", broken)
    write_text(tmp_path / "startup.py", "raise SystemExit('PYTHONSTARTUP')")
    write_text(tmp_path / "matplotlibrc", "font.size: 30\naxes.facecolor: red\n")
    (tmp_path / "tmp").mkdir()
    for name, value in {
        "IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "jupyter", "JUPYTER_DATA_DIR": "data", "JUPYTER_PATH": "data",
        "PYTHONSTARTUP": "startup.py", "MATPLOTLIBRC": "matplotlibrc", "TMPDIR": "tmp",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("MPLBACKEND", "module://nowhere")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    path = write_notebook(copy, settings)
    assert path.read_bytes() == (study.evaluation / path.name).read_bytes()
    assert processes_of(tmp_path) == [] and list((tmp_path / "tmp").iterdir()) == []


def test_stripped_and_executed_in_another_folder_it_says_the_same(study: Workspace, copy: Workspace) -> None:
    before = read_notebook(study)
    stripped = read_notebook(study)
    for cell in stripped.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    arguments = {"text": notebook_text(stripped), "folder": str(copy.evaluation)}
    result = run_in_child("tasks.report.notebook:execute", arguments, threads=1)
    after = nbformat.reads(result["text"], as_version=4)
    assert result["failure"] is None and len(told(after)) > 10_000
    assert [cell.get("outputs") for cell in after.cells] == [cell.get("outputs") for cell in before.cells]


def test_an_altered_figure_stops_it_and_is_named(copy: Workspace, settings: Settings) -> None:
    file = copy.evaluation / "metrics" / "comparison.json"
    comparison = read_json(file)
    comparison["contrasts"][1]["difference"] += 0.001
    write_json(file, comparison)
    with pytest.raises(NotebookError, match=r'"7.1 Pairing"\) failed: AssertionError: differences.*hellaswag'):
        write_notebook(copy, settings)
    notebook = read_notebook(copy)
    assert "scores and standard errors: 32 recomputed" in told(notebook)
    assert [
        cell.outputs[-1].ename for cell in notebook.cells if cell.get("outputs") and "ename" in cell.outputs[-1]
    ] == ["AssertionError"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("comparison", ["scores", 3, "stderr"]), ("comparison", ["contrasts", 2, "low"]),
        ("comparison", ["contrasts", 2, "p"]), ("comparison", ["contrasts", 2, "p_holm"]),
        ("comparison", ["contrasts", 2, "mde"]), ("tests", ["tests", 1, "stderr"]), ("tests", ["tests", 1, "changed"]),
        ("tests", ["tests", 1, "p_mcnemar"]), ("efficiency", ["runs", 1, "train_seconds"]),
        ("win_rates", ["rows", 0, "win_rate_length_controlled"]), ("forgetting", ["rows", 1, "difference"]),
        ("dataset", ["waterfall", 1, "rows"]), ("checklist", ["items", 0, "passed"]),
    ],
)  # fmt: skip
def test_every_kind_of_figure_is_checked(name: str, path: list[Any], copy: Workspace) -> None:
    file = copy.evaluation / "metrics" / f"{name}.json"
    content = read_json(file)
    *steps, last = path
    row = content
    for step in steps:
        row = row[step]
    row[last] = not row[last] if isinstance(row[last], bool) else row[last] * 1.001 + 0.001
    write_json(file, content)
    with pytest.raises(AssertionError, match="but the report has"):
        run_cells(copy.evaluation)


def test_another_recommendation_in_the_report_is_found(copy: Workspace) -> None:
    report = copy.evaluation / "report.md"
    text = report.read_text(encoding="utf-8")
    write_text(report, text.replace("| Shortest training time | Prompt tuning |", "| Shortest training time | DPO |"))
    with pytest.raises(AssertionError, match="recommendations"):
        run_cells(copy.evaluation)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: content if key == "seed" else without_numbers(content) for key, content in value.items()}
    if isinstance(value, list):
        return [without_numbers(content) for content in value]
    return None if isinstance(value, (int, float)) else value


@pytest.mark.parametrize(
    "gone",
    ["metrics", "results", "answers", "report.md", "results/dpo", "results/base/mmlu.json", "results/sft/speed.json",
     "answers/base", *(f"metrics/{name}.json" for name in ("provenance", "comparison", "tests", "training"))],
)  # fmt: skip
def test_what_is_missing_is_told_and_the_rest_is_confirmed(
    gone: str, copy: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    remove(copy.evaluation / gone)
    checked = run_cells(copy.evaluation)["checked"]
    text = capsys.readouterr().out
    assert "not measured" in text and re.search(r"\b(nan|None)\b", text) is None
    assert (checked["scores and standard errors"] == 0) == (
        gone in ("metrics", "results", "metrics/provenance.json", "metrics/comparison.json")
    )
    assert (checked["win rates"] == 0) == (gone in ("metrics", "metrics/provenance.json", "answers", "answers/base"))
    if gone == "results/dpo":
        assert checked["differences"] == checked["p values after Holm"] == 8


@pytest.mark.parametrize("name", ["comparison", "tests", "training", "dataset", "efficiency", "win_rates", "checklist"])
def test_figures_that_are_null_are_no_error(name: str, copy: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    file = copy.evaluation / "metrics" / f"{name}.json"
    write_json(file, without_numbers(read_json(file)))
    run_cells(copy.evaluation)
    text = capsys.readouterr().out
    assert "on one side only" in text and "all agree" in text and re.search(r"\bnan\b", text) is None


def test_a_study_without_anything_has_a_notebook(tmp_path: Path, settings: Settings) -> None:
    workspace = reported(Workspace(tmp_path / "empty"), settings)
    text = told(nbformat.read(write_notebook(workspace, settings), as_version=4))
    assert "LoRA SFT" in text and "not measured" in text and re.search(r"\b(nan|None)\b", text) is None


def test_several_seeds_further_methods_and_searches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings("demo", LARGER | {"seed": 2})
    workspace = build_study(tmp_path / "workspace", settings)
    for method, seed in study_runs(settings):
        alter(workspace, settings, method, seed)
    publish(workspace, settings)
    names = run_cells(reported(workspace, settings).evaluation)
    text = capsys.readouterr().out
    assert "on one side only" not in re.sub(r"(mean quality|facts about|convergence|cost figures).*", "", text)
    assert names["checked"]["differences"] == names["checked"]["p values after Holm"] == 5 * 4
    assert names["checked"]["scores and standard errors"] == 2 * 4 * (1 + 5 * 3)
    assert names["checked"]["intervals over seeds"] == 3 * 5 * 4
    assert names["checked"]["chosen learning rates"] == 5
    assert names["checked"]["p values of McNemar's test"] == 0, "means over seeds"
    assert "Seed 4" in text and "IA3" in text and "LoHa" in text and "0.001: inf" in text


def alter(workspace: Workspace, settings: Settings, method: str, seed: int) -> None:
    """Give every run answers of its own: graded on TruthfulQA, unequal subjects on MMLU, a question asked twice."""
    chance = random.Random(f"{method}-{seed}")
    for name, benchmark in settings.evaluation.benchmarks.items():
        folder = results_folder(workspace, method, seed)
        rows = read_jsonl(folder / f"{name}.samples.jsonl")
        for i, row in enumerate(rows):
            turned = abs(row["metrics"][benchmark.metric] - (chance.random() < 0.1))
            row["metrics"] = {benchmark.metric: chance.random() if name == "truthfulqa" else turned}
            if name == "mmlu":
                row["cluster"] = f"subject {int(i**0.7)}"
            if i in (7, 8):
                row["doc_hash"] = "twice"
        write_jsonl(folder / f"{name}.samples.jsonl", rows)
        results = read_json(folder / f"{name}.json")
        mean = sum(row["metrics"][benchmark.metric] for row in rows) / len(rows)
        results["results"][benchmark.task][f"{benchmark.metric},none"] = mean
        write_json(folder / f"{name}.json", results)
    texts = read_jsonl(answers_file(workspace, method, seed))
    for row in texts[::9]:
        row["score"] = 1.0
    texts[0] |= {"output": "", "score": None}
    write_jsonl(answers_file(workspace, method, seed), texts)


def test_a_kernel_that_cannot_start_is_told_and_leaves_a_notebook_to_run(
    copy: Workspace, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "broken" / "comm" / "__init__.py", "raise ImportError('no kernel here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with pytest.raises(NotebookError, match="no kernel could execute it, so it has no outputs: .*died"):
        write_notebook(copy, settings)
    notebook = read_notebook(copy)
    assert told(notebook) == "" and len(notebook.cells) > 60


def test_a_killed_study_leaves_no_kernel(copy: Workspace, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from configs.settings import load_settings; "
        "from storage.workspace import Workspace; from tasks.report.notebook import write_notebook; "
        f"write_notebook(Workspace(Path({str(copy.root)!r})), load_settings('demo'))"
    )
    own = tmp_path / "tmp"
    own.mkdir()
    study = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, env=os.environ | {"TMPDIR": str(own)})
    wait_until(lambda: bool(processes_of(own)))
    study.send_signal(signal.SIGKILL)
    study.wait()
    wait_until(lambda: not processes_of(own))


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)
