"""Native charts for the deck: their numbers stay with them, in a workbook that the presenter can open and edit.

What was not measured is an empty point, never a zero, and the slide says so beside the chart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from pptx.chart.data import CategoryChartData, XyChartData
from pptx.enum.chart import (
    XL_CHART_TYPE,
    XL_LABEL_POSITION,
    XL_LEGEND_POSITION,
    XL_MARKER_STYLE,
    XL_TICK_LABEL_POSITION,
    XL_TICK_MARK,
)
from pptx.enum.dml import MSO_PATTERN
from pptx.oxml import parse_xml
from pptx.oxml.ns import nsdecls, qn
from pptx.util import Inches, Pt

from tasks.report.charts import DROP, NEUTRAL
from tasks.report.slides.deck import INK, RULE, WHITE, Box, colour, write
from tasks.report.words import NOT_MEASURED

LABEL_SIZE, TITLE_SIZE = 14, 16

MARKER_STYLES = {
    "s": XL_MARKER_STYLE.SQUARE, "o": XL_MARKER_STYLE.CIRCLE, "^": XL_MARKER_STYLE.TRIANGLE,
    "D": XL_MARKER_STYLE.DIAMOND, "v": XL_MARKER_STYLE.STAR, "<": XL_MARKER_STYLE.DOT, "P": XL_MARKER_STYLE.PLUS,
    "X": XL_MARKER_STYLE.X, "h": XL_MARKER_STYLE.DASH,
}  # fmt: skip
"""The report's markers by matplotlib's letters, as the likest of those that Office has."""


@dataclass(frozen=True)
class Series:
    """A named row of values with the colour and marker of its method."""

    name: str
    values: Sequence[float | None]
    colour: str
    marker: str = "o"
    errors: Sequence[float | None] = ()
    """Half widths of the intervals around the values."""
    labels: Sequence[str] = ()
    """Texts beside the points; none where empty."""


@dataclass(frozen=True)
class Curve:
    """A named line or point in a plane."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    marker: str = "o"
    error: float | None = None
    """Half width of the vertical interval around the points."""


@dataclass(frozen=True)
class Panel:
    """One of several bar charts that share their categories."""

    title: str
    values: Sequence[float | None]
    write: Callable[[Any], str]
    log: bool = False


def columns(slide: Any, box: Box, title: str, groups: Sequence[str], series: Sequence[Series]) -> None:
    """Clustered columns with their values above them."""
    if not _known(*(one.values for one in series)):
        return absent(slide, box, title)
    data = _by_category(groups, {one.name: one.values for one in series})
    chart = _chart(slide, box, XL_CHART_TYPE.COLUMN_CLUSTERED, data, title, legend=True)
    plot = chart.plots[0]
    plot.gap_width, plot.overlap = 35, -5
    plot.has_data_labels = True
    labels = plot.data_labels
    # narrow columns have no room for decimals
    labels.number_format = "0.0" if len(groups) * len(series) <= 20 else "0"
    labels.number_format_is_linked = False
    labels.position = XL_LABEL_POSITION.OUTSIDE_END
    for made, one in zip(plot.series, series, strict=True):
        _paint(made.format, one.colour)
    _hide_values(chart, 0, 1.1 * max(_known(*(one.values for one in series))))


def waterfall(slide: Any, box: Box, title: str, steps: Sequence[tuple[str, int, int]]) -> None:
    """Rows left after each step and rows dropped by it, from top to bottom."""
    if not steps:
        return absent(slide, box, title)
    names = [f"{name}: −{dropped:,}" if dropped else name for name, _, dropped in steps]
    drops = [dropped for _, _, dropped in steps]
    data = _by_category(names, {"Rows left": [left for _, left, _ in steps], "Dropped by the rule": drops})
    chart = _chart(slide, box, XL_CHART_TYPE.BAR_STACKED, data, title, legend=True)
    plot = chart.plots[0]
    plot.gap_width, plot.overlap = 30, 100
    left, dropped = plot.series
    _paint(left.format, NEUTRAL)
    labels = left.data_labels
    labels.show_value, labels.number_format, labels.number_format_is_linked = True, "#,##0", False
    labels.position = XL_LABEL_POSITION.INSIDE_END
    dropped.format.fill.patterned()
    dropped.format.fill.pattern = MSO_PATTERN.WIDE_UPWARD_DIAGONAL
    dropped.format.fill.fore_color.rgb, dropped.format.fill.back_color.rgb = colour(DROP), colour(WHITE)
    dropped.format.line.color.rgb = colour(DROP)
    chart.category_axis.reverse_order = True
    _hide_values(chart, 0, max(left + dropped for _, left, dropped in steps))


