"""A 16:9 deck of native text, shapes and tables, with speaker notes that tell the time.

Sizes are in inches and points. Text takes the largest size at which it fits its box by an estimate of its width, never
less than can be read from the back of a room. Equal slides give equal bytes.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.shapes import MSO_SHAPE
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.opc.constants import RELATIONSHIP_TYPE
from pptx.util import Inches, Pt

from tasks.report.charts import COLOURS
from tasks.report.words import method_name

WIDTH, HEIGHT = 13.333, 7.5
MARGIN, GAP, CELL_PAD = 0.6, 0.3, 0.1
STRETCH = 1.5  # rows of a short table are at most so much higher than they need be
SECONDS = 15 * 60
TICK = 5  # a speaker's clock is not read more finely [s]

TITLE_SIZES, FOOTER_SIZE = (28, 26, 24, 22), 12
TEXT_SIZES = (28, 26, 24, 22, 20, 18)
CELL_SIZES = (24, 22, 20, 18, 16, 14)
LINE, BOLD = 1.2, 1.07  # height of a line, of its size; width of bold letters, of plain ones
LETTERS = {letter: width for letters, width in (
    ("ijl'|", 0.25), (" \u00a0!.,:;/[]ftI", 0.29), ("r()-", 0.34), ("cksvxyz", 0.51), ("w", 0.73), ("mM%W▲▼", 0.95),
) for letter in letters}  # fmt: skip
"""Widths of Arial's letters, of their size, where they are neither a common small letter's nor a capital's."""

INK, QUIET, RULE, BAND, WHITE = "#111827", "#4b5563", "#d1d5db", "#f3f4f6", "#ffffff"

FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold
MINUS = re.compile(r"(?<![\w-])-(?=\d)")
DATES = re.compile(rb"(<dcterms:(?:created|modified)[^>]*>)[^<]*")


class Box(NamedTuple):
    """Where something lies on a slide [inches]."""

    left: float
    top: float
    width: float
    height: float

    def beside(self, width: float) -> tuple[Box, Box]:
        """A box of this width, and the rest to its right."""
        used = width + GAP
        return self._replace(width=width), self._replace(left=self.left + used, width=self.width - used)

    def above(self, height: float) -> tuple[Box, Box]:
        """A box of this height, and the rest below it."""
        used = height + GAP / 2
        return self._replace(height=height), self._replace(top=self.top + used, height=self.height - used)


HEAD = Box(MARGIN, 0.3, WIDTH - 2 * MARGIN, 1.1)
BODY = Box(MARGIN, 1.5, WIDTH - 2 * MARGIN, 5.4)
SOURCE_BOX = Box(MARGIN, HEIGHT - 0.48, BODY.width - 1.5, 0.3)
NUMBER_BOX = Box(WIDTH - MARGIN - 1.4, HEIGHT - 0.48, 1.4, 0.3)


class Marked(NamedTuple):
    """A text behind a square in the colour that it has in the charts."""

    text: str
    colour: str


Cell = str | Marked


@dataclass(frozen=True)
class Page:
    """A slide, what is said on it, and its share of the time."""

    slide: Any
    source: str
    weight: int
    notes: Sequence[str]


