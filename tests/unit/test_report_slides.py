"""The presentation: native, readable from the back, fifteen minutes long, and no number but those of the metrics."""

from __future__ import annotations

import io
import re
import time
import zipfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from pptx import Presentation
from pptx.util import Emu, Pt

from configs.settings import Settings, load_settings
from storage.files import read_json, write_json
from storage.workspace import Workspace
from tasks.evaluate.results import BASE, study_methods
from tasks.evaluate.win_rates import FIGURES
from tasks.report.charts import COLOURS, Z95
from tasks.report.checklist import write_checklist
from tasks.report.metrics import load_metrics, metrics_file, write_metrics
from tasks.report.recommend import mean_gain
from tasks.report.slides.deck import SECONDS, clock
from tasks.report.slides.findings import certain, headline, load_study, memory, questions_needed, score_lead, trade_off
from tasks.report.slides.write import write_slides
from tasks.report.words import METHOD_NAMES, NOT_MEASURED, method_name, number, percent, points
from tests.unit.test_report_study import build_study

FURTHER = ("prefix_tuning", "p_tuning", "ia3", "dora", "loha")
LARGER = {"tuning.seeds": 3, "tuning.also": {name: {"learning_rate": 1e-3} for name in FURTHER}}
SEVEN = {f"evaluation.benchmarks.{name}": {"task": name, "metric": "acc"} for name in ("piqa", "boolq", "copa")}
BY_NAME = {name: method for method, name in METHOD_NAMES.items()}


def study_of(root: Path, settings: Settings) -> Workspace:
    workspace = build_study(root, settings)
    write_metrics(workspace, settings)
    write_checklist(workspace, settings)
    return workspace


def add_optional(workspace: Workspace, settings: Settings) -> None:
    """The metrics files that a study need not have."""
    rates = [
        dict.fromkeys(FIGURES)
        | {"method": method, "baseline": BASE, "win_rate": 0.5 + place / 50, "low": 0.45, "high": 0.75}
        | {f"{name}_length_controlled": value for name, value in (("win_rate", 0.52), ("low", 0.4), ("high", 0.6))}
        for place, method in enumerate(study_methods(settings))
    ]
    losses = [
        {"method": row["method"], "baseline": BASE, "difference": 0.0123, "low": 0.01, "high": 0.02} for row in rates
    ]
    rated = [row | {"ratings": 60} for row in rates[:2]]
    scores = [{"method": "sft", "metric": f"metric {i}", "value": i / 7, "stderr": None} for i in range(12)]
    write_json(metrics_file(workspace, "win_rates"), {"judge": "world/reward", "rows": rates})
    write_json(metrics_file(workspace, "forgetting"), {"task": "t", "metric": "m", "rows": losses})
    write_json(metrics_file(workspace, "human"), {"pairs": 40, "raters": 3, "rows": rated, "refused": []})
    result = {"title": "AgentBench", "source": "agents.json", "note": "", "scores": scores}
    write_json(metrics_file(workspace, "attached"), {"results": [result], "refused": []})


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings("demo")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Workspace:
    """A study of the required methods, with its presentation."""
    workspace = study_of(tmp_path_factory.mktemp("slides") / "workspace", settings)
    write_slides(workspace, settings)
    return workspace


