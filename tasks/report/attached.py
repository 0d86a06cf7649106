"""Results of other evaluations that a person put beside the study, AgentBench's for instance.

Each is a file `evaluation/attached/*.json`: `{"title", "source", "note", "scores": [{"method", "metric", "value",
"stderr"}]}`; note and stderr may be left out. A method is called as the study calls it: base, sft, prompt_tuning, dpo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from configs.settings import Settings
from storage.workspace import Workspace
from tasks.evaluate.compare import figure
from tasks.evaluate.results import BASE, study_methods
from tasks.given import Given, Refused, read_all
from tasks.report.tables import escape, refused_lines, table
from tasks.report.words import NOT_MEASURED, method_name

Text = Annotated[str, Field(min_length=1, max_length=300)]


class Score(Given):
    """One figure of one method."""

    method: str
    metric: Text
    value: float = Field(allow_inf_nan=False)
    stderr: float | None = Field(None, ge=0, allow_inf_nan=False)


class Attached(Given):
    """The results of one evaluation."""

    title: Text
    source: Text = Field(description="where they are from: an address, a command, a commit")
    note: str = Field("", max_length=2000)
    scores: list[Score] = Field(min_length=1)


def build_attached(workspace: Workspace, settings: Settings) -> dict[str, Any] | None:
    """`attached.json`: what may be shown, and what is refused with its reason; None where nothing is attached."""
    refused: Refused = []
    results = []
    known = {BASE, *study_methods(settings)}
    for path, attached in read_all(workspace.evaluation / "attached", "*.json", Attached, refused):
        if reason := _problem(attached, known):
            refused.append({"file": path.name, "reason": reason})
        else:
            results.append(attached.model_dump(mode="json"))
    if not results and not refused:
        return None
    return {"results": results, "refused": sorted(refused, key=lambda one: one["file"])}


def attached_section(metrics: Mapping[str, Any], settings: Settings) -> str:
    """Markdown with its own heading, or nothing where nothing is attached."""
    attached = metrics.get("attached")
    if not attached:
        return ""
    parts = [
        "### Other evaluations",
        "These figures were measured elsewhere and put beside the study; nothing here checks them.",
    ]
    for result in figure(attached, "results") or []:
        parts += [f"**{escape(result['title'])}** ({escape(result['source'])})", _table(result, settings)]
        if note := result.get("note"):
            parts.append(escape(note))
    return "\n\n".join([*parts, *refused_lines(attached, "attached")])


def _problem(attached: Attached, known: set[str]) -> str | None:
    unknown = next((score.method for score in attached.scores if score.method not in known), None)
    if unknown is not None:
        return f"{unknown[:60]!r} is no method of this study, which has {', '.join(sorted(known))}"
    given = Counter((score.method, score.metric) for score in attached.scores)
    twice = next((score for score, count in given.items() if count > 1), None)
    return f"{twice[1]} of {twice[0]} is given twice" if twice else None


def _table(result: Mapping[str, Any], settings: Settings) -> str:
    scores = {(score["method"], score["metric"]): score for score in result["scores"]}
    metrics = list(dict.fromkeys(score["metric"] for score in result["scores"]))
    methods = [
        method for method in (BASE, *study_methods(settings)) if any((method, name) in scores for name in metrics)
    ]
    rows = [[method_name(method), *(_cell(scores.get((method, metric))) for metric in metrics)] for method in methods]
    return table(["Method", *metrics], rows, "metrics/attached.json")


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return NOT_MEASURED
    stderr = score.get("stderr")
    return f"{score['value']:g}" + ("" if stderr is None else f" ± {stderr:g}")
