"""A study of models and data sets from a hub: looked at before it begins, pinned once, then run without the hub.

The hub is a stand-in on this machine (`tests/hub.py`); its client, transformers, datasets and lm-eval are real.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.settings import PROFILE_FOLDER, load_settings
from storage.files import write_jsonl, write_text
from storage.workspace import Workspace
from tasks.process import PROJECT, free_port
from tests.hub import Hub, Repo, running_hub
from tests.tiny import build_tiny_model

ROLES = ("teacher", "responder_a", "responder_b", "base")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repos")
    for seed, role in enumerate(ROLES):
        build_tiny_model(folder / role, seed=seed)
    build_tiny_model(folder / "reward", classifier=True)
    write_jsonl(
        folder / "legs" / "test.jsonl",
        [{"asked": f"How many legs have {n + 1} cats of the north?", "told": n} for n in (0, 1)],
    )
    return folder


@pytest.fixture
def hub(models: Path, tmp_path: Path) -> Iterator[Hub]:
    """Its repositories can be changed: they are this test's own copies."""
    shutil.copytree(models, tmp_path / "repos")
    with running_hub() as hub:
        for role in (*ROLES, "reward"):
            hub.repos[f"models/someone/{role}"] = Repo(tmp_path / "repos" / role)
        hub.repos["datasets/someone/legs"] = Repo(tmp_path / "repos" / "legs")
        yield hub


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile of one's own, with a task of one's own."""
    write_text(
        tmp_path / "own tasks" / "legs.yaml",
        "task: own_legs\ndataset_path: someone/legs\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{asked}}'\ndoc_to_choice: ['four', 'eight']\ndoc_to_target: '{{told}}'\n"
        "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n",
    )
    values = yaml.safe_load((PROFILE_FOLDER / "smol.yaml").read_text())
    small = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4}
    values["models"] = {
        "teacher": {"name": "someone/teacher"},
        "responders": [{"name": f"someone/{role}"} for role in ("teacher", "responder_a", "responder_b")],
        "reward": {"name": "someone/reward"},
        "base": {"name": "someone/base"},
    }
    values["generation"] |= {"rows": 4, "max_attempts": 1, "instruction": small, "response": small}
    values["filter"] = {"train_rows": 1, "val_rows": 1}
    values["evaluation"] = {
        "batch_size": 2,
        "task_folders": [str(tmp_path / "own tasks")],
        "benchmarks": {"legs": {"task": "own_legs", "metric": "acc"}},
    }
    write_text(tmp_path / "mine.yaml", yaml.safe_dump(values))
    return tmp_path / "mine.yaml"


def run(name: str, profile: Path, hub: Hub, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    folder = profile.parent
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "TMPDIR": str(folder),
        **more,
    }
    words = [sys.executable, "-m", f"flows.{name}", "--profile", str(profile), "--workspace", str(folder / "w")]
    return subprocess.run(
        [*words, *arguments], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300
    )


def states(ended: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What the doctor says of each thing."""
    lines = [line.split(maxsplit=1) for line in ended.stdout.splitlines()[1:-1]]
    return {rest[:14].strip(): state for state, rest in lines}


def rewrite(profile: Path, change: Mapping[str, Any]) -> None:
    values = yaml.safe_load(profile.read_text())
    for key, value in change.items():
        *path, last = key.split(".")
        inner = values
        for part in path:
            inner = inner[part]
        inner[last] = value
    write_text(profile, yaml.safe_dump(values))


