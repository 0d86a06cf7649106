"""The report as HTML and PDF: one file each that needs no other, all of the text in it, none of it read as markup."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typst

from configs.settings import load_settings
from storage.files import read_json, write_json, write_text
from storage.workspace import Workspace
from tasks.report.charts import write_charts
from tasks.report.document import headings, read_document
from tasks.report.html import write_html
from tasks.report.metrics import write_metrics
from tasks.report.pdf import typst_arguments, write_pdf
from tasks.report.report import write_report
from tasks.report.tables import markdown
from tests.unit.test_report_study import build_study

HOSTILE = '<b>&amp; "it" `|` $x$ #let *y* _z_ @w \\n [q](r) </td><script>{{'
VOID = {"meta", "img"}


class Page(HTMLParser):
    """The tags of a page with their attributes, its text outside the stylesheet, and whether every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]
        self.cells += [""] if tag in ("td", "th") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data

    def all(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A study whose models have hostile names, with its report."""
    settings = load_settings("demo", {"models.teacher.name": HOSTILE})
    workspace = build_study(tmp_path_factory.mktemp("study") / "workspace", settings)
    stats = read_json(workspace.preference / "stats.json")
    write_json(workspace.preference / "stats.json", stats | {"models": {HOSTILE: {"win_share": 0.5}}})
    write_metrics(workspace, settings)
    write_charts(workspace, settings)
    write_report(workspace, settings)
    return workspace


@pytest.fixture
def copy(study: Workspace, tmp_path: Path) -> Workspace:
    """The study's report in another place."""
    shutil.copytree(study.evaluation, tmp_path / "elsewhere" / "evaluation")
    return Workspace(tmp_path / "elsewhere")


def found(workspace: Workspace, selector: str) -> list[dict[str, Any]]:
    """The elements that Typst sets."""
    told: list[dict[str, Any]] = json.loads(typst.query(**typst_arguments(workspace), selector=selector))
    return told


def texts(element: Any) -> Iterator[str]:
    """Every text in an element that Typst tells of; code is told as such."""
    if isinstance(element, dict):
        if element.get("func") in ("text", "raw"):
            yield element["text"]
        elif element.get("func") == "space":
            yield " "
        else:
            for value in element.values():
                yield from texts(value)
    elif isinstance(element, list):
        for value in element:
            yield from texts(value)


def test_the_page_loads_nothing_and_links_only_to_what_is_there(study: Workspace) -> None:
    page = Page(write_html(study))
    assert page.open == [] and not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(source.startswith("data:image/png;base64,") for source in page.all("src"))
    assert "url(" not in (study.evaluation / "report.html").read_text(encoding="utf-8")
    names = page.all("id")
    assert len(names) == len(set(names))
    for link in page.all("href"):
        if link.startswith("#"):
            assert link[1:] in names
        elif not link.startswith("https://arxiv.org/abs/"):
            assert link.startswith("metrics/") and (study.evaluation / link).is_file()


def test_every_figure_is_in_the_page_as_it_is(study: Workspace) -> None:
    page = Page(write_html(study))
    shown = {base64.b64decode(source.partition(",")[2]) for source in page.all("src")}
    drawn = {path.read_bytes() for path in (study.evaluation / "figures").glob("*.png")}
    assert len(drawn) == 8 and shown == drawn
    assert all(page.all("alt"))


def test_every_heading_is_in_the_contents(study: Workspace) -> None:
    told = re.findall(r"^##+ (.+)$", (study.evaluation / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(told) > 8
    anchors = [str(opening.attrs["id"]) for opening, _ in headings(read_document(study).tokens)]
    page = Page(write_html(study))
    assert [link[1:] for link in page.all("href") if link.startswith("#")] == anchors
    outlined = [heading for heading in found(study, "heading") if heading["outlined"] and heading["level"] <= 2]
    assert ["".join(texts(heading["body"])) for heading in outlined] == told


def test_no_name_is_read_as_markup(study: Workspace) -> None:
    page = Page(write_html(study))
    assert HOSTILE in page.cells
    assert "b" not in {tag for tag, _ in page.tags}
    assert any(HOSTILE in "".join(texts(table)) for table in found(study, "table"))
    assert HOSTILE in [raw["text"] for raw in found(study, "raw")], "the teacher in the introduction"


def test_headings_and_figures_are_not_read_as_markup_either(copy: Workspace) -> None:
    title = r"A \<b> \& #let x = 1; $y$ \*z\* @w \`v\`"
    parts = f"# {title}", f"## {title}", f"### {title}", f"![{title}](figures/none.png)\n"
    write_text(copy.evaluation / "report.md", "\n\n".join(parts))
    plain = "A <b> & #let x = 1; $y$ *z* @w `v`"
    text = write_html(copy).read_text(encoding="utf-8")
    assert text.count("A &lt;b&gt; &amp; #let x = 1; $y$ *z* @w `v`") == 7 and "<b>" not in text
    assert [*map("".join, (texts(told["body"]) for told in found(copy, "heading")))][-2:] == [plain, plain]
    assert write_pdf(copy).read_bytes().startswith(b"%PDF")


def test_the_pdf_holds_every_table_row_and_figure(study: Workspace) -> None:
    page = Page(write_html(study))
    tables = found(study, "table")
    assert len(tables) == [tag for tag, _ in page.tags].count("table")
    cells = "".join("".join(texts(table)) for table in tables)
    assert cells.replace(" ", "") == "".join(page.cells).replace(" ", "")
    captions = ["".join(texts(figure["caption"]["body"])) for figure in found(study, "figure")]
    assert captions == page.all("alt")
    pages = re.search(rb"/Type/Pages/Count (\d+)", write_pdf(study).read_bytes())
    assert pages is not None and int(pages[1]) > 5


def test_equal_reports_give_equal_bytes_wherever_they_lie(study: Workspace, copy: Workspace) -> None:
    for write in (write_html, write_pdf):
        data = write(study).read_bytes()
        assert data == write(study).read_bytes() == write(copy).read_bytes()
        assert str(study.root).encode() not in data
    assert b"CreationDate" not in data and b"ModDate" not in data


def test_a_missing_figure_is_not_measured(copy: Workspace) -> None:
    (copy.evaluation / "figures" / "scores.png").unlink()
    text = write_html(copy).read_text(encoding="utf-8")
    assert "<figcaption>not measured: Benchmark scores" in text and text.count("data:image/png;base64,") == 7
    captions = ["".join(texts(figure["caption"]["body"])) for figure in found(copy, "figure")]
    assert len(captions) == 8 and captions[3].startswith("not measured: Benchmark scores")
    assert write_pdf(copy).read_bytes().startswith(b"%PDF")


def test_a_report_of_nothing_measured_is_set_all_the_same(tmp_path: Path) -> None:
    workspace, settings = Workspace(tmp_path), load_settings("demo")
    write_metrics(workspace, settings)
    write_report(workspace, settings)
    assert "not measured" in write_html(workspace).read_text(encoding="utf-8")
    assert write_pdf(workspace).read_bytes().startswith(b"%PDF")


def test_no_report_is_said(tmp_path: Path) -> None:
    for write in (write_html, write_pdf):
        with pytest.raises(FileNotFoundError, match=r"report\.md"):
            write(Workspace(tmp_path))


def test_columns_of_numbers_stand_to_the_right() -> None:
    rows = [["a", "1,500", "-1.0 to +2.0", "1.15.0"], ["b", "not measured", "22.1% ± 3.3", "yes"]]
    assert markdown(["x", "y", "z", "w"], rows).splitlines()[1] == "| --- | ---: | ---: | --- |"
    assert markdown(["x"], [["not measured"]]).splitlines()[1] == "| --- |"