@pytest.fixture(scope="module", params=["required", "larger", "seven benchmarks", "empty"])
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Presentations of the required methods, of eight methods with everything, of many benchmarks, and of nothing."""
    root = tmp_path_factory.mktemp("shown") / "workspace"
    if request.param == "empty":
        settings, workspace = load_settings("t4"), Workspace(root)
    else:
        further = {"required": {}, "larger": LARGER, "seven benchmarks": LARGER | SEVEN}[request.param]
        settings = load_settings("demo", further)
        workspace = study_of(root, settings)
    if request.param == "larger":
        add_optional(workspace, settings)
    return Presentation(str(write_slides(workspace, settings)))


def charts(deck: Any) -> list[Any]:
    return [shape.chart for slide in deck.slides for shape in slide.shapes if shape.has_chart]


def tables(deck: Any) -> list[Any]:
    return [shape.table for slide in deck.slides for shape in slide.shapes if shape.has_table]


def cells(table: Any) -> list[list[str]]:
    return [[cell.text_frame.text for cell in row.cells] for row in table.rows]


def texts(slide: Any) -> Iterator[str]:
    for shape in slide.shapes:
        if shape.has_text_frame:
            yield shape.text_frame.text
        if shape.has_table:
            yield from (text for row in cells(shape.table) for text in row)


def chart_of(deck: Any, title: str) -> Any:
    return next(one for one in charts(deck) if one.has_title and one.chart_title.text_frame.text == title)


def deck_of(workspace: Workspace) -> Any:
    return Presentation(str(workspace.evaluation / "presentation.pptx"))


def is_footer(shape: Any) -> bool:
    return bool(shape.has_text_frame and shape.top > Emu(int(6.9 * 914400)))


def test_about_fifteen_wide_slides_of_native_charts_and_tables(study: Workspace) -> None:
    deck = deck_of(study)
    assert 14 <= len(deck.slides) <= 17
    assert deck.slide_width / deck.slide_height == pytest.approx(16 / 9, abs=0.001)
    assert not [shape for slide in deck.slides for shape in slide.shapes if shape.shape_type == 13], "no pictures"
    assert len(charts(deck)) == 2 + 2 + 4 + 1 + 1 + 2 and len(tables(deck)) == 6
    titles = [slide.shapes.title.text_frame.text for slide in deck.slides]
    assert len(set(titles)) == len(titles) and all(len(title.split()) >= 4 for title in titles)


def test_text_can_be_read_from_the_back(shown: Any) -> None:
    for slide in shown.slides:
        for shape in slide.shapes:
            if shape.has_text_frame and shape.text_frame.text:
                sizes = [run.font.size for paragraph in shape.text_frame.paragraphs for run in paragraph.runs]
                assert sizes and min(sizes) >= Pt(12 if is_footer(shape) else 18), shape.text_frame.text
            if shape.has_table:
                frames = [cell.text_frame for row in shape.table.rows for cell in row.cells]
                assert min(run.font.size for one in frames for line in one.paragraphs for run in line.runs) >= Pt(14)
            if shape.has_chart:
                sizes = re.findall(r'sz="(\d+)"', shape.chart._chartSpace.xml)
                assert sizes and min(map(int, sizes)) >= 1400
                assert shape.chart.font.size >= Pt(14)


def test_nothing_overlaps_or_lies_off_the_slide(shown: Any) -> None:
    for slide in shown.slides:
        for shape in slide.shapes:
            assert shape.left >= 0 and shape.top >= 0
            assert shape.left + shape.width <= shown.slide_width and shape.top + shape.height <= shown.slide_height
        for one, other in combinations(slide.shapes, 2):
            wide = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
            high = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
            assert min(wide, high) <= Pt(1), (slide.shapes.title.text_frame.text, one.name, other.name)


def test_text_fits_its_box(shown: Any) -> None:
    """Measured with a font that is there everywhere, and wider than Arial by a known factor."""
    from matplotlib import font_manager
    from PIL import ImageFont

    found = {bold: font_manager.findfont("DejaVu Sans:bold" if bold else "DejaVu Sans") for bold in (False, True)}
    arial = {False: 0.87, True: 0.83}
    fonts = {bold: ImageFont.truetype(path, 100) for bold, path in found.items()}

    def height(frame: Any, width: float) -> float:
        """Height of a frame's text in points."""
        total = 0.0
        for paragraph in frame.paragraphs:
            if not paragraph.runs:
                continue
            size, bold = paragraph.runs[0].font.size.pt, bool(paragraph.runs[-1].font.bold)
            lines, used = 1, 0.0
            for word in paragraph.text.split(" "):
                space, step = (fonts[bold].getlength(text) * size / 100 * arial[bold] for text in (" ", word))
                assert step <= width, f"{word!r} is broken"
                lines, used = (
                    (lines + 1, step) if used and used + space + step > width else (lines, used + space + step)
                )
            total += 1.2 * size * lines + (paragraph.space_before.pt if paragraph.space_before else 0)
        return total

    for slide in shown.slides:
        for shape in slide.shapes:
            if shape.has_text_frame:
                frame = shape.text_frame
                room = shape.width.pt - (frame.margin_left + frame.margin_right) / 12700
                assert height(frame, room) <= shape.height.pt + 2, frame.text
            if shape.has_table:
                for row in shape.table.rows:
                    for cell, column in zip(row.cells, shape.table.columns, strict=True):
                        room = column.width.pt - (cell.margin_left + cell.margin_right) / 12700
                        assert height(cell.text_frame, room) <= row.height.pt + 2, cell.text_frame.text


