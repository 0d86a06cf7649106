"""Fixtures shared by every suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests.small import finish_study, start_study
from tests.tiny import build_tiny_model

settings.register_profile("no deadline", deadline=None)  # the first call of compiled code compiles it
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of the settings `SMALL`; whoever changes what it holds takes a copy."""
    folder = tmp_path_factory.mktemp("study")
    finish_study(start_study(folder / "w", folder / "prefect", folder / "log"), folder / "log")
    return folder / "w"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model with random weights."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence classifier with random weights."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "reward", classifier=True)