def histogram(slide: Any, box: Box, title: str, x_title: str, edges: Sequence[float], counts: Sequence[int]) -> None:
    """Counts between edges, in at most eight bins, so that each can be labelled with its lower edge."""
    if not counts:
        return absent(slide, box, title)
    width = ceil(len(counts) / 8)
    starts = range(0, len(counts), width)
    sums = [sum(counts[start : start + width]) for start in starts]
    data = _by_category([f"{edges[start]:.1f}" for start in starts], {title: sums})
    chart = _chart(slide, box, XL_CHART_TYPE.COLUMN_CLUSTERED, data, title)
    plot = chart.plots[0]
    plot.gap_width = 4
    plot.has_data_labels = True
    plot.data_labels.position = XL_LABEL_POSITION.OUTSIDE_END
    _paint(plot.series[0].format, NEUTRAL)
    _axis_title(chart.category_axis, x_title)
    _hide_values(chart, 0, 1.1 * max(plot.series[0].values))


def panels(slide: Any, box: Box, names: Sequence[str], colours: Sequence[str], parts: Sequence[Panel]) -> None:
    """Bar charts side by side whose bars of one name stand in one row; the first names the rows."""
    if not _known(*(panel.values for panel in parts)):
        return absent(slide, box, "Costs")
    room = 1.75
    width = (box.width - room) / len(parts)
    left = box.left
    for number, panel in enumerate(parts):
        own = Box(left, box.top, width + (room if number == 0 else 0), box.height)
        left += own.width
        known = _known(panel.values)
        data = _by_category(names, {panel.title: panel.values})
        chart = _chart(slide, own, XL_CHART_TYPE.BAR_CLUSTERED, data, panel.title)
        plot = chart.plots[0]
        plot.gap_width = 40
        chart.category_axis.reverse_order = True
        _line_up(chart, room / own.width if number == 0 else 0.0)
        if number:
            chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.NONE
        low, high = _room(known, panel.log)
        if panel.log and known:
            base = parse_xml(f'<c:logBase {nsdecls("c")} val="10"/>')
            chart.value_axis._element.find(qn("c:scaling")).insert(0, base)
        _hide_values(chart, low, high)
        chart.value_axis.crosses_at = low
        for place, (value, paint) in enumerate(zip(panel.values, colours, strict=True)):
            point = plot.series[0].points[place]
            _paint(point.format, paint)
            if value is not None:
                _label(point, panel.write(value), XL_LABEL_POSITION.OUTSIDE_END)


def curves(slide: Any, box: Box, title: str, titles: tuple[str, str], lines: Sequence[Curve]) -> None:
    """Lines through points in a plane."""
    if not any(line.points for line in lines):
        return absent(slide, box, title)
    chart = _plane(slide, box, XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, title, titles, lines)
    for made, line in zip(chart.plots[0].series, [line for line in lines if line.points], strict=True):
        made.smooth = False
        made.marker.style = XL_MARKER_STYLE.NONE
        made.format.line.color.rgb, made.format.line.width = colour(line.colour), Pt(2.25)


def scatter(slide: Any, box: Box, titles: tuple[str, str], points: Sequence[Curve]) -> None:
    """Points with their vertical intervals."""
    if not any(point.points for point in points):
        return absent(slide, box, titles[0])
    chart = _plane(slide, box, XL_CHART_TYPE.XY_SCATTER, "", titles, points)
    _scale(chart.category_axis, [1.05 * x for point in points for x, _ in point.points])
    _scale(chart.value_axis, [y + side * (one.error or 0) for one in points for _, y in one.points for side in (-1, 1)])
    chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
    for made, point in zip(chart.plots[0].series, [point for point in points if point.points], strict=True):
        made.format.line.fill.background()
        _mark(made, point.colour, point.marker)
        if point.error is not None:
            _error_bars(made, "c:xVal", [point.error] * len(point.points), point.colour, direction=True)


