"""Every check in one pass, from the process that will drive the study; it loads neither torch nor a model itself."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.settings import ModelSettings, Settings, SettingsError
from storage.drive import DRIVE
from storage.files import fingerprint, read_json, write_bytes, write_json
from storage.workspace import Workspace
from tasks.doctor import Check
from tasks.evaluate.task_folders import task_folders_identity
from tasks.evaluate.work import benchmark_tasks, fetch_benchmarks
from tasks.hub import (
    HubError,
    commits,
    download_bytes,
    fetch,
    pin_data_sets,
    repository,
    resolve,
)
from tasks.models import WORLD, model_identity, model_source, on_the_hub, revision_on_record
from tasks.process import ChildError, run_in_child
from tasks.provenance import gpus, hardware

STUDY_GB = 5  # what a study writes into its workspace, checkpoints included (requirement 5.2 without the models)


class NotReadyError(SettingsError):
    """Something would end the study; each is told on a line of its own, with what to do."""


def require_ready(settings: Settings, workspace: Workspace) -> list[Check]:
    """Look at everything before work begins, once for the same study on the same machine; returns the warnings.

    Raises:
        NotReadyError: something would fail.
    """
    record = Path(tempfile.gettempdir()) / f"sit-{os.getuid()}-ready-{_what_is_looked_at(settings, workspace)}.json"
    try:
        checks = [Check(**told) for told in read_json(record)]
    except (OSError, ValueError, TypeError):
        checks = examine(settings, workspace)
        if failures := [check for check in checks if check.state == "fail"]:
            lines = [f"{check.name}: {check.told}" for check in failures]
            raise NotReadyError(
                "\n".join([*lines, "Nothing was begun; `python -m flows.doctor` shows every check."])
            ) from None
        record = record.with_name(f"sit-{os.getuid()}-ready-{_what_is_looked_at(settings, workspace)}.json")
        write_json(record, [asdict(check) for check in checks])
    return [check for check in checks if check.state == "warning"]


def _what_is_looked_at(settings: Settings, workspace: Workspace) -> str:
    """Settings, models, tasks, the machine and what is installed: while they stay, so do the answers."""
    packages = sorted(f"{found.name} {found.version}" for found in importlib.metadata.distributions())
    environment = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE")]
    study = settings.model_dump(mode="json", exclude={"generation", "filter", "preference", "targets"})
    domains = [domain.system_prompt for domain in settings.generation.domains.values()]
    models = {role: model_identity(model, workspace) for role, model in study_models(settings).items()}
    tasks = task_folders_identity([Path(folder) for folder in settings.evaluation.task_folders])
    own = str(workspace.root)
    return fingerprint([study, domains, own, commits(workspace), models, tasks, packages, hardware(), environment])


def examine(settings: Settings, workspace: Workspace) -> list[Check]:
    """Every check, whatever the others say; the hub's commits are on record afterwards."""
    from huggingface_hub import is_offline_mode

    checks = [examine_workspace(workspace)]
    wanted = study_models(settings)
    known = []
    for role, model in wanted.items():
        try:
            if on_the_hub(model):
                fetch(repository(model), resolve(repository(model), workspace), weights=False)
            known.append(role)
        except HubError as error:
            checks.append(Check(role, "fail", str(error)))
    with benchmark_tasks(settings, workspace) as tasks:
        arguments = {
            "hardware": settings.hardware.model_dump(mode="json"),
            "models": [_model_arguments(role, settings, workspace) for role in known],
            "benchmarks": {"wanted": _benchmarks(settings), "folders": tasks["task_folders"], "stock": tasks["stock"]},
        }
        try:
            told = run_in_child("tasks.doctor.probe:probe", arguments, threads=settings.hardware.threads)
        except ChildError as error:
            return [*checks, Check("probe", "fail", error.reason)]
    checks += [Check(**check) for check in told["checks"]]
    if not told["cuda"] and gpus():
        # a GPU that torch cannot use is none, for whoever counts them; this answer is not kept for a process that sees
        # the GPU, since a new driver changes it
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        pin_data_sets(
            {task: names for task, names in told["data_sets"].items() if names or not settings.world}, workspace
        )
        pinned = commits(workspace)["dataset"]
        if read := sorted({name for names in told["data_sets"].values() for name in names}):
            if is_offline_mode():  # what the cache lacks now it will lack when it is read
                fetch_benchmarks(settings, workspace)
            checks.append(Check("data sets", "ok", ", ".join(f"{name} at {pinned[name][:7]}" for name in read)))
    except HubError as error:
        checks.append(Check("data sets", "fail", str(error)))
    except ChildError as error:
        told_so = f"their rows are not in the cache, and HF_HUB_OFFLINE is set: unset it ({error.reason})"
        checks.append(Check("data sets", "fail", told_so))
    return [*checks, *examine_disk([wanted[role] for role in known if on_the_hub(wanted[role])], workspace)]


