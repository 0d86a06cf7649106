"""The hub's commits on record, and what its client leaves undone; the client is the real one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from flows.cli import WRONG_SETTINGS, run
from storage.files import fingerprint, write_json, write_text
from storage.workspace import Workspace
from tasks.hub import HubError, Repository, commit_on_record, download_bytes, fetch, resolve
from tests.hub import Hub, Repo, running_hub

WANTED = Repository("someone/base")


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, and an empty cache."""
    shutil.copytree(tiny_model, tmp_path / "repo")
    with running_hub() as hub:
        hub.repos["models/someone/base"] = Repo(tmp_path / "repo")
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.mark.parametrize("record", ["{", "[]", '{"model": null}'])
def test_a_damaged_record_of_commits_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: str
) -> None:
    write_text(tmp_path / "hub.json", record)
    arguments = ["--profile", "smol", "--workspace", str(tmp_path)]
    assert run(lambda *_: None, "generate", ["generate"], arguments) == WRONG_SETTINGS
    assert "hub.json cannot be read; put it back, or delete it" in capsys.readouterr().err


def test_a_model_s_old_record_is_no_data_set_s(tmp_path: Path) -> None:
    write_json(tmp_path / ".state" / "revisions" / f"{fingerprint([WANTED.name, None])}.json", {"commit": "abc"})
    assert commit_on_record(WANTED, Workspace(tmp_path)) == "abc"
    assert commit_on_record(Repository(WANTED.name, kind="dataset"), Workspace(tmp_path)) is None


def test_without_the_hub_a_cache_without_weights_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client calls a commit whole of which the doctor fetched what describes the model."""
    commit = resolve(WANTED, Workspace(tmp_path / "w"))
    fetch(WANTED, commit, weights=False)
    assert download_bytes(WANTED, commit) > 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for _ in range(2):
        for look in (fetch, download_bytes):
            with pytest.raises(HubError, match="did not give someone/base .*unset HF_HUB_OFFLINE"):
                look(WANTED, commit)
        # as a cache that transformers or an older client filled, without the list of a commit's files
        shutil.rmtree(tmp_path / "cache" / "models--someone--base" / "trees", ignore_errors=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fetch(WANTED, commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (fetch(WANTED, commit).is_dir(), download_bytes(WANTED, commit)) == (True, 0)


def test_a_token_that_the_hub_refuses_is_no_fault_of_the_connection(hub: Hub, tmp_path: Path) -> None:
    hub.refuses_tokens = True
    with pytest.raises(HubError, match="refuses the token.*HF_TOKEN"):
        resolve(WANTED, Workspace(tmp_path))


def test_a_commit_that_is_gone_is_named(hub: Hub) -> None:
    with pytest.raises(HubError, match="no revision 'f{40}'"):
        fetch(WANTED, "f" * 40)


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_connection(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = resolve(WANTED, Workspace(tmp_path / "w"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/proc/nowhere")
    with pytest.raises(HubError, match="the hub's cache cannot keep someone/base .*set HF_HOME"):
        fetch(WANTED, commit)