def test_notes_tell_the_time_and_sum_to_fifteen_minutes(shown: Any) -> None:
    total = 0
    for slide in shown.slides:
        first, *rest = slide.notes_slide.notes_text_frame.text.split("\n")
        told = re.fullmatch(r"Time: (\d+):(\d\d) of 15:00, until (\d+):(\d\d)\.", first)
        assert told and rest and all(len(line) > 15 for line in rest)
        minutes, seconds, end_minutes, end_seconds = map(int, told.groups())
        total += 60 * minutes + seconds
        assert total == 60 * end_minutes + end_seconds
    assert total == SECONDS == 15 * 60
    assert first.startswith("Time: 0:00"), "the backup is for questions"


@pytest.mark.parametrize("weights", [[30] * 15, [1, 2, 3], [7] * 13 + [0], [90, 75, 60, 45, 30] * 4])
def test_the_clock_shares_the_whole_time(weights: list[int]) -> None:
    ends = clock(weights)
    assert ends[-1] == SECONDS and ends == sorted(ends)
    for weight, start, end in zip(weights, [0, *ends], ends, strict=False):
        assert abs(end - start - SECONDS * weight / sum(weights)) <= 5


def test_a_footer_numbers_each_slide_and_names_its_file(study: Workspace) -> None:
    deck = deck_of(study)
    for place, slide in enumerate(deck.slides, 1):
        source, number_ = (shape.text_frame.text for shape in slide.shapes if is_footer(shape))
        assert number_ == f"{place} / {len(deck.slides)}"
        files = source.removeprefix("Source: ").split(", ")
        assert files and all((study.evaluation / file).is_file() for file in files)


def test_scores_and_costs_are_those_of_the_metrics(study: Workspace, settings: Settings) -> None:
    deck = deck_of(study)
    scores = {(row["method"], row["benchmark"]): row["value"] for row in load_metrics(study, "comparison")["scores"]}
    benchmarks = list(settings.evaluation.benchmarks)
    drawn = {BY_NAME[one.name]: list(one.values) for one in chart_of(deck, "Zero-shot score [%]").plots[0].series}
    assert list(drawn) == [BASE, *study_methods(settings)]
    for method, values in drawn.items():
        assert values == pytest.approx([100 * scores[method, name] for name in benchmarks])
    runs = {run["method"]: run for run in load_metrics(study, "efficiency")["runs"]}
    for title, name in (
        ("Trained parameters (log)", "trainable_parameters"),
        ("Peak memory", "peak_memory_bytes"),
        ("Training time", "train_seconds"),
        ("Inference tokens/s", "inference_tokens_per_second"),
    ):
        plot = chart_of(deck, title).plots[0]
        assert [BY_NAME[category] for category in plot.categories] == study_methods(settings)
        assert list(plot.series[0].values) == [runs[method][name] for method in study_methods(settings)]


