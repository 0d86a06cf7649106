"""The one command line of every flow: settings, workspace, server, exit code."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.settings import Settings, SettingsError, load_settings, profiles, setting_keys
from storage.drive import default_root, unreachable
from storage.files import sweep_leftovers
from storage.lock import WorkspaceBusyError, only_one
from storage.workspace import Workspace, WorkspaceError, open_workspace
from tasks.hub import HubError, commits
from tasks.tune.methods import check_methods

LEFTOVER_SECONDS = 3600
DONE, FAILED, WRONG_SETTINGS, INTERRUPTED = 0, 1, 2, 130

Flow = Callable[[Settings, Path], Any]
AddOptions = Callable[[argparse.ArgumentParser], None]


def run(
    flow: Flow,
    name: str,
    stages: Sequence[str],
    arguments: Sequence[str] | None = None,
    add_options: AddOptions | None = None,
    needs_models: bool = True,
) -> int:
    """Run a flow from the command line and return its exit code: 0 done, 1 failed, 2 wrong settings, 130 interrupted.

    Args:
        flow: called with the settings and the workspace's root.
        name: the module, as in `python -m flows.NAME`.
        stages: prefixes of the stages it publishes; if they all hold, nothing is started.
        arguments: command line; none takes the process's own.
        add_options: adds the command's own options to those that all have.
        needs_models: whether everything that the study needs is looked at before it begins.
    """
    try:
        settings, workspace, options = parse(name, flow.__doc__ or "", arguments, add_options)
    except (SettingsError, WorkspaceError) as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    if _nothing_to_do(settings, workspace, stages):
        print(f"Nothing to do: {name} is complete in {workspace.root} for these settings.")
        return DONE

    from flows.server import ServerError, ensure_server

    logging.getLogger("prefect.flow_runs").addFilter(_in_a_line)
    print(f"{name} · profile {settings.profile} · seed {settings.seed} · workspace {workspace.root}")
    try:
        with only_one(workspace.root, f"python -m flows.{name}"):
            sweep_leftovers(workspace.root, LEFTOVER_SECONDS)
            if needs_models:
                show_warnings(settings, workspace)
            print(f"Prefect UI {ensure_server(options.keep_ui)}/runs", flush=True)
            flow(settings, workspace.root)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return WRONG_SETTINGS
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is lost. Run the same command again to go on.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place where a failure becomes an exit code
        gone = unreachable(workspace.root)  # whatever failed then failed for that
        print(f"\n{gone or f'{type(error).__name__}: {error}'}", file=sys.stderr)
        if not gone and not isinstance(error, ServerError | WorkspaceBusyError):
            print("What was finished is kept. Run the same command again to go on.", file=sys.stderr)
        return FAILED
    if not options.keep_ui:
        print("Reopen the Prefect UI of past runs with: prefect server start")
    return DONE


def show_warnings(settings: Settings, workspace: Workspace) -> None:
    """Look at what the study needs, and print what may surprise.

    Raises:
        SettingsError: something would end it.
    """
    from tasks.doctor.examine import require_ready

    for check in require_ready(settings, workspace):
        print(f"warning: {check.name}: {check.told}", file=sys.stderr)


def parse(
    name: str,
    description: str,
    arguments: Sequence[str] | None = None,
    add_options: AddOptions | None = None,
) -> tuple[Settings, Workspace, argparse.Namespace]:
    """Settings, workspace and remaining options of a command line.

    Args:
        name: the module, as in `python -m flows.NAME`.
        description: what `--help` says first.
        arguments: command line; none takes the process's own.
        add_options: adds the command's own options to those that all have.

    Raises:
        SettingsError: a wrong option, key, value or profile, or a model on a Drive that is not mounted.
        WorkspaceError: the workspace cannot be written to, or its record of the hub's commits not be read.
    """
    settings, options = parse_settings(name, description, arguments, add_options)
    for model in settings.models.by_role.values():
        if reason := unreachable(Path(model.name)):
            raise SettingsError(f"models: {reason}")
    workspace = open_workspace(options.workspace)
    commits(workspace)  # on which every stage's key depends
    return settings, workspace, options


def parse_settings(
    name: str, description: str, arguments: Sequence[str] | None = None, add_options: AddOptions | None = None
) -> tuple[Settings, argparse.Namespace]:
    """`parse` for a command that may need no workspace: none is opened.

    Raises:
        SettingsError: a wrong option, key, value or profile.
    """
    parser = _Parser(
        prog=f"python -m flows.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings (--section.key VALUE):\n" + "\n".join(f"  --{key}  {text}" for key, text in setting_keys()),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--profile", default="demo", help=f"one of {', '.join(profiles())}, or a YAML file of your own (default: demo)"
    )
    parser.add_argument("--workspace", type=Path, default=default_root(), help="folder that holds the study")
    parser.add_argument("--keep-ui", action="store_true", help="leave the Prefect server running at the end")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS if name != "status" else "print JSON")
    if add_options:
        add_options(parser)
    options, rest = parser.parse_known_args(arguments)
    try:
        settings = load_settings(options.profile, _overrides(rest))
    except OSError as error:  # of a mount that is dead
        raise SettingsError(f"{error.filename} is gone ({error.strerror}): mount the Drive again") from None
    check_methods(settings)
    return settings, options


def _overrides(rest: Sequence[str]) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise SettingsError(f"got {word!r}, takes --section.key VALUE; see --help")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise SettingsError(f"--{key}: got no value, takes --{key} VALUE")
            text = words.pop(0)
        try:
            overrides[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise SettingsError(f"--{key}: got {text!r}, which is not a YAML value") from None
        if isinstance(overrides[key], str):
            overrides[key] = _number(overrides[key])
    return overrides


def _number(text: str) -> Any:
    try:
        return float(text)  # YAML 1.1 reads 2e-4 as text
    except ValueError:
        return text


def _nothing_to_do(settings: Settings, workspace: Workspace, stages: Sequence[str]) -> bool:
    from tasks.stages import study_stages

    wanted = [stage for name, stage in study_stages(settings, workspace).items() if name.startswith(tuple(stages))]
    return all(stage.state().done for stage in wanted)


def _in_a_line(record: logging.LogRecord) -> bool:
    """Prefect's log of an error whose message says what to do: without a page of traceback for each flow."""
    from tasks.stages import MissingInputError

    if record.exc_info and isinstance(record.exc_info[1], HubError | MissingInputError | SettingsError):
        record.exc_info = None
    return True


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise SettingsError(f"{message}; see --help")
