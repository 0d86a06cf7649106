"""Nobody waits for a child that will not answer."""

from __future__ import annotations

import sys

import pytest

from tasks.process import ChildError, ChildOutOfMemoryError, ModelProcess


@pytest.mark.parametrize("last_words", ["", '{"call": 0, "res', '{"call": 0, "result": [1, 2'])
def test_a_child_killed_in_the_middle_of_a_reply_fails_its_calls(last_words: str) -> None:
    script = f"import sys; sys.stdout.write({last_words!r}); sys.stdout.flush(); sys.exit(7)"
    with ModelProcess("nothing", {}, threads=1, launcher=(sys.executable, "-c", script)) as child:
        with pytest.raises(ChildError, match="ended with code 7"):
            child.ready.result(timeout=30)
        assert not child.alive


def test_killing_a_launcher_ends_what_it_started_in_a_session_of_its_own() -> None:
    started = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'tasks.child'], start_new_session=True)"
    launcher = (sys.executable, "-c", started)
    with ModelProcess("subprocess:check_call", {"args": ["sleep", "30"]}, threads=1, launcher=launcher) as child:
        with pytest.raises(TimeoutError):
            child.ready.result(timeout=5)
        child.kill()
        with pytest.raises(ChildError, match="ended with code -9"):
            child.ready.result(timeout=10)


def test_memory_that_one_of_many_processes_lacked_is_told_behind_the_launchers_words() -> None:
    words = "import sys; sys.stderr.write('torch.OutOfMemoryError: CUDA' + 9000 * '.'); sys.exit(1)"
    launcher = (sys.executable, "-c", words)
    with (
        ModelProcess("nothing", {}, threads=1, launcher=launcher, processes=8) as child,
        pytest.raises(ChildOutOfMemoryError),
    ):
        child.ready.result(timeout=30)


def test_a_study_under_a_launcher_does_not_make_its_children_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with ModelProcess("builtins:dict", {"answer": 42}, threads=1) as child:
        assert child.ready.result(timeout=30) == {"answer": 42}
