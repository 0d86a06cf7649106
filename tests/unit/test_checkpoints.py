"""Sealing, verifying and pruning training checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.checkpoints import checkpoint_step, newest_checkpoint, seal_checkpoint
from storage.files import write_json


def trainer_folder(root: Path, step: int, weight: str = "weights") -> Path:
    folder = root / f"trainer-{step}-{weight}"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_text(weight)
    (folder / "optimizer.pt").write_text("moments")
    write_json(folder / "trainer_state.json", {"global_step": step})
    return folder


def steps(folder: Path) -> list[int]:
    return sorted(checkpoint_step(path) for path in folder.iterdir())


def test_the_newest_of_those_kept_is_found(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for step in (2, 10, 9):
        seal_checkpoint(trainer_folder(tmp_path, step), kept, step, keep=3)
    found = newest_checkpoint(kept)
    assert found is not None and found.name == "checkpoint-9"  # 10 was newer than 9 when 9 was sealed, and so torn


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for step in (5, 10, 15, 20):
        seal_checkpoint(trainer_folder(tmp_path, step), kept, step, keep=2)
    assert steps(kept) == [15, 20]


def test_no_folder_and_an_empty_folder_have_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent") is None
    (tmp_path / "checkpoint-3").mkdir()
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("victim", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "seal.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, victim: str, damage: str) -> None:
    kept = tmp_path / "kept"
    for step in (1, 2):
        seal_checkpoint(trainer_folder(tmp_path, step), kept, step, keep=2)
    path = kept / "checkpoint-2" / victim
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-3] if damage == "cut" else b"[]" + content[2:])
    found = newest_checkpoint(kept)
    assert found is not None and found.name == "checkpoint-1"


def test_a_checkpoint_under_another_step_is_passed_over(tmp_path: Path) -> None:
    seal_checkpoint(trainer_folder(tmp_path, 4), tmp_path / "kept", 7, keep=2)
    assert newest_checkpoint(tmp_path / "kept") is None


def test_torn_later_checkpoints_never_push_out_a_whole_one(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for step in (10, 20, 30):
        seal_checkpoint(trainer_folder(tmp_path, step), kept, step, keep=3)
    for step in (20, 30):
        (kept / f"checkpoint-{step}" / "optimizer.pt").unlink()
    seal_checkpoint(trainer_folder(tmp_path, 15), kept, 15, keep=2)
    assert steps(kept) == [10, 15]


def test_a_failed_copy_leaves_the_earlier_ones(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    seal_checkpoint(trainer_folder(tmp_path, 1), kept, 1, keep=2)
    with pytest.raises(OSError, match="gone"):
        seal_checkpoint(tmp_path / "gone", kept, 2, keep=2)
    assert [path.name for path in kept.iterdir()] == ["checkpoint-1"]


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for weight in ("old", "new"):
        seal_checkpoint(trainer_folder(tmp_path, 3, weight), kept, 3, keep=2)
    assert (kept / "checkpoint-3" / "adapter_model.safetensors").read_text() == "new"
    assert newest_checkpoint(kept) == kept / "checkpoint-3"
