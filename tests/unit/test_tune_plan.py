"""The ladder of plans a training climbs down when it runs out of memory, and what it must not change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from storage.files import write_jsonl, write_text
from tasks.provenance import gpus
from tasks.tune import Job, gpu_ids
from tasks.tune.plan import FILE, NothingFitsError, Plan, current_plan, plans, recorded_plan, smaller_plan, told
from tasks.tune.train import job_key


def open_settings(batch_size: int = 4, **pinned: Any) -> dict[str, Any]:
    return {"batch_size": batch_size, "micro_batch": None, "gradient_checkpointing": None} | pinned


def plan(micro_batch: int, gradient_checkpointing: bool = False, processes: int = 1) -> Plan:
    return {"processes": processes, "micro_batch": micro_batch, "gradient_checkpointing": gradient_checkpointing}


LADDER = [plan(4), plan(2), plan(1), plan(4, True), plan(2, True), plan(1, True)]


def test_storing_activations_is_given_up_last_and_rows_one_divisor_at_a_time() -> None:
    assert plans(open_settings(), 1) == LADDER
    assert [step["micro_batch"] for step in plans(open_settings(12), 1)[:6]] == [12, 6, 4, 3, 2, 1]


def test_what_the_profile_pins_is_in_every_plan() -> None:
    assert plans(open_settings(micro_batch=2), 1) == [plan(2), plan(2, True)]
    assert plans(open_settings(gradient_checkpointing=True), 1) == LADDER[3:]
    assert plans(open_settings(gradient_checkpointing=False), 1) == LADDER[:3]
    assert plans(open_settings(micro_batch=1, gradient_checkpointing=True), 1) == [plan(1, True)]


@pytest.mark.parametrize(
    ("batch", "micro_batch", "gpus", "used"),
    [(4, None, 1, 1), (4, None, 2, 2), (4, None, 3, 2), (4, None, 8, 4), (9, None, 4, 3), (7, None, 4, 1)]
    + [(4, 2, 4, 2), (4, 4, 2, 1), (12, 2, 4, 3)],
)
def test_as_many_gpus_as_divide_the_batch_share_it(batch: int, micro_batch: int | None, gpus: int, used: int) -> None:
    possible = plans(open_settings(batch, micro_batch=micro_batch), gpus)
    assert {step["processes"] for step in possible} == {used}
    assert all(batch % (step["processes"] * step["micro_batch"]) == 0 for step in possible)
    assert possible[0]["micro_batch"] == (micro_batch or batch // used)


def test_a_restart_goes_on_with_the_plan_on_record(tmp_path: Path) -> None:
    assert recorded_plan(tmp_path) is None
    assert current_plan(tmp_path, LADDER) == LADDER[0] == recorded_plan(tmp_path)
    for before, after in zip(LADDER, LADDER[1:], strict=False):
        assert current_plan(tmp_path, LADDER) == before
        assert smaller_plan(tmp_path, LADDER, "sft") == after == recorded_plan(tmp_path)
    assert current_plan(tmp_path, LADDER) == LADDER[-1]


def test_a_plan_that_the_profile_no_longer_allows_is_replaced(tmp_path: Path) -> None:
    smaller_plan(tmp_path, LADDER, "sft")
    pinned = plans(open_settings(micro_batch=1), 1)
    assert current_plan(tmp_path, pinned) == plan(1) == recorded_plan(tmp_path)
    on_two_gpus = plans(open_settings(), 2)
    assert current_plan(tmp_path, on_two_gpus) == plan(2, processes=2) == recorded_plan(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"processes": 1, "micro_ba', b"[]", b"\xff\xfe", b'{"micro_batch": 2}'])
def test_a_torn_record_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert current_plan(tmp_path, LADDER) == LADDER[0] == recorded_plan(tmp_path)


def test_where_nothing_fits_the_user_is_told_what_to_change(tmp_path: Path) -> None:
    possible = plans(open_settings(micro_batch=2, gradient_checkpointing=True), 1)
    with pytest.raises(NothingFitsError) as failure:
        smaller_plan(tmp_path, possible, "dora")
    for named in (told(possible[0]), "tuning.also.dora.max_length", "nf4", "tuning.also.dora.micro_batch"):
        assert named in str(failure.value)
    assert recorded_plan(tmp_path) == possible[0]


def test_a_plan_in_words() -> None:
    assert told(plan(1)) == "1 row at once, activations stored"
    assert told(plan(4, True, 2)) == "4 rows at once on each of 2 GPUs, activations recomputed"


def test_a_checkpoint_is_gone_on_from_whatever_the_plan(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"instruction": "a", "output": "b"}])

    def key(plan: Plan, settings: dict[str, Any]) -> str:
        job: Any = {
            "method": "sft",
            "seed": 0,
            "settings": settings,
            "plan": plan,
            "base_name": "base",
            "base_revision": None,
            "base_precision": "fp32",
            "train": str(tmp_path / "train.jsonl"),
            "sft_adapter": None,
            "stage_data": {},
        }
        whole: Job = job
        return job_key(whole)

    keys = {key(step, open_settings()) for step in LADDER}
    keys |= {key(LADDER[0], open_settings(micro_batch=2)), key(LADDER[0], open_settings(gradient_checkpointing=True))}
    assert len(keys) == 1
    assert key(LADDER[0], open_settings(batch_size=8)) not in keys


@pytest.mark.parametrize(
    ("visible", "one", "two"), [(None, "0", "0,1"), ("3,5", "3", "3,5"), ("3,5,7", "3", "3,5"), ("", "", "")]
)
def test_a_training_sees_the_first_gpus_in_sight_and_hidden_ones_stay_hidden(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, one: str, two: str
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (gpu_ids(1), gpu_ids(2)) == (one, two)


@pytest.mark.parametrize(("visible", "count"), [(None, 2), ("0", 1), ("", 0), ("-1", 0), ("1,-1,0", 1)])
def test_gpus_are_counted_as_cuda_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int
) -> None:
    write_text(tmp_path / "nvidia-smi", "#!/bin/sh\necho Tesla T4\necho Tesla T4\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == count
