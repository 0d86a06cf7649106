"""Results of other evaluations reach the report as they were given, or are refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from configs.settings import Settings, load_settings
from storage.files import write_json, write_text
from storage.workspace import Workspace
from tasks.report.attached import attached_section, build_attached

AGENTS: dict[str, Any] = {
    "title": "AgentBench, dev split",
    "source": "github.com/THUDM/AgentBench, v0.2",
    "note": "Temperature 0.",
    "scores": [
        {"method": "base", "metric": "os-std", "value": 0.05, "stderr": 0.01},
        {"method": "sft", "metric": "os-std", "value": 0.25},
        {"method": "sft", "metric": "dbbench-std", "value": 12},
    ],
}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings("demo")


def attach(workspace: Workspace, name: str, content: Any) -> None:
    write_json(workspace.evaluation / "attached" / name, content)


def test_results_become_a_table_of_the_studys_methods(settings: Settings, tmp_path: Path) -> None:
    """What was not given is not measured; a method of which nothing is given is left out."""
    workspace = Workspace(tmp_path)
    attach(workspace, "agentbench.json", AGENTS)
    attached = build_attached(workspace, settings)
    assert attached is not None and attached["refused"] == []
    assert attached["results"] == [
        AGENTS | {"scores": [{"stderr": None} | score for score in AGENTS["scores"]]},
    ]
    section = attached_section({"attached": attached}, settings)
    assert section.startswith("### ") and "**AgentBench, dev split**" in section
    assert "| Base model | 0.05 ± 0.01 | not measured |" in section
    assert "| LoRA SFT | 0.25 | 12 |" in section
    assert "DPO" not in section and "Temperature 0." in section
    assert "Source: [`metrics/attached.json`](metrics/attached.json)." in section


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (
            {"scores": [{"method": "gpt", "metric": "os", "value": 1}]},
            "'gpt' is no method of this study, which has base",
        ),
        ({"scores": [{"method": "ia3", "metric": "os", "value": 1}]}, "'ia3' is no method of this study"),
        ({"scores": [{"method": "sft", "metric": "os", "value": 1}] * 2}, "os of sft is given twice"),
        ({"scores": [{"method": "sft", "metric": "os", "value": "1"}]}, "scores.0.value"),
        ({"scores": [{"method": "sft", "metric": "os", "value": None}]}, "scores.0.value"),
        ({"scores": [{"method": "sft", "metric": "os", "value": 1, "stderr": -1}]}, "scores.0.stderr"),
        ({"scores": [{"method": "sft", "metric": "os", "value": 1, "error": 1}]}, "scores.0.error"),
        ({"scores": []}, "scores"),
        ({"title": ""}, "title"),
        ({"note": None}, "note"),
    ],
)
def test_what_is_malformed_is_refused_and_costs_no_other(
    settings: Settings, tmp_path: Path, broken: dict[str, Any], reason: str
) -> None:
    workspace = Workspace(tmp_path)
    attach(workspace, "a.json", AGENTS | broken)
    attach(workspace, "b.json", AGENTS)
    attached = build_attached(workspace, settings)
    assert attached is not None and len(attached["results"]) == 1
    assert [one["file"] for one in attached["refused"]] == ["a.json"]
    assert reason in attached["refused"][0]["reason"]
    assert "a.json" in attached_section({"attached": attached}, settings)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_value_that_is_no_number_is_refused(settings: Settings, tmp_path: Path, value: str) -> None:
    workspace = Workspace(tmp_path)
    text = json.dumps(AGENTS).replace("0.25", value)
    assert value in text
    write_text(workspace.evaluation / "attached" / "a.json", text)
    attached = build_attached(workspace, settings)
    assert attached is not None and attached["results"] == []
    assert "scores.1.value" in attached["refused"][0]["reason"]


def test_a_torn_file_is_refused(settings: Settings, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_text(workspace.evaluation / "attached" / "a.json", '{"title": "A')
    attached = build_attached(workspace, settings)
    assert attached is not None and "JSON" in attached["refused"][0]["reason"]


def test_nothing_attached_is_no_section(settings: Settings, tmp_path: Path) -> None:
    assert build_attached(Workspace(tmp_path), settings) is None
    assert attached_section({"attached": None}, settings) == attached_section({}, settings) == ""


def test_given_text_is_shown_as_it_is_written(settings: Settings, tmp_path: Path) -> None:
    """Markup, table bars and line breaks in a person's text make no element of the report."""
    workspace = Workspace(tmp_path)
    hostile = "a|b <script>x</script>\n\n## **bold** [link](http://x) `code` \\ &amp;"
    scores = [{"method": "sft", "metric": hostile, "value": 1.0}]
    attach(workspace, "a|b <b>.json", {"title": hostile, "source": hostile, "note": hostile, "scores": scores})
    attach(workspace, "c|d <b>.json", [])
    attached = build_attached(workspace, settings)
    html = (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render(attached_section({"attached": attached}, settings))
    )
    assert html.count("a|b &lt;script&gt;x&lt;/script&gt; ## **bold** [link](http://x) `code` \\ &amp;amp;") == 4
    assert "<script" not in html and "<h2" not in html and "<b>" not in html
    assert html.count("<table>") == 1 and html.count("</th>") == 2
