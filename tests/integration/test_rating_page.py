"""The rating page in a real browser, by mouse and keyboard, and its file back through the statistics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from configs.settings import load_settings
from storage.files import write_json, write_text
from storage.workspace import Workspace
from tasks.human import page
from tasks.human.files import PAGE, human_folder
from tasks.human.ratings import build_human
from tests.unit.test_human import HOSTILE, write_answers

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# what a rater does; the file that would be downloaded goes into the page, where the test can read it
RATER = """
const press = (key, target = document.body) =>
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const steps = [];
const note = () => steps.push([at("number").textContent, at("count").textContent]);
const makeAddress = URL.createObjectURL;
URL.createObjectURL = (blob) => {
  blob.text().then((text) => {
    const told = document.createElement("pre");
    told.id = "told";
    const kept = JSON.parse(localStorage.getItem(stored));
    told.textContent = JSON.stringify({ steps, file: JSON.parse(text), kept, ran: window.ran });
    document.body.append(told);
  });
  return makeAddress(blob);
};
note();
document.querySelector("[data-verdict=left]").click(); note();
press("2"); note();
press("ArrowLeft"); note();
press("3"); note();
at("facts").click(); press("5"); press("1"); note();
at("rater").value = "Jo 3"; at("rater").dispatchEvent(new Event("input")); press("3", at("rater")); note();
press("n"); note();
at("save").click();
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_person_rates_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clicks and keys rate, going back changes a verdict, a name is no command, hostile answers stay text."""
    template = page.TEMPLATE.read_text(encoding="utf-8")
    before, end = template.rsplit("</script>", 1)
    write_text(tmp_path / "driven.html", f"{before}{RATER}</script>{end}")
    monkeypatch.setattr(page, "TEMPLATE", tmp_path / "driven.html")
    settings, workspace = load_settings("demo"), Workspace(tmp_path / "workspace")
    hostile = f"{HOSTILE.replace('alert(1)', 'window.ran = 1')}<img src=x onerror='window.ran = 2'>"
    write_answers(workspace, settings, lambda method, number: f"{hostile} {method != 'base'}", "prompt_tuning", "dpo")
    key = page.write_page(settings, workspace, 6)

    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (human_folder(workspace) / PAGE).as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    told = json.loads(unescape(found[1]))
    assert "ran" not in told
    numbers = ["1", "2", "3", "2", "3", "4", "4", "4"]
    counts = ["0", "1", "2", "2", "2", "3", "3", "3"]
    assert told["steps"] == [
        [f"Pair {number} of 6", f"{count} of 6"] for number, count in zip(numbers, counts, strict=True)
    ]
    file = told["file"]
    assert (file["page"], file["rater"]) == (key.page, "Jo 3")
    assert file["ratings"] == [
        {"pair": 1, "verdict": "left", "false": None},
        {"pair": 2, "verdict": "tie", "false": None},
        {"pair": 3, "verdict": "left", "false": ["right"]},
    ]
    write_json(human_folder(workspace) / "ratings-Jo_3.json", file)
    human = build_human(workspace, settings)
    assert human is not None and human["refused"] == [] and human["raters"] == 1
    row = next(row for row in human["rows"] if row["method"] == "sft")
    assert told["kept"]["rater"] == "Jo 3" and list(told["kept"]["ratings"]) == ["1", "2", "3"]
    for_method = [1 if pair.baseline_side == "right" else -1 for pair in key.pairs]
    assert row["win_rate"] == pytest.approx((1 + (for_method[0] + 0 + for_method[2]) / 3) / 2)
    assert (row["checked"], row["false_share"]) == (1, float(for_method[2] < 0))
