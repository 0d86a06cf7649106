"""The command line as a newcomer meets it: one readable message, the promised exit code, nothing written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.settings import Settings
from flows.cli import _overrides, parse, run
from tasks.process import ChildError

PROJECT = Path(__file__).parents[2]


def flow(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"flows.{name}", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--profile", "t5"], ["--profile", "t5", "a100, demo, smol, t4"]),
        (["--filter.max_wordz", "3"], ["filter.max_wordz", "filter.max_words"]),
        (["--filter.max_words", "few"], ["filter.max_words", "few", "integer"]),
        (["--filter.max_words"], ["filter.max_words", "no value"]),
        (["filter.max_words=3"], ["--section.key VALUE"]),
        (["--tuning.also", "{lokr: {learning_rate: 1e-3}}"], ["tuning.also.lokr", "prefix_tuning, p_tuning, ia3"]),
        (
            ["--tuning.also", "{prefix_tuning: {learning_rate: 1e-2, gradient_checkpointing: true}}"],
            ["tuning.also.prefix_tuning.gradient_checkpointing", "Prefix tuning", "set it to false"],
        ),
        (["--workspace", "/proc/nowhere"], ["--workspace", "/proc/nowhere"]),
    ],
)
def test_wrong_settings_exit_with_2_and_write_nothing(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    workspace = [] if "--workspace" in arguments else ["--workspace", str(tmp_path / "w")]
    for name in ("status", "full_pipeline"):
        ended = flow(name, *workspace, *arguments)
        assert ended.returncode == 2
        assert len(ended.stderr.strip().splitlines()) == 1
        for word in words:
            assert word in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_values_are_read_as_numbers_lists_and_text() -> None:
    words = ["--a.b", "3", "--c=2e-4", "--d", "[x, y]", "--e", "null", "--f", "name/of-model"]
    assert _overrides(words) == {"a.b": 3, "c": 2e-4, "d": ["x", "y"], "e": None, "f": "name/of-model"}


def test_options_and_settings_mix(tmp_path: Path) -> None:
    settings, workspace, _ = parse("status", "", ["--seed", "5", "--workspace", str(tmp_path), "--profile", "smol"])
    assert (settings.seed, settings.profile, workspace.root) == (5, "smol", tmp_path)


@pytest.mark.parametrize(
    "words", [["--tuning.also", "{ia3: {learning_rate: 5e-3}}"], ["--tuning.also.ia3.learning_rate", "5e-3"]]
)
def test_a_further_method_is_one_line(tmp_path: Path, words: list[str]) -> None:
    settings, _, _ = parse("status", "", ["--workspace", str(tmp_path), "--profile", "smol", *words])
    assert list(settings.tuning.methods) == ["sft", "prompt_tuning", "dpo", "ia3"]
    assert settings.tuning.methods["ia3"].learning_rate == 5e-3
    assert settings.tuning.methods["ia3"].epochs == settings.tuning.sft.epochs


def test_status_needs_neither_prefect_nor_torch(tmp_path: Path) -> None:
    probe = (
        "import sys; sys.argv = ['status', '--workspace', sys.argv[1]]; import flows.status; flows.status.main();"
        "print(sorted(set(sys.modules) & {'prefect', 'torch', 'transformers', 'datasets', 'lm_eval', 'matplotlib'}))"
    )
    command = [sys.executable, "-c", probe, str(tmp_path)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr
    assert "generate" in ended.stdout


def test_help_lists_every_setting() -> None:
    ended = flow("status", "--help")
    assert ended.returncode == 0
    assert "--filter.max_similarity" in ended.stdout


def test_a_mount_that_dies_under_a_run_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.server.ensure_server", lambda keep: "http://127.0.0.1")
    study = tmp_path / "drive" / "study"
    study.mkdir(parents=True)

    def flow(settings: Settings, root: Path) -> None:
        """Lose the Drive."""
        shutil.rmtree(tmp_path / "drive")
        (tmp_path / "drive").symlink_to(tmp_path / "drive")  # an OSError for whoever asks
        raise ChildError("row 17: OSError: [Errno 107] Transport endpoint is not connected")

    assert run(flow, "generate", ["generate"], ["--workspace", str(study)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(study) in line and "mount the Drive again and run the same command" in line
