"""The hub's models and data sets of a study: pinned by commit once and for good, and fetched before anything runs.

`hub.json` in the workspace names the commits; it is read by whoever asks what a model is, and written here only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from configs.settings import ModelSettings
from storage.files import fingerprint, read_json, write_json
from storage.workspace import Workspace, WorkspaceError

Kind = Literal["model", "dataset"]

# What transformers and vLLM read of a model: no pickled weights, which are code to run, and no second copy of them
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
LEFT_OUT = ["*/*", "consolidated*"]
_INSTEAD = "give a local folder as the model's name"


class HubError(RuntimeError):
    """The hub does not have what is asked for, does not give it, or does not answer; the message says what to do."""


@dataclass(frozen=True)
class Repository:
    """A model or a data set of the hub.

    Attributes:
        name: owner/name.
        revision: commit, tag or branch asked for; none takes the newest.
        kind: model or dataset.
    """

    name: str
    revision: str | None = None
    kind: Kind = "model"

    @property
    def asked(self) -> str:
        """How it is called in `hub.json`."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


def repository(model: ModelSettings) -> Repository:
    """Where the hub has a model."""
    return Repository(model.name, model.revision)


def commits(workspace: Workspace) -> dict[str, dict[str, str]]:
    """Commits on record by kind and name.

    Raises:
        WorkspaceError: the record was damaged.
    """
    record = _read_record(workspace)
    return {kind: dict(record.get(kind, {})) for kind in ("model", "dataset")}


def _read_record(workspace: Workspace) -> dict[str, Any]:
    try:
        record: Any = read_json(workspace.hub)
    except FileNotFoundError:
        return {}
    except ValueError:
        record = None
    if not isinstance(record, dict) or not all(isinstance(part, dict) for part in record.values()):
        raise WorkspaceError(f"{workspace.hub} cannot be read; put it back, or delete it to take the newest commits")
    return record


def commit_on_record(wanted: Repository, workspace: Workspace) -> str | None:
    """The commit that a study uses, or None where the hub was not asked yet."""
    known = commits(workspace)[wanted.kind].get(wanted.asked)
    # studies begun before `hub.json` kept a file for each model, in the folder that is safe to delete
    before = workspace.state / "revisions" / f"{fingerprint([wanted.name, wanted.revision])}.json"
    if known is None and wanted.kind == "model" and before.is_file():
        known = read_json(before)["commit"]
    return known


def resolve(wanted: Repository, workspace: Workspace) -> str:
    """The commit that a study uses: asked for once, together with access to the files, and then on record.

    Raises:
        HubError: the hub does not know the name or revision, wants a licence accepted, or cannot be reached.
    """
    commit = commit_on_record(wanted, workspace) or _ask(wanted)
    record, known = _read_record(workspace), commits(workspace)[wanted.kind]
    if known.get(wanted.asked) != commit:
        write_json(workspace.hub, record | {wanted.kind: known | {wanted.asked: commit}})
    return commit


def pin_data_sets(read_by: Mapping[str, Sequence[str]], workspace: Workspace) -> None:
    """Pin the data sets that each benchmark's task reads, and keep which they are.

    Raises:
        HubError: one cannot be had.
    """
    for name in sorted({name for names in read_by.values() for name in names}):
        resolve(Repository(name, kind="dataset"), workspace)
    record = _read_record(workspace)
    known = record.get("benchmarks", {})
    if known | read_by != known:
        write_json(workspace.hub, record | {"benchmarks": known | read_by})


def data_set_commits(task: str, workspace: Workspace) -> dict[str, str] | None:
    """The commit of each data set of the hub that a task reads; None while the hub was not asked."""
    names = _read_record(workspace).get("benchmarks", {}).get(task)
    found = {name: commit_on_record(Repository(name, kind="dataset"), workspace) for name in names or []}
    known = {name: commit for name, commit in found.items() if commit}
    return known if names is not None and len(known) == len(found) else None


