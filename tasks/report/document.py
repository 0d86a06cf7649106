"""The written report as its HTML and its PDF read it: the tokens of `report.md` and the figures beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from storage.workspace import Workspace

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token


@dataclass(frozen=True)
class Document:
    """A title, the tokens below it, and the PNG files by the path that the text gives them, those that exist."""

    title: str
    tokens: list[Token]
    figures: dict[str, bytes]


def parser() -> MarkdownIt:
    """CommonMark with tables; HTML in the text is text."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def read_document(workspace: Workspace) -> Document:
    """Parse `evaluation/report.md`.

    A figure stands alone in its paragraph, which is then hidden; a line that names a source has the class `source`;
    every heading below the title has an `id`.

    Raises:
        FileNotFoundError: there is no report yet.
    """
    tokens = parser().parse((workspace.evaluation / "report.md").read_text(encoding="utf-8"))
    title = plain_text(tokens[1])
    tokens = tokens[3:]
    figures = {}
    for opening, inline, closing in zip(tokens, tokens[1:], tokens[2:], strict=False):
        children = inline.children or []
        if opening.type == "paragraph_open" and inline.content.startswith("Source: "):
            opening.attrSet("class", "source")
        elif opening.type == "paragraph_open" and [child.type for child in children] == ["image"]:
            opening.hidden = closing.hidden = True
            children[0].content = plain_text(children[0])
            source = str(children[0].attrs["src"])
            path = workspace.evaluation / "figures" / PurePosixPath(source).name
            if path.is_file():
                figures[source] = path.read_bytes()
    used: set[str] = set()
    for opening, text in headings(tokens):
        slug = re.sub(r"\W+", "-", text.lower()).strip("-") or "section"
        while slug in used:
            slug += "-again"
        used.add(slug)
        opening.attrSet("id", slug)
    return Document(title, tokens, figures)


def headings(tokens: list[Token]) -> Iterator[tuple[Token, str]]:
    """Each heading's opening token and its text."""
    for opening, inline in zip(tokens, tokens[1:], strict=False):
        if opening.type == "heading_open":
            yield opening, plain_text(inline)


def plain_text(token: Token) -> str:
    """The text of a token's children without their marks."""
    return "".join(child.content or " " * (child.type == "softbreak") for child in token.children or [])