def test_the_data_and_the_curves_are_those_of_the_metrics(study: Workspace, settings: Settings) -> None:
    deck, data = deck_of(study), load_metrics(study, "dataset")
    left, dropped = chart_of(deck, "Rows left after each filter rule").plots[0].series
    assert list(left.values) == [step["rows"] for step in data["waterfall"]] == [60, 48, 40, 40]
    assert list(dropped.values) == [step["dropped"] for step in data["waterfall"]]
    pairs = chart_of(deck, "Preference pairs by score margin").plots[0].series[0].values
    assert sum(pairs) == sum(data["margins"]["counts"]) and len(pairs) == 8
    runs = {run["method"]: run["metrics"] for run in load_metrics(study, "training")["runs"]}
    for title, methods in (("Training loss on answers", ["sft", "prompt_tuning"]), ("Training loss of DPO", ["dpo"])):
        lines = chart_of(deck, title).plots[0].series
        assert [BY_NAME[line.name] for line in lines] == methods
        for line, method in zip(lines, methods, strict=True):
            steps = [float(value.text) for value in line._element.xpath("c:xVal//c:v")]
            assert [list(point) for point in zip(steps, line.values, strict=True)] == runs[method]["loss_curve"]


def test_differences_are_those_of_the_metrics(study: Workspace, settings: Settings) -> None:
    deck, benchmarks = deck_of(study), list(settings.evaluation.benchmarks)
    contrasts = {(row["method"], row["benchmark"]): row for row in load_metrics(study, "comparison")["contrasts"]}
    table = next(cells(one) for one in tables(deck) if cells(one)[0][-1] == "TruthfulQA")
    (plot,) = (one.plots[0] for one in charts(deck) if "in brackets" in one._chartSpace.xml)
    for place, method in enumerate(study_methods(settings)):
        series = plot.series[place]
        assert BY_NAME[series.name] == method
        values = [value for value in series.values if value is not None]
        rows = [contrasts[method, name] for name in benchmarks]
        assert values == pytest.approx([100 * row["difference"] for row in rows])
        halves = [float(value.text) for value in series._element.xpath("c:errBars/c:plus//c:v")]
        assert halves == pytest.approx([50 * (row["high"] - row["low"]) for row in rows])
        for text, row in zip(table[place + 1][1:], rows, strict=True):
            difference, low, high = (points(row[name]).replace("-", "−") for name in ("difference", "low", "high"))
            sign = "▲" if method == "sft" else "▼" if method == "dpo" else "○"
            assert text.replace("\u00a0", " ").startswith(f"{difference} {sign}")
            assert text.replace("\u00a0", " ").endswith(f"{low} to {high}")


def test_quality_against_cost_is_that_of_the_metrics(study: Workspace, settings: Settings) -> None:
    metrics = {name: load_metrics(study, name) for name in ("comparison", "tests", "efficiency")}
    memories = {run["method"]: run["peak_memory_bytes"] for run in metrics["efficiency"]["runs"]}
    (plot,) = (one.plots[0] for one in charts(deck_of(study)) if "Peak training memory [MiB]" in one._chartSpace.xml)
    assert [BY_NAME[point.name] for point in plot.series] == study_methods(settings)
    for point in plot.series:
        method = BY_NAME[point.name]
        gain = mean_gain(metrics, method)
        assert gain is not None and gain[1] is not None
        assert list(point.values) == pytest.approx([100 * gain[0]])
        assert float(point._element.xpath("c:xVal//c:v")[0].text) == pytest.approx(memories[method] / 1024**2)
        assert float(point._element.xpath("c:errBars//c:v")[0].text) == pytest.approx(100 * Z95 * gain[1])


def test_a_method_has_one_colour_throughout(shown: Any) -> None:
    seen = set()
    for chart in charts(shown):
        for series in chart.plots[0].series:
            if method := BY_NAME.get(series.name):
                assert COLOURS[method][1:].upper() in series._element.xml
                seen.add(method)
    assert seen or not charts(shown)


def test_titles_follow_from_the_figures(study: Workspace, settings: Settings) -> None:
    read = load_study(study, settings)
    assert headline(read) == "LoRA SFT gained on all 4 benchmarks; DPO lost on all 4 benchmarks"
    assert certain(read) == "8 of 12 differences hold after Holm's adjustment: 4 gains, 4 losses"
    assert memory(read) == "Prompt tuning trains in the least memory, 38.1 MiB, DPO in the most, 76.3 MiB"
    assert score_lead(read).endswith("a method scores above the base model on 4 of 4 benchmarks")
    assert re.fullmatch(r"LoRA SFT's \+2\d\.\d points are the largest mean gain, for 57\.2 MiB of .*", trade_off(read))
    assert "MMLU" not in questions_needed(read), "its questions come in subjects"


