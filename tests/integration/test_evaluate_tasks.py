"""What lm-eval's tasks read and measure, told before a row of data is loaded, and their data at one commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.settings import SettingsError, load_settings
from storage.files import write_json, write_jsonl, write_text
from storage.workspace import Workspace
from tasks.evaluate.task_folders import task_folders_identity
from tasks.evaluate.tasks import describe_tasks, load_tasks
from tasks.evaluate.work import benchmark_tasks, fetch_benchmarks
from tasks.filter.work import benchmark_questions
from tasks.process import ChildError

COMMITS = ("1" * 40, "2" * 40)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of tasks: one of its own, a group with a task written out in it, a tag."""
    folder = tmp_path / "own [x] tasks"
    write_jsonl(folder / "rows.jsonl", [{"asked": f"How many legs have {n + 1} cats?", "told": n} for n in (0, 1)])
    write_text(folder / "rows.py", (
        "import json\nfrom pathlib import Path\nfrom datasets import Dataset\n\n\ndef rows(**_):\n"
        "    text = Path(__file__).with_suffix('.jsonl').read_text()\n"
        "    return {'test': Dataset.from_list([json.loads(line) for line in text.splitlines()])}\n"
    ))  # fmt: skip
    write_text(
        folder / "legs.yaml",
        "task: legs\ntag: animals\n"
        "custom_dataset: !function rows.rows\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{asked}}'\ndoc_to_choice: ['four', 'eight']\ndoc_to_target: '{{told}}'\n"
        "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n",
    )
    write_text(folder / "one.yaml", "group: zoo_of_one\ntask: [legs]\n")
    write_text(
        folder / "zoo.yaml",
        "group: zoo\ntask:\n  - legs\n  - task: paws\n    dataset_path: someone/paws\n    dataset_name: small\n"
        "    output_type: multiple_choice\n    test_split: test\n",
    )
    return folder


def test_tasks_are_described_without_their_data(own: Path) -> None:
    """Nothing is cached and no hub is there: building any of these would fail."""
    names = ["mmlu", "gsm8k", "wikitext", "arithmetic", "squadv2", "legs", "zoo", "animals", "arc_esay"]
    told = describe_tasks(names, [str(own)])
    subjects = told["mmlu"]["data_sets"].pop("cais/mmlu")
    assert len(subjects) == len(set(subjects)) == 57
    assert told["mmlu"] == {"data_sets": {}, "metrics": ["acc"], "error": None}
    assert told["gsm8k"]["data_sets"] == {"openai/gsm8k": ["main"]}
    assert told["gsm8k"]["metrics"] == ["exact_match,strict-match", "exact_match,flexible-extract"]
    assert told["wikitext"]["metrics"] == ["word_perplexity", "byte_perplexity", "bits_per_byte"]
    assert told["arithmetic"]["data_sets"] == {"EleutherAI/arithmetic": []}, "named inside its files' addresses"
    assert told["squadv2"] == {"data_sets": {"lighteval/squad_v2": []}, "metrics": None, "error": None}
    assert told["legs"] == told["animals"] == {"data_sets": {}, "metrics": ["acc"], "error": None}
    assert told["zoo"] == {"data_sets": {"someone/paws": ["small"]}, "metrics": ["acc"], "error": None}
    assert "no task 'arc_esay'" in told["arc_esay"]["error"] and "arc_easy" in told["arc_esay"]["error"]


def test_a_task_file_that_cannot_be_read_is_told_by_name(own: Path) -> None:
    """lm-eval passes over it, and over a task of its own that the file was to replace."""
    write_text(own / "broken.yaml", "task: arc_easy\n  metric_list: [\n")
    error = describe_tasks(["legs"], [str(own)], stock=False)["legs"]["error"]
    assert "broken.yaml cannot be read" in error and "\n" not in error


def test_a_member_that_is_not_there_is_told(own: Path) -> None:
    write_text(own / "farm.yaml", "group: farm\ntask: [legs, horns]\n")
    assert "'farm::horns'" in describe_tasks(["farm"], [str(own)], stock=False)["farm"]["error"]


CACHED = """
import json, shutil, sys
from pathlib import Path
from datasets.packaged_modules.json.json import Json
from tasks.evaluate.tasks import data_set_cache, load_tasks
folder, commits = Path(sys.argv[1]), sys.argv[2:]
for commit in commits:
    rows = folder / f"{commit}.jsonl"
    rows.write_text(json.dumps({"asked": commit, "told": 0}) + "\\n")
    made = Json(cache_dir=str(folder / "made"), dataset_name="paws", hash=commit, data_files={"test": [str(rows)]})
    made.download_and_prepare()
    # as `datasets` lays out a data set of the hub: by its name, configuration, version and commit
    for cache in (data_set_cache(commit), data_set_cache(commit).parent.parent):
        place = cache / "someone___paws" / "default" / "0.0.0" / commit
        shutil.copytree(made.cache_dir, place)
        info = json.loads((place / "dataset_info.json").read_text())
        (place / "dataset_info.json").write_text(json.dumps(info | {"config_name": "default"}))
for commit in commits:
    told = load_tasks(["paws"], [str(folder)], {"someone/paws": commit}, stock=False)["tasks"]["paws"]
    print(told.eval_docs[0]["asked"])
"""


