"""lm-eval's tasks: looked at without their data, loaded with each data set at its commit. For child processes.

`datasets` forgets a commit where it matters: without network it takes whatever it cached last, of any commit. So each
commit has a cache folder of its own here, in which there is nothing else to take.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HUB_FILE = re.compile(r"hf://datasets/([^/@]+/[^/@]+)/")


def load_tasks(
    names: Sequence[str],
    folders: Sequence[str] = (),
    revisions: Mapping[str, str] | None = None,
    *,
    stock: bool = True,
) -> dict[str, Any]:
    """Build tasks and groups, with their data.

    Args:
        names: lm-eval tasks, groups or tags.
        folders: folders of task YAMLs; a task in a later one takes the place of one of its name before.
        revisions: commit by data set ("cais/mmlu"); one that is not named is taken as `datasets` takes it.
        stock: whether lm-eval's own tasks are among them; finding those takes 7 to 11 s once a process.

    Returns:
        `tasks`, `groups` and `group_map`, as `TaskManager.load` gives them.

    Raises:
        KeyError: there is no such task.
    """
    with _pinned(revisions or {}):
        loaded: dict[str, Any] = _manager(tuple(folders), stock).load(list(names))
    return loaded


def describe_tasks(names: Sequence[str], folders: Sequence[str] = (), *, stock: bool = True) -> dict[str, Any]:
    """What tasks and groups read and measure, told from their YAMLs alone: no data is loaded.

    Args:
        names: lm-eval tasks, groups or tags.
        folders: folders of task YAMLs.
        stock: whether lm-eval's own tasks are among them.

    Returns:
        By name: `data_sets`, the configurations of each hub data set by its path (none where it is the default one);
        `metrics` as the samples name them (`acc`, `exact_match,strict-match`), those that all subtasks have, None where
        only running tells (a task written in Python); `error`, one line or None.
    """
    unreadable = _unreadable(folders)
    return {name: _describe(name, folders, stock, unreadable) for name in names}


def data_set_cache(commit: str) -> Path:
    """The folder in which `datasets` caches what it read of this commit, and nothing else."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "commits" / commit


@functools.cache
def _manager(folders: tuple[str, ...], stock: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(folders), include_defaults=stock)


@contextmanager
def _replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    usual = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, usual)


@contextmanager
def _pinned(revisions: Mapping[str, str]) -> Iterator[None]:
    # not by the tasks' own `dataset_kwargs`: a task written in Python reads none, and a data function takes no revision
    import datasets

    usual = datasets.load_dataset

    def at_commit(files: Any) -> Any:
        if isinstance(files, dict):
            return {split: at_commit(inner) for split, inner in files.items()}
        if isinstance(files, (list, tuple)):
            return [at_commit(inner) for inner in files]
        if (found := HUB_FILE.match(str(files))) and (commit := revisions.get(found[1])):
            return f"hf://datasets/{found[1]}@{commit}/{files[found.end() :]}"
        return files

    def load(path: str, *arguments: Any, **options: Any) -> Any:
        if commit := revisions.get(path):
            options |= {"revision": commit, "cache_dir": str(data_set_cache(commit))}
        if "data_files" in options:
            options["data_files"] = at_commit(options["data_files"])
        return usual(path, *arguments, **options)

    with _replaced(datasets, "load_dataset", load):
        yield


def _unreadable(folders: Sequence[str]) -> str | None:
    """The first YAML that cannot be read, which lm-eval would pass over in silence."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.yaml")):
        try:
            load_yaml(path, resolve_func=False)
        except Exception as error:  # noqa: BLE001 - whatever it is, lm-eval would go on without the file
            return f"{path} cannot be read: {_one_line(error)}"
    return None


def _describe(name: str, folders: Sequence[str], stock: bool, unreadable: str | None) -> dict[str, Any]:
    try:
        if unreadable:
            raise ValueError(unreadable)
        configs = _configs(name, _manager(tuple(folders), stock))
    except Exception as error:  # noqa: BLE001 - a task's own code may raise anything, and is imported here
        return {"data_sets": {}, "metrics": None, "error": _one_line(error)}
    data_sets: dict[str, list[str]] = {}
    for path, config in (data_set for task in configs for data_set in _data_sets(task)):
        kept = data_sets.setdefault(path, [])
        if config and config not in kept:
            kept.append(config)
    found = [_metrics(config) for config in configs]
    known = [names for names in found if names is not None]
    shared = [metric for metric in known[0] if all(metric in names for names in known)] if known else []
    return {"data_sets": data_sets, "metrics": shared if len(known) == len(found) else None, "error": None}


def _configs(name: str, manager: Any) -> list[dict[str, Any]]:
    """The configuration of each task that a name stands for, as lm-eval's factory puts it together."""
    from lm_eval.tasks import _factory

    known = manager.task_index
    if name not in known:
        close = difflib.get_close_matches(name, manager.all_tasks, n=3)
        raise ValueError(f"there is no task {name!r}" + (f"; near it are {', '.join(close)}" if close else ""))
    configs: list[dict[str, Any]] = []

    class Described:
        """Stands where the built task would, in a group."""

        def __init__(self, config: dict[str, Any]) -> None:
            self.task_name = config["task"]
            if not any(config.get(key) for key in ("dataset_path", "custom_dataset", "class")):
                raise ValueError(f"{name}: {self.task_name!r} is neither a task nor says where its data are")
            configs.append(config)

    class Describing(_factory.TaskFactory):  # type: ignore[misc]  # lm-eval has no types
        def _build_task(self, entry: Any, overrides: dict[str, Any] | None) -> Any:
            return Described(self._load_full_config(entry, overrides))

    # tasks that are written out in their group are built by this name
    with _replaced(_factory, "ConfigurableTask", Described):
        Describing().build(known[name], registry=dict(known))
    return configs


def _data_sets(config: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Hub data sets with their configuration; files on this machine are none."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    path, name = (
        getattr(config.get("class"), part.upper(), None) or config.get(part)
        for part in ("dataset_path", "dataset_name")
    )
    if path in _PACKAGED_DATASETS_MODULES:
        files = json.dumps((config.get("dataset_kwargs") or {}).get("data_files"), default=str)
        return [(found, None) for found in dict.fromkeys(HUB_FILE.findall(files))]
    return [(path, name)] if path and not Path(path).is_dir() else []


def _metrics(config: Mapping[str, Any]) -> list[str] | None:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY
    from lm_eval.config.task import TaskConfig

    listed = config.get("metric_list")
    if "class" in config or any(callable(one["metric"]) or one.get("hf_evaluate") for one in listed or []):
        return None
    usual = DEFAULT_METRIC_REGISTRY[config.get("output_type", TaskConfig.output_type)]
    metrics = list(usual) if listed is None else [one["metric"] for one in listed]
    filters = [one["name"] for one in config.get("filter_list") or [{"name": "none"}]]
    return [metric if name == "none" else f"{metric},{name}" for name in filters for metric in metrics]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