def edited(study: Workspace, root: Path, name: str, **changes: Any) -> Workspace:
    """A copy of the metrics of which one file's rows are changed."""
    for file in study.evaluation.glob("metrics/*.json"):
        write_json(root / "evaluation" / "metrics" / file.name, read_json(file))
    value = read_json(root / "evaluation" / "metrics" / f"{name}.json")
    for part, change in changes.items():
        value[part] = [one for row in value[part] if (one := change(dict(row))) is not None]
    write_json(root / "evaluation" / "metrics" / f"{name}.json", value)
    return Workspace(root)


def test_what_was_not_measured_is_no_zero(study: Workspace, settings: Settings, tmp_path: Path) -> None:
    def without_dpo(row: dict[str, Any]) -> dict[str, Any]:
        kept = ("method", "seed", "benchmark", "metric", "baseline")
        return row if row["method"] != "dpo" else {name: row[name] if name in kept else None for name in row}

    workspace = edited(study, tmp_path, "comparison", scores=without_dpo, contrasts=without_dpo)
    deck = Presentation(str(write_slides(workspace, settings)))
    series = {one.name: list(one.values) for one in chart_of(deck, "Zero-shot score [%]").plots[0].series}
    assert series["DPO"] == [None] * 4 and None not in series["LoRA SFT"]
    (plot,) = (one.plots[0] for one in charts(deck) if "in brackets" in one._chartSpace.xml)
    assert set(plot.series[2].values) == {None}
    table = next(cells(one) for one in tables(deck) if cells(one)[0][-1] == "TruthfulQA")
    assert table[3][1:] == [NOT_MEASURED] * 4
    told = "\n".join(text for slide in deck.slides for text in texts(slide))
    assert "Not measured: MMLU (DPO), HellaSwag (DPO), ARC-Easy (DPO), TruthfulQA (DPO)." in told
    assert "4 of 16 benchmark scores were not measured" in told


def test_superlatives_say_what_they_hold_for(study: Workspace, settings: Settings, tmp_path: Path) -> None:
    workspace = edited(
        study, tmp_path, "efficiency",
        runs=lambda row: row | {"peak_memory_bytes": None} if row["method"] == "prompt_tuning" else row,
    )  # fmt: skip
    told = memory(load_study(workspace, settings))
    assert told.startswith("Of 2 methods measured, LoRA SFT trains in the least memory")
    deck = Presentation(str(write_slides(workspace, settings)))
    assert list(chart_of(deck, "Peak memory").plots[0].series[0].values)[1] is None
    assert any("peak memory (Prompt tuning)" in text for slide in deck.slides for text in texts(slide))


@pytest.mark.parametrize(
    "name", ["comparison", "efficiency", "tests", "dataset", "training", "provenance", "checklist"]
)
def test_any_file_may_be_missing_or_hollow(name: str, study: Workspace, settings: Settings, tmp_path: Path) -> None:
    for case in ("gone", "null", "torn", "hollow"):
        workspace = edited(study, tmp_path / case, "tests")
        path = metrics_file(workspace, name)
        path.unlink()
        if case != "gone":
            path.write_text({"null": "null", "torn": '{"runs": [', "hollow": "{}"}[case])
        deck = Presentation(str(write_slides(workspace, settings)))
        told = "\n".join(text for slide in deck.slides for text in texts(slide))
        assert len(deck.slides) == len(deck_of(study).slides)
        assert NOT_MEASURED in told or name in ("tests", "provenance")
        assert not re.search(r"\bnan\b|None", told)


