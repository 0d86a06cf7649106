"""The last steps of a study: what fails costs no other step, and is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from configs.settings import Settings, load_settings
from flows import full_pipeline

FIRST = ("generate", "filter_rows", "prefer", "tune")
LAST = ("evaluate", "judge", "report")


@pytest.fixture(scope="module", autouse=True)
def prefect_server() -> Iterator[None]:
    with prefect_test_harness():
        yield


@pytest.fixture
def begun() -> list[str]:
    """Names of the steps that were begun."""
    return []


def run(monkeypatch: pytest.MonkeyPatch, place: Path, begun: list[str], failing: Mapping[str, BaseException]) -> None:
    """A study whose steps do nothing or fail."""

    def step(name: str) -> object:
        @flow(name=name, persist_result=False)
        def one(settings: Settings, workspace: Path) -> None:
            begun.append(name)
            if name in failing:
                raise failing[name]

        return one

    for name in (*FIRST, *LAST):
        monkeypatch.setattr(full_pipeline, name, step(name))
    full_pipeline.full_pipeline(load_settings("demo"), place)


def test_one_failure_is_raised_once_the_others_ran(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begun: list[str]
) -> None:
    with pytest.raises(ValueError, match="no memory"):
        run(monkeypatch, tmp_path, begun, {"evaluate": ValueError("no memory")})
    assert begun == [*FIRST, *LAST]


def test_every_failure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begun: list[str]) -> None:
    failing = {name: ValueError(f"no {name}") for name in LAST}
    with pytest.raises(full_pipeline.IncompleteStudyError) as told:
        run(monkeypatch, tmp_path, begun, failing)
    assert str(told.value).splitlines() == [f"ValueError: no {name}" for name in LAST]


def test_an_interrupt_ends_the_study_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begun: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path, begun, {"evaluate": KeyboardInterrupt()})
    assert begun == [*FIRST, "evaluate"]