def intervals(slide: Any, box: Box, title: str, y_title: str, groups: Sequence[str], series: Sequence[Series]) -> None:
    """A point a series and group with its interval, the series of a group side by side.

    Each place is a category of its own below its group's, since the points of one category stand above one another.
    """
    if not _known(*(one.values for one in series)):
        return absent(slide, box, title)
    data = _by_category([], {})
    for group in groups:
        parent = data.add_category(group)
        for _ in range(len(series) + 1):
            parent.add_sub_category(" ")
    stride = len(series) + 1

    def spread(own: int, values: Sequence[Any]) -> list[Any]:
        cells = [None] * (stride * len(groups))
        for group, value in enumerate(values):
            cells[group * stride + own] = value
        return cells

    for own, one in enumerate(series):
        data.add_series(one.name, spread(own, one.values))
    chart = _chart(slide, box, XL_CHART_TYPE.LINE_MARKERS, data, title, legend=True)
    _axis_title(chart.value_axis, y_title)
    _grid(chart.value_axis)
    bounds = [
        value + side * (error or 0)
        for one in series
        for value, error in zip(one.values, one.errors, strict=True)
        if value is not None
        for side in (-1, 1)
    ]
    _scale(chart.value_axis, bounds)
    chart.category_axis.tick_label_position = XL_TICK_LABEL_POSITION.LOW
    chart.category_axis.major_tick_mark = XL_TICK_MARK.NONE
    for own, (made, one) in enumerate(zip(chart.plots[0].series, series, strict=True)):
        made.smooth = False
        made.format.line.fill.background()
        _mark(made, one.colour, one.marker)
        _error_bars(made, "c:cat", spread(own, one.errors), one.colour)
        for place, text in enumerate(spread(own, one.labels)):
            if text:
                _label(made.points[place], text, XL_LABEL_POSITION.RIGHT)


def absent(slide: Any, box: Box, title: str) -> None:
    """What stands where a chart would, when nothing of it was measured."""
    write(slide, box, [(f"{title}:", NOT_MEASURED)], (20,))


def _room(known: Sequence[float], log: bool) -> tuple[float, float]:
    """Ends of a bars' axis that leave half of it for the texts behind the longest bar; a log one begins at 1."""
    top = max(known, default=0) or 1
    return (1, max(10, top) ** 2) if log else (0, 2 * top)


def _scale(axis: Any, values: Sequence[float]) -> None:
    """Round ends that hold 0 and the values, which Office would choose without the intervals, and at most six steps."""
    low, high = min(0.0, *values), max(0.0, *values)
    rough = (high - low) / 5 or 1.0
    power = 10.0 ** floor(log10(rough))
    step = power * next((one for one in (1, 2, 5) if one * power >= rough), 10)
    axis.minimum_scale, axis.maximum_scale = step * floor(low / step), step * ceil(high / step)
    axis.major_unit = step


def _known(*rows: Sequence[float | None]) -> list[float]:
    return [value for row in rows for value in row if value is not None]


