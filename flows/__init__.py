"""What runs, one file a stage. Prefect reads its environment when it is imported, so its defaults are set here."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

LOCAL_API = "http://127.0.0.1:4200/api"


def _configured_elsewhere() -> bool:
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text())
        return "PREFECT_API_URL" in profiles["profiles"][profiles["active"]]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError):
        return False


if "PREFECT_API_URL" not in os.environ and not _configured_elsewhere():
    os.environ["PREFECT_API_URL"] = LOCAL_API
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # a pickle on a shared Drive would be code to run
    "PREFECT_TASKS_DEFAULT_PERSIST_RESULT": "false",
}.items():
    os.environ.setdefault(_name, _value)
