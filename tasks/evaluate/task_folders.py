"""What lies in folders of lm-eval tasks of one's own, and in the files of this machine that the tasks read."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from storage.digests import local_digests
from storage.files import fingerprint

LEFT_BY_PYTHON = "__pycache__"


class _Loader(yaml.SafeLoader):
    """Reads the YAML of a task, in which `!function` names Python code, which lies in the folder too."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def task_folders_identity(folders: Sequence[Path]) -> str:
    """Fingerprint of every file in the folders, and of every local data file that their tasks name."""
    content = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and LEFT_BY_PYTHON not in path.parts)
        digests = local_digests(files)
        named = [Path(name) for path in files if path.suffix == ".yaml" for name in _data_files(path)]
        content.append([path.relative_to(folder).as_posix() for path in files])
        content.append([*digests.values(), *local_digests(path for path in named if path.is_file()).values()])
    return fingerprint(content)


def _data_files(path: Path) -> Iterator[str]:
    try:
        task = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return  # the doctor says what is wrong with it
    for text in _strings(_named(task)):
        for found in sorted(glob.glob(text)) or [text]:
            yield from sorted(str(inside) for inside in Path(found).rglob("*")) if os.path.isdir(found) else [found]


def _named(task: Any) -> list[Any]:
    """What a task, or one that is written out in its group, says of its data."""
    if isinstance(task, list):
        return [_named(one) for one in task]
    if not isinstance(task, dict):
        return []
    return [task.get("dataset_path"), task.get("dataset_kwargs"), _named(task.get("task"))]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
