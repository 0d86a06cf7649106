"""What a published stage says about itself, and whether it still holds.

A stage is done when its `manifest.json` carries today's fingerprint and each file it lists passes its checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.files import fingerprint, folder_aside, read_json, read_jsonl, sha256_file, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class StageKey:
    """What a stage reads and nothing else."""

    stage: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Names the stage's work."""
        return fingerprint(
            {"stage": self.stage, "version": self.version, "settings": self.settings, "inputs": self.inputs}
        )


@dataclass(frozen=True)
class StageState:
    """A published stage held against its key: `done`, or stale with reasons, or not there (no reasons)."""

    done: bool
    reasons: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Parts that a stage was published without, and why: what is there holds if there are no reasons."""


@contextmanager
def publishing(
    folder: Path,
    key: StageKey,
    provenance: Mapping[str, Any],
    measurements: Sequence[str] = (),
    failures: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Yield an empty folder that, with a manifest of all its files, replaces `folder` when the block ends well.

    Args:
        folder: the stage's published folder.
        key: what the stage read.
        provenance: seed, whole settings, package versions, hardware.
        measurements: patterns of the files that hold durations and the like: checked, but not what identifies the
            stage's result, since two equal runs differ in them.
        failures: parts that are not among the files, and why; the stage is then not done.
    """
    with folder_aside(folder) as aside:
        yield aside
        files = [path for path in aside.rglob("*") if path.is_file()]
        write_manifest(aside, key, provenance, files, measurements, failures)


def write_manifest(
    folder: Path,
    key: StageKey,
    provenance: Mapping[str, Any],
    files: Iterable[Path],
    measurements: Sequence[str] = (),
    failures: Mapping[str, str] | None = None,
) -> None:
    """Write `folder/manifest.json` over files that lie in it already; see `publishing`."""
    described: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for path in sorted(files):
        measured = any(path.match(pattern) for pattern in measurements)
        described[measured][path.relative_to(folder).as_posix()] = _describe(path)
    manifest = {
        "stage": key.stage,
        "fingerprint": key.fingerprint,
        "version": key.version,
        "settings": dict(key.settings),
        "inputs": dict(key.inputs),
        "outputs": described[False],
        "measurements": described[True],
        "provenance": dict(provenance),
        **({"failures": dict(failures)} if failures else {}),
    }
    write_json(folder / MANIFEST, manifest)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A stage's manifest, or None where there is none that parses."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "fingerprint" in manifest else None


def result_digest(folder: Path) -> str | None:
    """Identity of a published result: the content of its outputs, whatever made them; None where not published."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    return fingerprint({name: entry["sha256"] for name, entry in manifest["outputs"].items()})


def stage_state(folder: Path, key: StageKey) -> StageState:
    """Hold what is on disk against the key, file by file."""
    manifest = read_manifest(folder)
    if manifest is None:
        return StageState(False)
    gone = [f"{name} is gone" for name in _entries(manifest) if not (folder / name).is_file()]
    reasons, failures = doubts(folder, key) + gone, manifest.get("failures", {})
    return StageState(not reasons and not failures, reasons, failures)


def doubts(folder: Path, key: StageKey | None) -> list[str]:
    """Why the files of a folder must not be taken for the key's result: they are stale, altered or somebody else's.

    Without a key, since an input is missing, they are held against their own manifest only. A file that is gone casts
    no doubt on the others.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        foreign = folder.is_dir() and any(folder.iterdir())
        return ["no manifest.json says what it was made from"] if foreign else []
    found = []
    if key and manifest["fingerprint"] != key.fingerprint:
        if manifest["version"] != key.version:
            found.append(f"code version {manifest['version']} → {key.version}")
        found += _changes("", manifest["settings"], key.settings)
        found += [f"input {name} changed" for name in _different(manifest["inputs"], key.inputs)]
    for name, entry in _entries(manifest).items():
        path = folder / name
        if path.is_file() and (path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]):
            found.append(f"{name} fails its checksum")
    return found


def _entries(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return dict(manifest["outputs"] | manifest["measurements"])


def _describe(path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    if path.suffix == ".jsonl":
        entry["rows"] = len(read_jsonl(path))
    return entry


def _changes(prefix: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            change for key in _different(old, new) for change in _changes(f"{prefix}{key}.", old.get(key), new.get(key))
        ]
    return [f"{prefix.rstrip('.')} {old!r} → {new!r}"]


def _different(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
