"""`evaluation/report.pdf`: the written report typeset on A4 by Typst.

The text reaches the template as data and is never read as markup, so that no name in it can break or change the page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.files import write_bytes
from storage.workspace import Workspace
from tasks.report.document import read_document
from tasks.report.words import NOT_MEASURED

if TYPE_CHECKING:
    from markdown_it.tree import SyntaxTreeNode

TEMPLATE = r"""
#let report = json(bytes(sys.inputs.report))
#let soft = luma(35%)
#let line-colour = luma(75%)
#let room = 17cm
#let short-title = report.title.split(":").first()

#set document(title: report.title, date: none)
#set text(lang: "en", font: "Libertinus Serif", size: 10.5pt)
#set par(leading: 0.62em, spacing: 1em)
#set page(
  paper: "a4",
  margin: (x: (21cm - room) / 2, top: 2.2cm, bottom: 2cm),
  header: context if here().page() > 1 {
    set text(8.5pt, fill: soft)
    let ahead = query(heading.where(level: 1)).filter(it => it.location().page() <= here().page())
    short-title + h(1fr) + if ahead.len() > 0 { ahead.last().body }
    v(-0.7em) + line(length: 100%, stroke: 0.4pt + line-colour)
  },
  footer: context align(center, text(8.5pt, fill: soft, counter(page).display("1 / 1", both: true))),
)
#show heading.where(level: 1): set text(15pt)
#show heading.where(level: 2): set text(12pt)
#show heading: set block(above: 1.7em, below: 0.9em)
#show raw: set text(font: "DejaVu Sans Mono", size: 0.82em)
#show raw.where(block: true): it => block(fill: luma(95%), inset: 8pt, radius: 3pt, width: 100%, it)
#show link: set text(fill: rgb("#005a9c"))
#show figure.caption: set text(9.5pt, weight: "semibold")
#set table.cell(breakable: false)
#set list(indent: 0.4em, spacing: 0.8em)
#set table(stroke: (x, y) => (bottom: if y == 0 { 0.9pt + soft } else { 0.4pt + line-colour }), inset: (x: 5pt, y: 4pt))

// two thirds of its size, so that letters are equally large in all charts, and at most the text's width
#let chart(name, alt) = context {
  let file = "figures/" + name.split("/").last()
  image(file, alt: alt, width: calc.min(room, measure(image(file)).width * 2 / 3))
}

// in a table that is too wide a column takes its longest word, and of the rest a share by the root of what it lacks
#let text-in(node) = node.children.map(it => it.content).sum(default: "")
#let widths(rows) = {
  let columns = array.zip(..rows.map(row => row.children.map(text-in)))
  let inset = 10.2pt
  let longest(column) = {
    let (title, ..texts) = column
    calc.max(..title.map(it => measure(strong(it)).width), ..texts.flatten().map(it => measure(it).width)) + inset
  }
  let whole = columns.map(column => longest(column.map(it => (it,))))
  if whole.sum() <= room { return whole.map(_ => auto) }
  let words = columns.map(column => calc.min(5cm, longest(column.map(it => it.split(" ")))))
  let given = words.map(it => it * calc.min(1, room / words.sum()))
  for _ in range(4) {
    let rest = calc.max(0pt, room - given.sum())
    let wants = whole.zip(given).map(((all, part)) => calc.sqrt(calc.max(0, (all - part).pt())))
    given = given.zip(wants, whole).map(((part, want, all)) => calc.min(all, part + rest * want / wants.sum()))
  }
  given
}

// a figure, or a table of little text, is on one page with the line that names its source
#let holds-source(node) = node.type == "table" or node.hidden
#let is-source(node) = node != none and node.attrs.at("class", default: "") == "source"
#let is-long(node) = {
  let cells = node.children.map(part => part.children.map(row => row.children)).flatten()
  node.type == "table" and cells.map(cell => text-in(cell).len()).sum() > 1000
}