class Deck:
    """Slides one after another; `save` shares the time among them and gives the file's bytes."""

    def __init__(self, title: str) -> None:
        self._file: Any = Presentation()
        self._pages: list[Page] = []
        self._prepare(title)

    def slide(self, title: str, source: str, weight: int, notes: Sequence[str]) -> Any:
        """Add a slide: its message, the file it was made from, its share of the time, what to say."""
        slide = self._file.slides.add_slide(self._file.slide_layouts[0])
        slide.shapes.title.text = typeset(title)
        size = largest_size([title], HEAD, TITLE_SIZES, BOLD)
        slide.shapes.title.text_frame.paragraphs[0].runs[0].font.size = Pt(size)
        self._pages.append(Page(slide, source, weight, notes))
        return slide

    def save(self) -> bytes:
        """The file, with the time on every slide's notes and a footer on every slide."""
        ends = clock([page.weight for page in self._pages])
        for number, (page, start, end) in enumerate(zip(self._pages, [0, *ends], ends, strict=False), 1):
            time = f"Time: {_minutes(end - start)} of {_minutes(SECONDS)}, until {_minutes(end)}."
            page.slide.notes_slide.notes_text_frame.text = "\n".join([time, *page.notes])
            _write(page.slide, SOURCE_BOX, [f"Source: {page.source}"], FOOTER_SIZE, QUIET)
            _write(page.slide, NUMBER_BOX, [f"{number} / {len(self._pages)}"], FOOTER_SIZE, QUIET, PP_ALIGN.RIGHT)
        buffer = io.BytesIO()
        self._file.save(buffer)
        return settled(buffer.getvalue())

    def _prepare(self, title: str) -> None:
        """Make the library's 4:3 template a plain 16:9 one, without what its author's computer left in it."""
        file = self._file
        file.slide_width, file.slide_height = Inches(WIDTH), Inches(HEIGHT)
        properties = file.core_properties
        properties.title, properties.author, properties.last_modified_by, properties.comments = title, "", "", ""
        for relations, unwanted in (
            (file.part.package, RELATIONSHIP_TYPE.THUMBNAIL),
            (file.part.package, RELATIONSHIP_TYPE.EXTENDED_PROPERTIES),
            (file.part, RELATIONSHIP_TYPE.PRINTER_SETTINGS),
        ):
            for name in [name for name, relation in relations._rels.items() if relation.reltype == unwanted]:
                relations.drop_rel(name)
        for layout in list(file.slide_layouts):
            if layout.name != "Title Only":
                file.slide_layouts.remove(layout)
        master, (layout,) = file.slide_master, file.slide_layouts
        theme = master.part.part_related_by(RELATIONSHIP_TYPE.THEME)
        theme.blob = theme.blob.replace(b'"Calibri"', b'"Arial"')
        for shape in master.placeholders:
            shape.left, shape.width = (round(one * WIDTH / 10) for one in (shape.left, shape.width))
        heading = layout.placeholders[0]
        _place(heading, HEAD)
        frame = heading.text_frame
        frame.vertical_anchor, frame.word_wrap = MSO_ANCHOR.MIDDLE, True
        frame.margin_left = frame.margin_right = 0
        frame.paragraphs[0].alignment = PP_ALIGN.LEFT
        style = master.element.find(".//{*}titleStyle/{*}lvl1pPr")
        style.set("algn", "l")
        letters = style.find("{*}defRPr")
        letters.set("sz", str(100 * TITLE_SIZES[0]))
        letters.set("b", "1")


def clock(weights: Sequence[int]) -> list[int]:
    """When each slide ends [s]: the whole time, shared by weight, in steps of 5 s."""
    ends, total = [], sum(weights)
    for place in range(len(weights)):
        ends.append(round(SECONDS * sum(weights[: place + 1]) / total / TICK) * TICK)
    return ends


def write(slide: Any, box: Box, paragraphs: Sequence[str | tuple[str, str]], sizes: Sequence[int] = TEXT_SIZES) -> None:
    """Paragraphs in a box; a pair is a bold lead and what follows it."""
    plain = [one if isinstance(one, str) else " ".join(one) for one in paragraphs]
    _write(slide, box, paragraphs, largest_size(plain, box, sizes), INK)


def largest_size(paragraphs: Sequence[str], box: Box, sizes: Sequence[int], letter: float = 1) -> int:
    """The first of the sizes, from large to small, at which the paragraphs fit by estimate; else the last."""
    return next((size for size in sizes if text_height(paragraphs, size, box.width, letter) <= box.height), sizes[-1])