def test_a_study_from_the_hub_is_pinned_once_and_runs_without_it(hub: Hub, profile: Path, tmp_path: Path) -> None:
    told = run("doctor", profile, hub)
    assert told.returncode == 0, told.stdout + told.stderr
    assert states(told).keys() >= {
        "teacher",
        "responder 3",
        "reward model",
        "base model",
        "legs",
        "data sets",
        "downloads",
    }
    pinned = json.loads((tmp_path / "w/hub.json").read_text())
    before = {name: hub.repos[f"models/someone/{name}"].commit for name in ("teacher", "base")}
    assert {name: pinned["model"][f"someone/{name}"] for name in before} == before
    assert pinned["dataset"]["someone/legs"] == hub.repos["datasets/someone/legs"].commit
    assert not any("safetensors" in line for line in hub.requests if line.startswith("GET")), "weights only when needed"

    # whoever edits a model's page afterwards changes no study
    write_text(hub.repos["models/someone/teacher"].folder / "README.md", "# New words")
    drawn = run("generate", profile, hub)
    assert drawn.returncode == 0, drawn.stdout[-2000:] + drawn.stderr[-3000:]
    manifest = json.loads((tmp_path / "w/data/raw/manifest.json").read_text())
    assert manifest["provenance"]["hub"]["model"]["someone/teacher"] == before["teacher"]
    assert json.loads((tmp_path / "w/data/raw/cost.json").read_text())["device"] == "cpu"

    # the folder that is safe to delete is: the study is known by what is published
    shutil.rmtree(tmp_path / "w/.state")
    asked = len(hub.requests)
    again = run("generate", profile, hub, HF_HUB_OFFLINE="1")
    assert (again.returncode, "Nothing to do" in again.stdout) == (0, True), again.stdout + again.stderr
    assert len(hub.requests) == asked

    # with the hub gone and the cache filled everything works, and nobody waits for the hub
    shutil.rmtree(tmp_path / "w/data")
    offline = run("generate", profile, hub, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stdout[-2000:] + offline.stderr[-3000:]
    assert json.loads((tmp_path / "w/data/raw/manifest.json").read_text())["fingerprint"] == manifest["fingerprint"]


MODEL_FAULTS = {
    "teacher": ({"models.teacher": {"name": "someone/techer"}}, ["someone/techer", "neither a folder here nor"]),
    "responder 3": (
        {"models.responders": [{"name": f"someone/{n}", **more} for n, more in (
            ("teacher", {}), ("responder_a", {}), ("responder_b", {"revision": "v9"}))]},
        ["no revision 'v9'"],
    ),
    "reward model": ({"models.reward": {"name": "someone/teacher"}}, ["not as a sequence classifier"]),
    "base model": (
        {"tuning.sft.target_modules": ["q_projj"], "tuning.dpo.max_length": 4096},
        ["--tuning.sft", "q_projj", "--tuning.dpo.max_length 4096 is more than its 1024 positions"],
    ),
    "device": ({"hardware.memory_gb": 15}, ["needs a GPU of 15 GB", "no NVIDIA driver"]),
}  # fmt: skip
BENCHMARK_FAULTS = {
    "legs": ({"task": "own_legs", "metric": "acc_nrom"}, ["acc_nrom", "it has acc"]),
    "g": ({"task": "gsm8k", "metric": "exact_match"}, ["it has exact_match,strict-match"]),
    "typo": ({"task": "own_leggs", "metric": "acc"}, ["own_leggs", "own_legs"]),
}


@pytest.mark.parametrize("command", ["full_pipeline", "schedule"])
def test_what_would_end_a_study_is_told_before_it_begins(hub: Hub, profile: Path, tmp_path: Path, command: str) -> None:
    """In one look, a line each, by every command that would run for hours: it begins nothing and exits with 2."""
    for change, _ in MODEL_FAULTS.values():
        rewrite(profile, change)
    rewrite(profile, {"evaluation.benchmarks": {name: task for name, (task, _) in BENCHMARK_FAULTS.items()}})
    ended = run(command, profile, hub)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    told = {name: rest for name, _, rest in (line.partition(": ") for line in ended.stderr.splitlines())}
    for name, (_, words) in (MODEL_FAULTS | BENCHMARK_FAULTS).items():
        for word in words:
            assert word in told[name]
    assert not (tmp_path / "w/data").exists()
    assert "Prefect UI" not in ended.stdout


def test_licences_are_told_before_hours_are_spent(hub: Hub, profile: Path) -> None:
    """Two gated models, a metric and an absent data set: one look, four lines, no secret."""
    hub.repos["models/someone/reward"].gated = hub.repos["models/someone/base"].gated = True
    del hub.repos["datasets/someone/legs"]
    rewrite(
        profile, {"evaluation.benchmarks": {name: {"task": "own_legs", "metric": name} for name in ("acc", "bleu")}}
    )
    told = run("doctor", profile, hub, HF_TOKEN="hf_secret")
    assert told.returncode == 1
    assert {name for name, state in states(told).items() if state == "fail"} == {
        "reward model",
        "base model",
        "bleu",
        "data sets",
    }
    gated = [line for line in told.stdout.splitlines() if "gated" in line]
    assert len(gated) == 2 and all("accept its licence" in line for line in gated)
    assert "hf_secret" not in told.stdout + told.stderr


def test_a_hub_that_does_not_answer_is_told_in_a_line(hub: Hub, profile: Path) -> None:
    told = run("doctor", profile, hub, HF_ENDPOINT="http://127.0.0.1:9")
    assert told.returncode == 1
    lines = [line for line in told.stdout.splitlines() if line.startswith("fail")]
    assert "did not give someone/teacher" in lines[0] and "Traceback" not in told.stdout + told.stderr


def test_what_was_looked_at_is_looked_at_again_only_where_it_changed(
    tiny_model: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.doctor.examine import _what_is_looked_at, require_ready

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    place = Workspace(tmp_path / "w")
    assert require_ready(load_settings("demo"), place) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # as the next command has it
    known = _what_is_looked_at(load_settings("demo"), place)
    assert list(tmp_path.glob(f"*ready-{known}.json")), "the next command looks again"

    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_model, teacher)
    keys = []
    for change in (
        lambda: None,
        lambda: write_text(teacher / "chat_template.jinja", "{{ messages }}"),
        lambda: write_text(tmp_path / "own tasks" / "legs.yaml", "task: other"),
        lambda: rewrite(profile, {"generation.domains.open.system_prompt": "Be brief."}),
    ):
        change()
        keys.append(_what_is_looked_at(load_settings(str(profile), {"models.teacher.name": str(teacher)}), place))
    assert len(set(keys)) == 4


def test_without_the_hub_the_doctor_tells_what_the_cache_lacks(hub: Hub, profile: Path) -> None:
    """A first look leaves commits and descriptions in the cache: neither weights nor rows."""
    assert run("doctor", profile, hub).returncode == 0
    told = run("doctor", profile, hub, HF_HUB_OFFLINE="1")
    assert told.returncode == 1
    assert {name for name, state in states(told).items() if state == "fail"} == {"data sets", "downloads"}
    assert told.stdout.count("unset") == 2 and "Traceback" not in told.stdout + told.stderr


def test_a_hub_that_fails_under_a_study_is_told_in_lines(profile: Path, tmp_path: Path) -> None:
    """After the look at it, while it gives the models: Prefect's own log prints no traceback either."""
    code = (
        "import sys; from flows.cli import run; from flows.generate import generate\n"
        f"arguments = ['--profile', {str(profile)!r}, '--workspace', {str(tmp_path / 'w')!r}]\n"
        "sys.exit(run(generate, 'generate', ['generate'], arguments, needs_models=False))"
    )
    own = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PREFECT_HOME": str(tmp_path / "prefect")}
    environment = os.environ | own | {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "\nHubError: someone/teacher is not in the hub's cache" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


THINKS = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content.split('</think>')[-1] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n%s{% endif %}"
)


@pytest.mark.parametrize(
    ("added", "refused"),
    [
        ("<think>\n", True),
        ("", True),
        ("{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}", False),
        ("{% if not enable_thinking is defined or enable_thinking %}<think>{% endif %}", False),
    ],
)
def test_a_model_that_thinks_aloud_is_refused_unless_its_template_turns_it_off(
    tiny_model: Path, tmp_path: Path, added: str, refused: bool
) -> None:
    from tasks.doctor.probe import examine_model

    shutil.copytree(tiny_model, tmp_path / "m")
    write_text(tmp_path / "m" / "chat_template.jinja", THINKS.replace("%s", added))
    (check,), _ = examine_model("teacher", str(tmp_path / "m"), None, "fp32", [None])
    assert (check.state == "fail", "reasons aloud" in check.told) == (refused, refused), check.told


def test_a_tokenizer_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from tasks.doctor.probe import examine_model

    shutil.copytree(tiny_model, tmp_path / "m")
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(500)])
    tokenizer.save_pretrained(tmp_path / "m")
    (check,), _ = examine_model("responder 1", str(tmp_path / "m"), None, "fp32")
    assert check.state == "fail" and "not a pair" in check.told