#let render(node) = {
  let body = node.children.map(render).join()
  let kind = node.type
  if kind == "text" { node.content }
  else if kind == "code_inline" { raw(node.content) }
  else if kind in ("fence", "code_block") { raw(node.content.trim("\n", at: end), block: true) }
  else if kind == "softbreak" { " " }
  else if kind == "hardbreak" { linebreak() }
  else if kind == "strong" { strong(body) }
  else if kind == "em" { emph(body) }
  else if kind == "heading" { heading(level: int(node.tag.slice(1)) - 1, body) }
  else if is-source(node) { block(above: 0.7em, text(8.5pt, fill: soft, body)) }
  else if kind == "paragraph" and not node.hidden { par(body) }
  else if kind == "bullet_list" { list(..node.children.map(render)) }
  else if kind == "ordered_list" { enum(..node.children.map(render)) }
  else if kind == "blockquote" { quote(block: true, body) }
  else if kind == "hr" { line(length: 100%, stroke: line-colour) }
  else if kind == "link" {
    let target = node.attrs.href
    if target.starts-with(regex("https?://")) { link(target, body) }
    else if text-in(node) == target { body }
    else { body + " (" + raw(target) + ")" }
  } else if kind == "image" {
    let shown = report.figures.contains(node.attrs.src)
    figure(
      if shown { chart(node.attrs.src, node.content) },
      kind: image,
      supplement: "Figure",
      caption: if shown { node.content } else { report.not-measured + ": " + node.content },
    )
  } else if kind == "table" {
    let rows = node.children.map(part => part.children).flatten()
    let (header, ..body) = rows.map(row => row.children.map(render))
    let right-aligned = rows.first().children.map(cell => "right" in cell.attrs.at("style", default: ""))
    set text(if header.len() < 6 { 9.5pt } else if header.len() < 8 { 8.8pt } else { 8.2pt }, hyphenate: false)
    set par(leading: 0.5em)
    context table(
      columns: widths(rows),
      align: (x, y) => (if right-aligned.at(x) { right } else { left }) + if y == 0 { bottom } else { top },
      table.header(..header.map(strong)),
      ..body.flatten(),
    )
  } else { body }
}

#title(text(17pt, report.title))
#let in-front = report.blocks.position(node => node.type == "heading")
#for (place, node) in report.blocks.enumerate() {
  if place == in-front { v(1em) + outline(depth: 2, indent: 1.2em) + pagebreak() }
  let source = if is-source(report.blocks.at(place + 1, default: none)) { render(report.blocks.at(place + 1)) }
  if holds-source(node) {
    block(breakable: is-long(node), width: 100%, above: 1.4em, below: 1.4em, render(node) + source)
  } else if not (is-source(node) and place > 0 and holds-source(report.blocks.at(place - 1))) {
    render(node)
  }
}
"""


def write_pdf(workspace: Workspace) -> Path:
    """Typeset the report; equal reports give equal bytes.

    Raises:
        FileNotFoundError: `evaluation/report.md` is not there.
    """
    import typst

    path = workspace.evaluation / "report.pdf"
    write_bytes(path, typst.compile(**typst_arguments(workspace), format="pdf"))
    return path


def typst_arguments(workspace: Workspace) -> dict[str, Any]:
    """What Typst is called with: the template, the folder of the figures, and the report as nested nodes in JSON."""
    from markdown_it.tree import SyntaxTreeNode

    document = read_document(workspace)
    report = {
        "title": document.title,
        "blocks": [_plain(node) for node in SyntaxTreeNode(document.tokens).children],
        "figures": list(document.figures),
        "not-measured": NOT_MEASURED,
    }
    text = json.dumps(report, ensure_ascii=False)
    return {
        "input": TEMPLATE.encode(),
        "root": workspace.evaluation,
        "sys_inputs": {"report": text},
        # the fonts that come with Typst, so that every machine sets the same pages; they lack Chinese, Japanese, Korean
        "ignore_system_fonts": max(text) < "\u2e80",
    }


def _plain(node: SyntaxTreeNode) -> dict[str, Any]:
    return {
        "type": node.type,
        "tag": node.tag,
        "content": node.content,
        "hidden": node.hidden,
        "attrs": node.attrs,
        "children": [] if node.type == "image" else [_plain(child) for child in node.children],
    }