def _by_category(names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> Any:
    data: Any = CategoryChartData()  # type: ignore[no-untyped-call]
    data.categories = names
    for name, values in series.items():
        data.add_series(name, values)
    return data


def _chart(slide: Any, box: Box, kind: Any, data: Any, title: str, *, legend: bool = False) -> Any:
    frame = slide.shapes.add_chart(kind, *map(Inches, box), data)
    frame._element.nvGraphicFramePr.cNvPr.set("descr", title)
    chart = frame.chart
    chart.font.size = Pt(LABEL_SIZE)
    chart.font.color.rgb = colour(INK)
    chart.has_title = bool(title)
    if title:
        frame = chart.chart_title.text_frame
        frame.text = title
        letters = frame.paragraphs[0].runs[0].font
        letters.size, letters.bold = Pt(TITLE_SIZE), True
    chart.has_legend = legend
    if legend:
        chart.legend.position, chart.legend.include_in_layout = XL_LEGEND_POSITION.BOTTOM, False
        chart.legend.font.size = Pt(LABEL_SIZE)
    return chart


def _plane(slide: Any, box: Box, kind: Any, title: str, titles: tuple[str, str], curves: Sequence[Curve]) -> Any:
    data: Any = XyChartData()  # type: ignore[no-untyped-call]
    for curve in curves:
        if curve.points:
            made = data.add_series(curve.name)
            for x, y in curve.points:
                made.add_data_point(x, y)
    chart = _chart(slide, box, kind, data, title, legend=True)
    _axis_title(chart.category_axis, titles[0])
    _axis_title(chart.value_axis, titles[1])
    chart.category_axis.has_major_gridlines = False
    _grid(chart.value_axis)
    return chart


def _paint(format: Any, paint: str) -> None:
    format.fill.solid()
    format.fill.fore_color.rgb = colour(paint)
    # an outline, since the lightest colours fade on white
    format.line.color.rgb, format.line.width = colour(INK), Pt(0.5)


def _mark(series: Any, paint: str, marker: str) -> None:
    series.marker.style, series.marker.size = MARKER_STYLES[marker], 13
    series.marker.format.fill.solid()
    series.marker.format.fill.fore_color.rgb = colour(paint)
    series.marker.format.line.color.rgb = colour(paint)


def _label(point: Any, text: str, position: Any) -> None:
    frame = point.data_label.text_frame
    frame.text, frame.word_wrap = text, False
    letters = frame.paragraphs[0].runs[0].font
    letters.size, letters.color.rgb = Pt(LABEL_SIZE), colour(INK)
    point.data_label.position = position


def _axis_title(axis: Any, text: str) -> None:
    axis.has_title = True
    axis.axis_title.text_frame.text = text
    letters = axis.axis_title.text_frame.paragraphs[0].runs[0].font
    letters.size, letters.bold = Pt(LABEL_SIZE), False


def _grid(axis: Any) -> None:
    axis.has_major_gridlines = True
    axis.major_gridlines.format.line.color.rgb = colour(RULE)
    axis.format.line.fill.background()


def _hide_values(chart: Any, low: float, high: float) -> None:
    """No value axis where every bar has its number."""
    axis = chart.value_axis
    axis.minimum_scale, axis.maximum_scale = low, high
    axis.visible = axis.has_major_gridlines = False
    chart.category_axis.major_tick_mark = XL_TICK_MARK.NONE


def _line_up(chart: Any, left: float) -> None:
    """Fix the inner plot area, so that the rows of neighbouring charts stand level."""
    places = {"x": left, "y": 0.13, "w": 0.98 - left, "h": 0.85}
    settings = "".join(f'<c:{name}Mode val="edge"/>' for name in "xy")
    settings += "".join(f'<c:{name} val="{value:.4f}"/>' for name, value in places.items())
    layout = parse_xml(
        f'<c:layout {nsdecls("c")}><c:manualLayout><c:layoutTarget val="inner"/>{settings}</c:manualLayout></c:layout>'
    )
    area = chart._chartSpace.find(f".//{qn('c:plotArea')}")
    for old in area.findall(qn("c:layout")):
        area.remove(old)
    area.insert(0, layout)


def _error_bars(
    series: Any, before: str, halves: Sequence[float | None], paint: str, *, direction: bool = False
) -> None:
    """Intervals as Office's own error bars, which the library cannot draw."""
    known = "".join(f'<c:pt idx="{i}"><c:v>{half!r}</c:v></c:pt>' for i, half in enumerate(halves) if half is not None)
    numbers = f'<c:numLit><c:formatCode>General</c:formatCode><c:ptCount val="{len(halves)}"/>{known}</c:numLit>'
    vertical = '<c:errDir val="y"/>' if direction else ""
    bars = parse_xml(
        f'<c:errBars {nsdecls("c", "a")}>{vertical}<c:errBarType val="both"/>'
        f'<c:errValType val="cust"/><c:noEndCap val="0"/><c:plus>{numbers}</c:plus><c:minus>{numbers}</c:minus>'
        f'<c:spPr><a:ln w="28575"><a:solidFill><a:srgbClr val="{colour(paint)}"/></a:solidFill></a:ln></c:spPr>'
        "</c:errBars>"
    )
    series._element.find(qn(before)).addprevious(bars)