def data_sets_folder() -> Path:
    """Where `datasets` keeps rows by the commit that they are of."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets") / "commits"


def download_bytes(wanted: Repository, commit: str) -> int:
    """What `fetch` would still download [bytes].

    Raises:
        HubError: the hub does not tell.
    """
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    if is_offline_mode():
        fetch(wanted, commit)
        return 0
    disable_progress_bars()
    try:
        with _explained(replace(wanted, revision=commit)):
            files: Any = snapshot_download(wanted.name, revision=commit, dry_run=True, **_selected(wanted))
    finally:
        enable_progress_bars()
    return sum(file.file_size or 0 for file in files if file.will_download)


def fetch(wanted: Repository, commit: str, *, weights: bool = True) -> Path:
    """Bring a repository's files into the hub's cache, with a progress bar; what is there is not asked for again.

    Args:
        wanted: the repository.
        commit: the commit on record.
        weights: without them, only what describes a model.

    Raises:
        HubError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    with _explained(replace(wanted, revision=commit)):
        folder = Path(snapshot_download(wanted.name, revision=commit, **_selected(wanted, weights)))
    # without the hub, the client is content with whatever the cache has of the commit
    if weights and wanted.kind == "model" and not _has_weights(folder):
        raise HubError(_not_given(wanted, "its cache has no weights"))
    return folder


def _has_weights(folder: Path) -> bool:
    if (folder / "model.safetensors").is_file():
        return True
    index = folder / "model.safetensors.index.json"
    return index.is_file() and all((folder / part).is_file() for part in read_json(index)["weight_map"].values())


def _selected(repo: Repository, weights: bool = True) -> dict[str, Any]:
    if repo.kind == "dataset":
        return {"repo_type": "dataset"}
    allowed = MODEL_FILES if weights else [pattern for pattern in MODEL_FILES if pattern != "*.safetensors"]
    return {"allow_patterns": allowed, "ignore_patterns": LEFT_OUT}


def _ask(wanted: Repository) -> str:
    from huggingface_hub import HfApi, is_offline_mode

    if is_offline_mode():
        return _commit_in_cache(wanted)
    with _explained(wanted):
        api = HfApi()
        api.auth_check(wanted.name, repo_type=wanted.kind)  # what a repository says of itself it says without a licence
        info: Any = api.repo_info(wanted.name, repo_type=wanted.kind, revision=wanted.revision)
    files = [file.rfilename for file in info.siblings or []]
    if wanted.kind == "model" and not any(Path(name).match("*.safetensors") and "/" not in name for name in files):
        raise HubError(f"{wanted.name} has no weights as safetensors; pickled ones are code to run: take another model")
    return str(info.sha)


def _commit_in_cache(wanted: Repository) -> str:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=wanted.name, repo_type=wanted.kind)
    asked = wanted.revision or "main"
    if (folder / "snapshots" / asked).is_dir():
        return asked
    if (folder / "refs" / asked).is_file():
        return (folder / "refs" / asked).read_text().strip()
    snapshots = list((folder / "snapshots").glob("*"))
    if len(snapshots) == 1 and wanted.revision is None:
        return snapshots[0].name
    raise HubError(f"{wanted.asked} is not in the hub's cache, and HF_HUB_OFFLINE is set: unset it, or {_INSTEAD}")


@contextmanager
def _explained(wanted: Repository) -> Iterator[None]:
    """Turn what the hub's client raises into one line that says what to do."""
    try:
        yield
    except Exception as error:
        if told := _told(wanted, error):
            raise HubError(told) from None
        raise


def _told(wanted: Repository, error: Exception) -> str | None:
    from huggingface_hub import errors as hub_errors

    errors: Any = hub_errors
    what = "data set" if wanted.kind == "dataset" else "model"
    match error:
        case errors.GatedRepoError():
            return (
                f"{wanted.name} is gated: accept its licence on its hub page, then log in with `hf auth login` "
                "(or set HF_TOKEN)"
            )
        case errors.RevisionNotFoundError():
            return f"{wanted.name} has no revision {wanted.revision!r} on the hub"
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            there = f"{'neither a folder here nor' if wanted.kind == 'model' else 'not'} a {what} on the hub"
            return f"{wanted.name} is {there} that you can see; check the name, or log in if it is private"
        case errors.HfHubHTTPError() if error.response is not None and error.response.status_code == 401:
            return (
                f"the hub refuses the token, asked for {wanted.name}: log in anew (`hf auth login`), or mend HF_TOKEN"
            )
        case OSError(errno=int()):  # this machine's, not the network's
            return (
                f"the hub's cache cannot keep {wanted.name} ({error.strerror}); free some space, or set HF_HOME to a "
                "folder that can be written to"
            )
        case errors.HTTPError() | errors.OfflineModeIsEnabled() | OSError():
            return _not_given(wanted, type(error).__name__)
    return None


def _not_given(wanted: Repository, reason: str) -> str:
    from huggingface_hub import is_offline_mode

    first = "unset HF_HUB_OFFLINE" if is_offline_mode() else "check the connection"
    return f"the hub did not give {wanted.name} ({reason}); {first} and run the same command again, or {_INSTEAD}"