def text_height(paragraphs: Sequence[str], size: float, width: float, letter: float = 1) -> float:
    """Estimated height of paragraphs [inches], half a line between them; `letter` is 1, or `BOLD`."""
    lines = sum(_lines(text, size, width, letter) for text in paragraphs)
    return (lines + 0.5 * (len(paragraphs) - 1)) * LINE * size / 72


def text_width(text: str, size: float, letter: float = 1) -> float:
    """Estimated width of a line [inches]."""
    known = (LETTERS.get(one, 0.72 if one.isupper() else 0.57) for one in text)
    return sum(known) * letter * size / 72


def table(slide: Any, box: Box, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A native table as wide as the box, in the largest letters at which it fits; the widest column is wrapped."""
    cells: list[list[Cell]] = [[Marked(title, INK) for title in header], *map(list, rows)]
    layouts = [_layout(cells, size, box) for size in CELL_SIZES]
    size, widths, heights, _ = next(
        (one for one in layouts if one.whole and sum(one.heights) <= box.height), layouts[-1]
    )
    stretch = min(STRETCH, max(1, box.height / sum(heights)))
    frame = slide.shapes.add_table(len(cells), len(header), *map(Inches, box))
    made = frame.table
    for column, width in zip(made.columns, widths, strict=True):
        column.width = Inches(width)
    for number, (row, height, contents) in enumerate(zip(made.rows, heights, [header, *rows], strict=True)):
        row.height = Inches(stretch * height)
        for cell, content in zip(row.cells, contents, strict=True):
            cell.margin_left = cell.margin_right = Inches(CELL_PAD)
            cell.margin_top = cell.margin_bottom = Inches(CELL_PAD / 2)
            cell.vertical_anchor = MSO_ANCHOR.MIDDLE
            cell.fill.solid()
            cell.fill.fore_color.rgb = colour(INK if number == 0 else WHITE if number % 2 else BAND)
            _fill_cell(cell, content, size, head=number == 0)
    frame.height = sum(row.height for row in made.rows)


def method_cell(method: str) -> Marked:
    """A method's name, never broken, beside its colour."""
    return Marked(unbroken(method_name(method)), COLOURS[method])


def box_of_text(slide: Any, box: Box, text: str, fill: str, size: int = 18) -> None:
    """A rounded box with centred text."""
    shape = slide.shapes.add_shape(MSO_SHAPE.ROUNDED_RECTANGLE, *map(Inches, box))
    shape.adjustments[0] = 0.08
    shape.fill.solid()
    shape.fill.fore_color.rgb = colour(fill)
    shape.line.color.rgb = colour(QUIET)
    shape.shadow.inherit = False
    frame = shape.text_frame
    frame.word_wrap, frame.vertical_anchor = True, MSO_ANCHOR.MIDDLE
    frame.margin_left = frame.margin_right = Inches(0.08)
    for number, line in enumerate(text.split("\n")):
        paragraph = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
        paragraph.alignment = PP_ALIGN.CENTER
        _run(paragraph, line, size, INK, bold=number == 0)


def arrow(slide: Any, box: Box, *, down: bool = False) -> None:
    """A block arrow to the right, or down."""
    kind = MSO_SHAPE.DOWN_ARROW if down else MSO_SHAPE.RIGHT_ARROW
    shape = slide.shapes.add_shape(kind, *map(Inches, box))
    shape.fill.solid()
    shape.fill.fore_color.rgb = colour(QUIET)
    shape.line.fill.background()
    shape.shadow.inherit = False


def unbroken(text: str) -> str:
    """A text whose lines end only where it says so."""
    return text.replace(" ", "\u00a0")


def typeset(text: str) -> str:
    """A minus before a number as a minus, at which no line is broken."""
    return MINUS.sub("−", text)


def colour(text: str) -> RGBColor:
    """A colour written as in the charts, #rrggbb."""
    return RGBColor(*bytes.fromhex(text.removeprefix("#")))  # type: ignore[no-untyped-call]


def settled(package: bytes) -> bytes:
    """An Office file with no time of writing in it, nor in the workbooks inside it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".xlsx"):
                data = settled(data)
            elif name == "docProps/core.xml":
                data = DATES.sub(rb"\g<1>1980-01-01T00:00:00Z", data)
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.create_system = 3  # else the operating system's
            new.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _lines(text: str, size: float, width: float, letter: float) -> int:
    """Lines that a text takes when it is broken between words."""
    lines = 0
    for paragraph in text.split("\n"):
        used = width + 1
        for word in paragraph.split(" "):
            used += text_width(f" {word}", size, letter)
            if used > width:
                lines, used = lines + 1, text_width(word, size, letter)
    return lines


class _Layout(NamedTuple):
    size: int
    widths: list[float]
    heights: list[float]
    whole: bool
    """No word is broken, and no column is so narrow that it is mostly breaks."""


def _layout(cells: Sequence[Sequence[Cell]], size: int, box: Box) -> _Layout:
    """Widths of columns and heights of rows [inches] of a table in letters of this size."""
    rows = [[_plain(cell) for cell in row] for row in cells]
    pad = 2 * CELL_PAD

    def need(column: Sequence[tuple[str, float]], ends: str) -> float:
        return pad + max(text_width(part, size, bold) for text, bold in column for part in re.split(ends, text))

    columns = list(zip(*rows, strict=True))
    needs = [need(column, "\n") for column in columns]
    spare, widest = box.width - sum(needs), needs.index(max(needs))
    widths = [width * max(1, box.width / sum(needs)) for width in needs]
    widths[widest] += min(0, spare)
    whole = all(width > need(column, "[ \n]") - 1e-6 for width, column in zip(widths, columns, strict=True))
    whole &= widths[widest] > 0.45 * needs[widest]
    if not whole:
        widths = [box.width / len(widths)] * len(widths)
    inner = [width - pad + 1e-6 for width in widths]
    heights = [
        CELL_PAD + max(text_height([text], size, width, bold) for width, (text, bold) in zip(inner, row, strict=True))
        for row in rows
    ]
    return _Layout(size, widths, heights, whole)


def _plain(cell: Cell) -> tuple[str, float]:
    """A cell's text and how wide its letters are."""
    return (cell, 1.0) if isinstance(cell, str) else (f"■\u00a0{cell.text}", BOLD)


def _minutes(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02d}"


def _place(shape: Any, box: Box) -> None:
    shape.left, shape.top, shape.width, shape.height = map(Inches, box)


def _write(
    slide: Any, box: Box, paragraphs: Sequence[str | tuple[str, str]], size: int, ink: str, align: Any = PP_ALIGN.LEFT
) -> None:
    frame = slide.shapes.add_textbox(*map(Inches, box)).text_frame
    frame.word_wrap = True
    frame.margin_left = frame.margin_right = frame.margin_top = frame.margin_bottom = 0
    for number, text in enumerate(paragraphs):
        paragraph = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
        paragraph.alignment = align
        paragraph.space_before = Pt(0 if number == 0 else 0.5 * LINE * size)
        lead, rest = ("", text) if isinstance(text, str) else (f"{text[0]} ", text[1])
        if lead:
            _run(paragraph, lead, size, ink, bold=True)
        _run(paragraph, rest, size, ink)


def _fill_cell(cell: Any, content: Cell, size: int, *, head: bool) -> None:
    text = content if isinstance(content, str) else content.text
    for number, line in enumerate(text.split("\n")):
        paragraph = cell.text_frame.paragraphs[0] if number == 0 else cell.text_frame.add_paragraph()
        if number == 0 and isinstance(content, Marked):
            _run(paragraph, "■\u00a0", size, content.colour)
        _run(paragraph, line, size, WHITE if head else INK, bold=head or isinstance(content, Marked))


def _run(paragraph: Any, text: str, size: int, ink: str, *, bold: bool = False) -> None:
    run = paragraph.add_run()
    run.text = typeset(text)
    run.font.size, run.font.bold = Pt(size), bold
    run.font.color.rgb = colour(ink)
