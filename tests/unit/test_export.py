"""`python -m flows.export` refuses before it works; what a finished study exports is in the integration tests."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from flows.export import main
from tasks.export import ExportError, alpaca, conversational, preference, push, sharegpt
from tasks.process import free_port

ROW = {"id": "000007", "instruction": "Say hello.", "output": "Hello.\nHow are you?", "domain": "open"}
TOKEN = "hf_" + "a" * 30


def test_formats_are_those_that_trainers_read() -> None:
    """Field for field what the formats' own readers expect, texts untouched."""
    assert sharegpt(ROW)["conversations"] == [
        {"from": "human", "value": "Say hello."},
        {"from": "gpt", "value": "Hello.\nHow are you?"},
    ]
    assert alpaca(ROW) == {"id": "000007", "instruction": "Say hello.", "input": "", "output": "Hello.\nHow are you?"}
    assert conversational(ROW)["messages"] == [
        {"role": "user", "content": "Say hello."},
        {"role": "assistant", "content": "Hello.\nHow are you?"},
    ]
    pair = preference({"id": "a", "prompt": "Ask", "chosen": "good", "rejected": "bad", "margin": 0.5})
    assert [pair[side][0]["role"] for side in ("prompt", "chosen", "rejected")] == ["user", "assistant", "assistant"]


def test_a_study_without_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the stage to run, and no folder is left."""
    assert main(["--workspace", str(tmp_path)]) == 1
    assert "python -m flows.generate" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("repository", "token", "said"),
    [("me/data", "", "HF_TOKEN"), ("data", TOKEN, "OWNER/NAME"), ("me/da ta", TOKEN, "OWNER/NAME")],
)
def test_a_push_that_cannot_be_is_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    repository: str,
    token: str,
    said: str,
) -> None:
    """A missing token or a mistyped name is told before anything is read or written."""
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(["--workspace", str(tmp_path), "--push-to-hub", repository]) == 2
    told = capsys.readouterr()
    assert said in told.err and TOKEN not in told.out + told.err


def test_a_hub_out_of_reach_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files stay, and the message says so without the token."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    (tmp_path / "README.md").write_text("card")
    with pytest.raises(ExportError) as caught:
        push(tmp_path, "me/data", TOKEN, public=False)
    message = str(caught.value)
    assert "me/data was not pushed" in message and "\n" not in message and TOKEN not in message
    assert (tmp_path / "README.md").read_text() == "card"
