"""Storage: a file is whole or absent, a shard counts by its checksum, a plan survives a kill, staleness has a why."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from storage import drive, files
from storage.drive import NAME, default_root, unreachable
from storage.files import fingerprint, folder_aside, read_jsonl, write_bytes, write_json, write_jsonl
from storage.seals import read_seal, seal
from storage.shards import Batch, RowStore, check_shard, read_shard, write_shard
from storage.stages import StageKey, publishing, read_manifest, result_digest, stage_state
from storage.workspace import WorkspaceError, open_workspace
from tasks.demo import models

ROWS = [{"id": f"{number:03d}", "text": f"row {number} — ünï"} for number in range(10)]


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write_bytes(path, b"old")
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert read_jsonl(tmp_path / "rows.jsonl") == ROWS


def test_json_with_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(RuntimeError), folder_aside(target) as aside:
        (aside / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for content in ("first", "second"):
        with folder_aside(target) as aside:
            (aside / "weights").write_text(content)
    assert (target / "weights").read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_fingerprints_ignore_key_order_and_refuse_what_varies() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    with pytest.raises(TypeError):
        fingerprint({"a": {1, 2}})
    with pytest.raises(TypeError):
        fingerprint({"a": Path("/tmp")})


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "extra", "binary", "gone"])
def test_a_damaged_shard_does_not_count(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "shard.jsonl"
    written = write_shard(path, ROWS)
    assert read_shard(path) == ROWS
    assert check_shard(path) == written
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[:-20])
        case "flip":
            path.write_bytes(content.replace(b"row 3", b"row 4"))
        case "empty":
            path.write_bytes(b"")
        case "extra":
            path.write_bytes(content + b'{"id": "x"}\n')
        case "binary":
            path.write_bytes(b"\x00\xff\n\x00")
        case "gone":
            path.unlink()
    assert read_shard(path) is None
    assert check_shard(path) is None


def rows_of(batch: Batch) -> list[dict[str, str]]:
    return [{"id": row_id, "text": row_id} for row_id in batch.ids]


def test_a_plan_is_the_same_after_some_batches_are_done(tmp_path: Path) -> None:
    ids = [f"{number}" for number in range(10)]
    store = RowStore(tmp_path / "rows")
    first = store.plan(ids, 4)
    assert [len(batch.ids) for batch in first] == [4, 4, 2]
    store.write(first[1], rows_of(first[1]))
    assert RowStore(tmp_path / "rows").plan(ids, 4) == [first[0], first[2]]
    assert store.done(first[1]) is not None
    assert store.done(first[0]) is None


def test_asking_for_more_keeps_what_is_there(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "rows")
    for batch in store.plan(["a", "b", "c"], 2):
        store.write(batch, rows_of(batch))
    more = store.plan(["a", "x", "b", "c", "y"], 2)
    assert [batch.ids for batch in more] == [("x",), ("y",)]
    for batch in more:
        store.write(batch, rows_of(batch))
    assert [row["id"] for row in store.collect(["y", "a", "x"])] == ["y", "a", "x"]


def test_a_torn_shard_of_an_earlier_request_is_made_again(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "rows")
    for batch in store.plan(["a", "b"], 1):
        store.write(batch, rows_of(batch))
    (later,) = store.plan(["a", "b", "c"], 4)
    store.write(later, rows_of(later))
    store.path(Batch(f"{fingerprint(['a'])}.jsonl", ("a",))).write_bytes(b"torn")
    assert [batch.ids for batch in store.plan(["a", "b", "c"], 4)] == [("a",)]


def test_a_store_refuses_rows_that_are_not_the_batch(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "rows")
    (batch,) = store.plan(["a", "b"], 2)
    with pytest.raises(ValueError, match="wants 2 rows"):
        store.write(batch, [{"id": "a"}])
    with pytest.raises(LookupError, match="2 of 2"):
        store.collect(["a", "b"])


def test_ids_asked_for_twice_are_made_once(tmp_path: Path) -> None:
    assert [batch.ids for batch in RowStore(tmp_path).plan(["a", "a", "b"], 8)] == [("a", "b")]


def test_a_sealed_folder_proves_itself(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1234")
    seal(tmp_path, {"loss": 1.5})
    assert read_seal(tmp_path) == {"loss": 1.5}
    (tmp_path / "weights").write_text("1235")
    assert read_seal(tmp_path) is None
    assert read_seal(tmp_path / "nowhere") is None


def key(**changes: Any) -> StageKey:
    settings = {"min_words": 20, "quality": {"clarity": 0.2}}
    return StageKey(**({"stage": "filter", "version": 1, "settings": settings, "inputs": {"raw": "abc"}} | changes))


def publish(folder: Path) -> None:
    with publishing(folder, key(), {"seed": 0}, ["cost.json"]) as aside:
        write_jsonl(aside / "rows.jsonl", ROWS)
        write_json(aside / "cost.json", {"seconds": 1.0})


def test_a_published_stage_is_done_and_says_why_when_it_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "filtered"
    assert stage_state(folder, key()).done is False
    assert stage_state(folder, key()).reasons == []
    publish(folder)
    assert stage_state(folder, key()).done
    settings = {"min_words": 25, "quality": {"clarity": 0.3}}
    assert stage_state(folder, key(settings=settings)).reasons == ["min_words 20 → 25", "quality.clarity 0.2 → 0.3"]
    assert stage_state(folder, key(inputs={"raw": "def"})).reasons == ["input raw changed"]
    assert stage_state(folder, key(version=2)).reasons == ["code version 1 → 2"]
    with (folder / "rows.jsonl").open("a") as file:
        file.write("{}\n")
    assert stage_state(folder, key()).reasons == ["rows.jsonl fails its checksum"]
    (folder / "rows.jsonl").unlink()
    assert stage_state(folder, key()).reasons == ["rows.jsonl is gone"]


def test_durations_are_no_part_of_a_results_identity(tmp_path: Path) -> None:
    publish(tmp_path / "a")
    publish(tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert list(manifest["measurements"]) == ["cost.json"]
    assert manifest["outputs"]["rows.jsonl"]["rows"] == 10
    write_json(tmp_path / "b" / "cost.json", {"seconds": 2.0})
    assert result_digest(tmp_path / "a") == result_digest(tmp_path / "b")
    assert stage_state(tmp_path / "b", key()).reasons == ["cost.json fails its checksum"]


def test_a_torn_manifest_is_no_manifest(tmp_path: Path) -> None:
    publish(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text('{"fingerprint": "')
    assert read_manifest(tmp_path / "a") is None
    assert result_digest(tmp_path / "a") is None


def test_an_unwritable_workspace_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(WorkspaceError, match="--workspace"):
        open_workspace(file / "inside")
    assert open_workspace(tmp_path / "new").root == tmp_path / "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's `/content` with a Drive's folder, where none is mounted."""
    monkeypatch.setattr(drive, "COLAB", tmp_path / "content")
    monkeypatch.setattr(drive, "DRIVE", tmp_path / "content" / "drive")
    (tmp_path / "content" / "drive" / "MyDrive").mkdir(parents=True)
    return tmp_path / "content"