def test_absent_keys_are_not_measured(study: Workspace, settings: Settings, tmp_path: Path) -> None:
    def known(*names: str) -> Any:
        return lambda row: {name: row[name] for name in names}

    workspace = edited(study, tmp_path, "efficiency", runs=known("method", "seed"))
    scores = known("method", "seed", "benchmark")
    edited(workspace, tmp_path / "more", "comparison", scores=scores)
    deck = Presentation(str(write_slides(Workspace(tmp_path / "more"), settings)))
    told = "\n".join(text for slide in deck.slides for text in texts(slide))
    assert "Training memory was not measured" in told and "The base model's scores were not measured" in told


def test_nothing_measured_has_no_chart(tmp_path: Path, settings: Settings) -> None:
    deck = Presentation(str(write_slides(Workspace(tmp_path), settings)))
    assert 14 <= len(deck.slides) <= 17 and charts(deck) == []
    told = "\n".join(text for slide in deck.slides for text in texts(slide))
    assert "The comparison with the base model was not measured" in told
    assert "+0.0" not in told and not re.search(r"\bnan\b|None", told)


def test_further_measurements_have_a_slide_where_they_were_tried(
    study: Workspace, settings: Settings, tmp_path: Path
) -> None:
    workspace = edited(study, tmp_path, "tests")
    for name in ("win_rates", "forgetting"):
        write_json(metrics_file(workspace, name), None)
    without = Presentation(str(write_slides(workspace, settings)))
    assert not any("Reward model" in cells(one)[0] for one in tables(without))
    rates = read_json(metrics_file(study, "win_rates"))
    blank = [row | dict.fromkeys(FIGURES) for row in rates["rows"]]
    write_json(metrics_file(workspace, "win_rates"), rates | {"rows": blank})
    deck = Presentation(str(write_slides(workspace, settings)))
    table = next(cells(one) for one in tables(deck) if "Reward model" in cells(one)[0])
    assert [row[1:] for row in table[1:]] == [[NOT_MEASURED] * 2] * 3
    add_optional(workspace, settings)
    deck = Presentation(str(write_slides(workspace, settings)))
    table = next(cells(one) for one in tables(deck) if "Reward model" in cells(one)[0])
    rows = read_json(metrics_file(workspace, "win_rates"))["rows"]
    for line, row in zip(table[1:], rows, strict=True):
        assert line[0].replace("\u00a0", " ") == f"■ {method_name(row['method'])}"
        assert line[1] == f"{percent(row['win_rate'], 0)} (45% to 75%)"
        assert line[3] == "+0.012 ± 0.005"
    assert [line[4] == NOT_MEASURED for line in table[1:]] == [False, False, True]
    outside = next(cells(one) for one in tables(deck) if cells(one)[0][0] == "Evaluation")
    assert [row[3] for row in outside[1:-1]] == [number(i / 7) for i in range(8)] and outside[-1][0] == "and 4 more"
    assert len(deck.slides) == len(without.slides) + 2


def test_equal_inputs_give_equal_bytes(study: Workspace, settings: Settings) -> None:
    path = study.evaluation / "presentation.pptx"
    first = path.read_bytes()
    time.sleep(1.1)
    assert write_slides(study, settings).read_bytes() == first


def test_no_time_author_or_path_is_stored(study: Workspace) -> None:
    def entries(package: bytes) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            for entry in archive.infolist():
                assert entry.date_time == (1980, 1, 1, 0, 0, 0)
                data = archive.read(entry)
                yield entry.filename, data
                if entry.filename.endswith(".xlsx"):
                    yield from entries(data)

    found = list(entries((study.evaluation / "presentation.pptx").read_bytes()))
    assert sum(name == "docProps/core.xml" for name, _ in found) == 1 + len(charts(deck_of(study)))
    for name, data in found:
        if name == "docProps/core.xml":
            assert set(re.findall(rb"\d{4}-\d\d-\d\dT[\d:]+Z", data)) == {b"1980-01-01T00:00:00Z"}
        assert not any(word in data for word in (b"Canny", bytes(study.root), b"printer", b"Macintosh"))
        assert not name.endswith((".jpeg", ".png", ".bin"))