GPU = {"name": "Tesla T4", "memory_gb": 15.8, "capability": (7, 5)}
NEEDS = {"memory_gb": 15, "cpu_hours": None}


@pytest.mark.parametrize(
    ("device", "hardware", "precision", "weights", "state", "words"),
    [
        (GPU, NEEDS, "nf4", 5.0, "ok", "Tesla T4"),
        (GPU, NEEDS | {"memory_gb": 40}, "nf4", 5.0, "fail", "needs 40 GB"),
        (GPU, NEEDS, "bf16", 5.0, "fail", "only emulates bf16"),
        (GPU, NEEDS, "fp16", 16.0, "fail", "weights alone take 16.0 GB"),
        ({"name": "cpu", "memory_gb": None, "capability": None}, NEEDS, "nf4", 5.0, "fail", "torch finds none"),
        ({"name": "cpu", "memory_gb": None, "capability": None}, {"memory_gb": None, "cpu_hours": 5}, "fp32", 1.0,
         "warning", "about 5 hours"),
    ],
)  # fmt: skip
def test_the_device_is_held_against_the_profile(
    device: dict[str, Any], hardware: dict[str, Any], precision: str, weights: float, state: str, words: str
) -> None:
    from tasks.doctor.probe import examine_device

    models = [{"role": "teacher", "precision": precision}]
    checks = examine_device(device, hardware, models, {"teacher": weights})
    assert any(check.state == state and words in check.told for check in checks), checks


def test_a_gpu_that_the_driver_hides_from_torch_is_told_with_both_versions(tmp_path: Path) -> None:
    """nvidia-smi answers, torch computes on the CPU: the classic of a driver older than torch's CUDA."""
    write_text(
        tmp_path / "nvidia-smi",
        '#!/bin/sh\ncase "$1" in *driver_version*) echo 550.54.15;; *name*) echo Tesla T4;;'
        " *) echo '| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4 |';; esac\n",
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    code = (
        "import torch; torch.version.cuda = '13.0'\n"
        "from tasks.doctor.probe import examine_device, _device\n"
        "print(examine_device(_device(), {'memory_gb': 15, 'cpu_hours': None}, [], {})[0].told)\n"
        "print(examine_device(_device(), {'memory_gb': None, 'cpu_hours': None}, [], {})[0].told)"
    )
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    told = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True)
    for line in told.stdout.splitlines():
        assert "550.54.15" in line and "12.4" in line and "13.0" in line, told.stderr
    assert len(told.stdout.splitlines()) == 2, told.stderr