def test_a_drive_that_is_not_mounted_is_refused_and_never_the_default(colab: Path) -> None:
    (colab / "link").symlink_to(colab / "drive" / "MyDrive")
    for root in (colab / "drive" / "MyDrive" / "study", colab / "link" / "study", colab / "link"):
        with pytest.raises(WorkspaceError, match="no Drive is mounted at .*: mount it") as refused:
            open_workspace(root)
        assert "\n" not in str(refused.value)
    assert default_root() == Path("workspace")
    assert list((colab / "drive" / "MyDrive").iterdir()) == []


def test_what_is_written_once_the_drive_is_unmounted_is_not_put_on_the_machines_disk(colab: Path) -> None:
    """There it would be lost, and keep the Drive from being mounted again."""
    (colab / "drive" / "MyDrive").rmdir()
    (colab / "link").symlink_to(colab / "drive" / "MyDrive" / "study")
    for root in (colab / "drive" / "MyDrive" / "study", colab / "link"):
        with pytest.raises(OSError, match="no Drive is mounted at .*: mount it"):
            write_bytes(root / "data" / "rows.jsonl", b"row")
        with pytest.raises(OSError, match="no Drive is mounted"), folder_aside(root / "models" / "sft"):
            pass
        with pytest.raises(OSError, match="no Drive is mounted"), models.folder(root / "models" / "world" / "base"):
            pass
    assert list((colab / "drive").iterdir()) == []
    write_bytes(colab / "elsewhere" / "rows.jsonl", b"row")


def test_a_study_on_colabs_own_disk_is_told_to_be_lost(
    colab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_workspace(tmp_path / "elsewhere")
    assert capsys.readouterr().err == ""
    open_workspace(colab / "project" / "workspace")
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a mount that anyone can write to")
def test_a_mounted_drive_is_the_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(drive, "COLAB", Path("/dev"))
    monkeypatch.setattr(drive, "DRIVE", Path("/dev/shm"))
    assert default_root() == Path("/dev/shm/MyDrive") / NAME
    assert open_workspace(default_root()).root == default_root()
    assert capsys.readouterr().err == "" and not default_root().parent.exists()


def test_a_dead_mount_stays_the_default_and_stops_only_what_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tmp_path / ("x" * 300)  # as under a mount whose daemon is gone, a path that no call can ask about
    monkeypatch.setattr(drive, "DRIVE", dead)
    assert default_root() == dead / "MyDrive" / NAME
    with pytest.raises(WorkspaceError, match="mount the Drive again") as refused:
        open_workspace(default_root())
    assert "\n" not in str(refused.value)
    assert open_workspace(tmp_path / "other").root == tmp_path / "other"
    assert unreachable(tmp_path / "other") is None


def test_leftovers_of_a_kill_are_swept_but_not_the_work_of_a_living_process(tmp_path: Path) -> None:
    old, young = tmp_path / ".model.1234abcd.tmp", tmp_path / ".rows.jsonl.5678abcd.tmp"
    old.mkdir()
    (old / "weights").write_text("half")
    young.write_text("half")
    os.utime(old, (0, 0))
    (tmp_path / "rows.jsonl").write_text("")
    assert files.sweep_leftovers(tmp_path, 3600) == [old]
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "rows.jsonl"]
