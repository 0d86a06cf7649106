"""Running out of memory for real, in real child processes: the caller survives and goes on with a smaller plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from storage.files import read_json
from tasks.out_of_memory import is_out_of_memory, says_out_of_memory
from tasks.process import ChildError, ChildOutOfMemoryError, run_in_child
from tasks.tune.plan import FILE, NothingFitsError, Plan, plans, told
from tasks.tune.work import in_smaller_plans

OPEN = {"batch_size": 4, "micro_batch": None, "gradient_checkpointing": None}
HERE = "tests.integration.test_tune_memory"


def python_runs_out(job: dict[str, Any]) -> dict[str, Any]:
    """Takes more than any machine has unless it holds one row."""
    if job["plan"]["micro_batch"] > job["fits"]:
        bytearray(2**62)
    return {"plan": job["plan"]}


def torch_runs_out(job: dict[str, Any]) -> dict[str, Any]:
    """The same with torch's allocator, which says so in a `RuntimeError`."""
    import torch

    if job["plan"]["micro_batch"] > job["fits"]:
        torch.empty(2**60, dtype=torch.uint8)
    return {"plan": job["plan"]}


def fails_otherwise(job: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("the loss of step 3 is nan")


def call(target: str, folder: Path, fits: int, settings: dict[str, Any] = OPEN) -> dict[str, Any]:
    def job(plan: Plan) -> Any:
        return {"plan": plan, "fits": fits}

    return in_smaller_plans(f"{HERE}:{target}", folder, plans(settings, 1), "sft", job, 1)


@pytest.mark.parametrize("target", ["python_runs_out", "torch_runs_out"])
def test_a_training_that_does_not_fit_goes_on_with_fewer_rows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], target: str
) -> None:
    last = {"processes": 1, "micro_batch": 1, "gradient_checkpointing": False}
    assert call(target, tmp_path, fits=1) == {"plan": last}
    assert read_json(tmp_path / FILE) == last
    said = capfd.readouterr().err
    assert "out of memory with 4 rows at once" in said and "going on with 1 row at once" in said
    assert call(target, tmp_path, fits=1) == {"plan": last}
    assert "out of memory" not in capfd.readouterr().err, "a later run does not climb down again"


def test_where_nothing_fits_the_last_plan_is_named(tmp_path: Path) -> None:
    pinned = OPEN | {"micro_batch": 2}
    last = {"processes": 1, "micro_batch": 2, "gradient_checkpointing": True}
    with pytest.raises(NothingFitsError, match=f"runs out of memory with {told(last)}"):  # type: ignore[arg-type]
        call("python_runs_out", tmp_path, fits=0, settings=pinned)
    assert read_json(tmp_path / FILE) == last


def test_another_failure_is_no_reason_for_a_smaller_plan(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="step 3 is nan") as failure:
        call("fails_otherwise", tmp_path, fits=0)
    assert not isinstance(failure.value, ChildOutOfMemoryError)
    assert read_json(tmp_path / FILE)["micro_batch"] == 4


def test_a_process_that_could_tell_nobody_is_understood_by_its_last_words() -> None:
    script = "import sys; sys.stderr.write('Traceback ...\\nMemoryError\\n'); sys.exit(1)"
    with pytest.raises(ChildOutOfMemoryError, match="ended with code 1"):
        run_in_child("nothing", {}, threads=1, launcher=(sys.executable, "-c", script))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory: you tried to allocate",
        "torch.OutOfMemoryError",
    ],
)
def test_words_for_running_out_of_memory(text: str) -> None:
    assert says_out_of_memory(text)
    wrapped = RuntimeError("a step failed")
    wrapped.__cause__ = RuntimeError(text)
    assert is_out_of_memory(wrapped)
    assert not says_out_of_memory("the memory was looked up: peak_memory_bytes")