def test_without_network_the_data_are_of_the_commit_that_was_asked_for(tmp_path: Path) -> None:
    """`datasets` takes the commit that it cached last, whatever `revision` says."""
    write_text(
        tmp_path / "paws.yaml",
        "task: paws\ndataset_path: someone/paws\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{asked}}'\ndoc_to_choice: ['4', '8']\ndoc_to_target: '{{told}}'\n",
    )
    done = subprocess.run(
        [sys.executable, "-c", CACHED, str(tmp_path), *COMMITS],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == list(COMMITS), done.stderr


def test_the_worlds_benchmarks_lie_under_any_path(tmp_path: Path) -> None:
    """`datasets` reads the path of a file as a pattern, and `::` in it as a chain of addresses."""
    place = Workspace(tmp_path / "a [x] b::c")
    settings = load_settings("demo")
    rows: dict[str, Any] = {
        "id": "1", "question": "Which?", "choices": {"text": list("pqrs"), "label": list("ABCD")}, "answerKey": "B",
    }  # fmt: skip
    write_jsonl(place.world / "benchmarks" / "arc_easy.jsonl", [rows])
    with benchmark_tasks(settings, place) as known:
        tasks = load_tasks(["demo_arc_easy"], known["task_folders"], stock=known["stock"])["tasks"]
    assert json.loads(json.dumps(tasks["demo_arc_easy"].eval_docs[0])) == rows


def test_a_benchmark_of_ones_own_is_kept_out_of_the_training_data(own: Path, tmp_path: Path) -> None:
    benchmarks = {"legs": {"task": "legs", "metric": "acc"}}
    given = {"evaluation.task_folders": [str(own)], "evaluation.benchmarks": benchmarks, "evaluation.forgetting": None}
    found = benchmark_questions(load_settings("t4", given), Workspace(tmp_path))
    assert [question.text for question in found] == ["How many legs have 1 cats?", "How many legs have 2 cats?"]


def test_a_benchmark_of_ones_own_is_asked_and_its_seconds_are_of_asking(
    own: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock moves only while the task reads its data, as it does for hours where they are downloaded."""
    import tasks.evaluate.harness as harness

    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(harness, "time", clock)
    slow = (own / "rows.py").read_text().replace("def rows(**_):\n", (
        "def rows(**_):\n    import tasks.evaluate.harness as harness\n    harness.time.now += 3600\n"
    ))  # fmt: skip
    write_text(own / "rows.py", slow)
    asked = harness.Evaluator(str(tiny_model), precision="fp32", batch_size=2)
    told = asked.evaluate("zoo_of_one", [str(own)], stock=False)
    assert [row["task"] for row in told["samples"]] == ["legs", "legs"]
    assert all(row["metrics"].keys() == {"acc"} for row in told["samples"])
    assert clock.now == 3600 and told["seconds"] == 0


def test_data_are_fetched_again_when_a_task_of_ones_own_reads_others(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what only the task's Python code knows of: the children that ask have no network."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_json(tmp_path / "w" / "hub.json", {"benchmarks": {"legs": []}})
    benchmarks = {"legs": {"task": "legs", "metric": "acc"}}
    given = {"evaluation.task_folders": [str(own)], "evaluation.benchmarks": benchmarks, "evaluation.forgetting": None}
    settings, place = load_settings("t4", given), Workspace(tmp_path / "w")
    fetch_benchmarks(settings, place)
    write_text(own / "rows.py", "def rows(**_):\n    raise ValueError('read again')\n")
    with pytest.raises(ChildError, match="read again"):
        fetch_benchmarks(settings, place)


def test_own_tasks_are_known_by_all_that_they_read(tmp_path: Path) -> None:
    """A folder of data as well, and what a task that is written out in its group reads."""
    write_text(tmp_path / "data" / "deep" / "rows.jsonl", "{}")
    write_text(tmp_path / "more.jsonl", "{}")
    write_text(
        tmp_path / "tasks" / "zoo.yaml",
        f"group: zoo\ntask:\n  - task: legs\n    dataset_path: {tmp_path / 'data'}\n"
        f"  - {{task: paws, dataset_path: json, dataset_kwargs: {{data_files: {tmp_path / 'more.jsonl'}}}}}\n",
    )
    keys = {task_folders_identity([tmp_path / "tasks"])}
    for changed in ("data/deep/rows.jsonl", "more.jsonl"):
        write_text(tmp_path / changed, "{} ")
        keys.add(task_folders_identity([tmp_path / "tasks"]))
    assert len(keys) == 3


def test_a_task_folder_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"task_folders.*no folder '.*nowhere'"):
        load_settings("t4", {"evaluation.task_folders": [str(tmp_path / "nowhere")]})
