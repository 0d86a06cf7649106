"""JSON files that a person puts into the workspace: checked as they are read, or refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

LONGEST_KEY = 60


class Given(BaseModel):
    """What such a file holds; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


GivenT = TypeVar("GivenT", bound=Given)
Refused = list[dict[str, str]]


class RefusedError(ValueError):
    """A file cannot be used; the message says why."""


def read_given(path: Path, kind: type[GivenT]) -> GivenT:
    """A file as what it should hold.

    Raises:
        RefusedError: it cannot be read or holds something else.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RefusedError(f"cannot be read: {error.strerror or type(error).__name__}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part)[:LONGEST_KEY] for part in problem["loc"])
        raise RefusedError(f"{place}: {problem['msg']}" if place else problem["msg"]) from None


def read_all(folder: Path, pattern: str, kind: type[GivenT], refused: Refused) -> Iterator[tuple[Path, GivenT]]:
    """Every file of a folder that can be used, by name; the others are added to `refused`."""
    for path in sorted(folder.glob(pattern)):
        try:
            yield path, read_given(path, kind)
        except RefusedError as error:
            refused.append({"file": path.name, "reason": str(error)})
