"""The comparative notebook before it is executed: valid, explained, complete, and in need of nothing but its folder."""

from __future__ import annotations

import ast
import re
from typing import Any

import nbformat
import pytest

from tasks.process import PROJECT
from tasks.report import charts, recommend, report, words
from tasks.report.notebook import SOURCE, build_notebook, notebook_text, without_project

LIBRARIES = {"IPython", "google", "matplotlib", "numpy", "pandas", "scipy"}
STANDARD = {"collections", "io", "json", "math", "operator", "pathlib", "re", "sys", "typing"}


@pytest.fixture(scope="module")
def cells() -> list[Any]:
    return list(build_notebook().cells)


def code_of(cells: list[Any]) -> str:
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")


def test_it_is_a_valid_notebook_without_outputs(cells: list[Any]) -> None:
    notebook = nbformat.reads(notebook_text(build_notebook()), as_version=4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in cells}) == len(cells) > 60
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells if cell.cell_type == "code")


def test_building_it_again_gives_the_same_bytes() -> None:
    text = notebook_text(build_notebook())
    assert text == notebook_text(build_notebook())
    assert str(PROJECT) not in text


def test_it_needs_no_project(cells: list[Any]) -> None:
    tree = ast.parse(code_of(cells))
    named = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)])
    }
    assert named == LIBRARIES | STANDARD
    assert re.search(r"noqa|type: ignore|fmt:", code_of(cells)) is None


def test_its_names_colours_and_rules_are_the_reports(cells: list[Any]) -> None:
    constants = next(cell.source for cell in cells if "COLOURS = {" in cell.source)
    known: dict[str, Any] = {}
    exec(constants, known)
    assert (known["COLOURS"], known["MARKERS"], known["STYLE"]) == (charts.COLOURS, charts.MARKERS, charts.STYLE)
    assert (known["LEAD"], known["RULES"]) == (recommend.LEAD, report.RULES)
    assert (known["METHOD_NAMES"], known["NOT_MEASURED"]) == (words.METHOD_NAMES, words.NOT_MEASURED)


def test_every_table_is_explained_before_it_is_computed(cells: list[Any]) -> None:
    explained = ""
    for cell in cells:
        if cell.cell_type == "markdown":
            explained += cell.source
        elif "\nshow(" in cell.source:
            if "\nfound = " not in cell.source:  # the list of the files
                assert len(explained.split()) >= 20, cell.source[:200]
            explained = ""


def test_it_reads_every_file_that_the_report_is_made_from(cells: list[Any]) -> None:
    files = next(cell.source for cell in cells if "files = [" in cell.source)
    assert [name for name in report.NAMES if f'"{name}"' not in files] == []


def test_it_says_how_to_run_it(cells: list[Any]) -> None:
    assert "pip install -c constraints.txt -e ." in cells[0].source and "Colab" in cells[0].source
    assert 'drive.mount("/content/drive")' in cells[1].source


def test_the_source_is_the_script_that_is_linted_and_typed() -> None:
    assert SOURCE.name == "comparative_analysis.py" and SOURCE.parent.name == "report"
    assert without_project("from tasks.report.words import NOT_MEASURED") == "NOT_MEASURED = 'not measured'"
    with pytest.raises(ValueError, match="only imports"):
        without_project("LEAD = 0.05")
