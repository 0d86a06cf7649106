"""Builds the world part by part, each in a child process, each a sealed folder until all are published together."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.settings import Settings
from storage.files import fingerprint, write_json
from storage.seals import SEAL, read_seal, seal
from storage.stages import publishing
from storage.workspace import Workspace
from tasks.process import run_in_child
from tasks.provenance import provenance
from tasks.stages import Stage

CHAT_MODELS = ("teacher", "responder_a", "responder_b", "responder_c")
PARTS = ("tokenizer", "base", *CHAT_MODELS, "reward", "benchmarks")


@dataclass(frozen=True)
class WorldWork:
    """The world under construction in the workspace's state."""

    settings: Settings
    workspace: Workspace
    stage: Stage

    @property
    def folder(self) -> Path:
        """Where the parts are built; named by what they depend on."""
        hardware = self.settings.hardware  # the number of threads moves the last bits of the weights
        return self.workspace.state / "world" / fingerprint([self.stage.settings, hardware.workers, hardware.threads])

    def part_key(self, part: str) -> str:
        """Names one part's work."""
        return f"world-{self.folder.name}-{part}"

    def done(self, part: str) -> dict[str, Any] | None:
        """The part's metrics if its folder is whole."""
        return read_seal(self.folder / part)

    def publish(self) -> None:
        """Publish every part together as `models/world`, then its manifest."""
        metrics = {part: self.done(part) for part in PARTS}
        with publishing(
            self.stage.folder, self.stage.require_key(), provenance(self.settings, self.workspace)
        ) as folder:
            for part in PARTS:
                shutil.copytree(self.folder / part, folder / part, ignore=shutil.ignore_patterns(SEAL))
            write_json(folder / "metrics.json", metrics)
        shutil.rmtree(self.folder, ignore_errors=True)


def build_part(work: WorldWork, part: str) -> dict[str, Any]:
    """Build one part in a fresh process, unless it is there and whole."""
    if (metrics := work.done(part)) is not None:
        return metrics
    settings = work.settings
    assert settings.world is not None
    arguments: dict[str, Any] = {
        "world": str(work.folder),
        "settings": settings.world.model_dump(mode="json"),
        "seed": settings.seed,
    }
    threads = settings.hardware.threads
    if part == "tokenizer":
        target = "tasks.demo.models:train_tokenizer"
    elif part == "benchmarks":
        target = "tasks.demo.benchmarks:write_benchmarks"
    elif part == "base":
        threads *= settings.hardware.workers  # nothing else can be done meanwhile
        target, arguments = "tasks.demo.models:train_trunk", arguments | {"threads": threads}
    elif part == "reward":
        target, arguments = "tasks.demo.models:train_reward", arguments | {"threads": threads}
    else:
        target, arguments = "tasks.demo.models:train_chat", arguments | {"threads": threads, "name": part}
    metrics = run_in_child(target, arguments, threads=threads) or {}
    seal(work.folder / part, metrics)
    return metrics