def study_models(settings: Settings) -> dict[str, ModelSettings]:
    """Every model that a study takes from outside, by its role; the demo builds its own."""
    return {role: model for role, model in settings.models.by_role.items() if not model.name.startswith(WORLD)}


def examine_workspace(workspace: Workspace) -> Check:
    """Whether what is written there is flushed, renamed and read back."""
    probe = workspace.root / f".doctor.{uuid.uuid4().hex[:8]}.tmp"  # swept where this is killed
    created = not workspace.root.exists()
    try:
        content = os.urandom(4096)
        write_bytes(probe, content)
        if probe.read_bytes() != content:
            raise OSError(errno.EIO, "what was written reads back as something else")
        probe.unlink()
        if created:
            with suppress(OSError):  # another command begins in it
                workspace.root.rmdir()
    except OSError as error:
        return Check(
            "workspace", "fail", f"{workspace.root}: {error.strerror or error}; name another, or free some space"
        )
    return Check("workspace", "ok", f"{workspace.root}: written, renamed and read back")


def examine_disk(models: list[ModelSettings], workspace: Workspace) -> Iterator[Check]:
    """Whether the downloads fit the hub's cache, and the study its workspace."""
    room = shutil.disk_usage(_existing(workspace.root)).free / 1e9
    if room < STUDY_GB:
        told = f"{room:.1f} GB are free in {workspace.root}; a study may take {STUDY_GB} GB"
        yield Check("disk", "warning", told)
    if not models:
        return
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if cache.is_relative_to(DRIVE):
        told = f"the hub's cache {cache} lies on Drive, where models of gigabytes fill its quota: set HF_HOME elsewhere"
        yield Check("downloads", "warning", told)
    try:
        wanted = dict.fromkeys((repository(model), revision_on_record(model, workspace)) for model in models)
        size = sum(download_bytes(repo, commit) for repo, commit in wanted if commit) / 1e9
    except HubError as error:
        yield Check("downloads", "fail", str(error))
        return
    free = shutil.disk_usage(_existing(cache)).free / 1e9
    fits: Any = "ok" if size < free else "fail"
    told = f"{size:.1f} GB of models to download, {free:.1f} GB free in {cache}"
    yield Check(
        "downloads", fits, told if fits == "ok" else f"{told}; free some space, or set HF_HOME to a larger disk"
    )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))  # a dead mount is none


def _model_arguments(role: str, settings: Settings, workspace: Workspace) -> dict[str, Any]:
    model = study_models(settings)[role]
    arguments: dict[str, Any] = {
        "role": role,
        "source": model_source(model, workspace),
        "revision": revision_on_record(model, workspace),
        "precision": model.precision,
    }
    if role == "teacher":
        arguments["domains"] = [domain.system_prompt for domain in settings.generation.domains.values()]
    if role == "base model":
        methods = settings.tuning.methods
        arguments["methods"] = {name: section.model_dump(mode="json") for name, section in methods.items()}
    return arguments


def _benchmarks(settings: Settings) -> list[tuple[str, str, str]]:
    return [(name, benchmark.task, benchmark.metric) for name, benchmark in settings.evaluation.asked.items()]
