"""`evaluation/report.html`: the written report as one file that needs no other, for a browser of any width or paper."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import MutableMapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.files import write_text
from storage.workspace import Workspace
from tasks.report.document import headings, parser, read_document
from tasks.report.words import NOT_MEASURED

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token
    from markdown_it.utils import OptionsDict

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<nav aria-label="Contents">
<h2>Contents</h2>
<ul>
{contents}
</ul>
</nav>
<main>
{main}</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light; --ink: #1c1c1c; --soft: #5a5a5a; --line: #cfcfcf; --shade: #f3f4f6; --link: #005a9c;
  --paper: #fff; }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; --ink: #e4e4e4; --soft: #a8a8a8;
  --line: #4a4a4a; --shade: #26282c; --link: #7cc0ff; --paper: #17181a; } }
body { max-width: 52rem; margin: 0 auto; padding: 1rem 1.2rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; scroll-margin-top: 1rem; break-after: avoid; }
h1 { font-size: 1.8rem; }
main h2 { margin-top: 3rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { margin-top: 2rem; }
a { color: var(--link); }
li { margin: .25rem 0; }
nav { padding: .2rem 1.2rem; border-radius: 6px; background: var(--shade); font-size: .92rem; }
nav h2 { margin: .6rem 0 0; font-size: 1rem; }
nav ul { padding: 0; list-style: none; }
nav .h3 { padding-left: 1.2rem; }
.wide { margin-top: 1.2rem; overflow-x: auto; }
table { width: max-content; max-width: max(100%, 46rem); border-collapse: collapse; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
table:not(:has(th:nth-child(4))) { max-width: 100%; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: normal; }
th { border-bottom: 2px solid var(--soft); vertical-align: bottom; }
td:first-child { min-width: 6.8rem; }
td:last-child { min-width: 9.5rem; }
td[style] { min-width: 0; white-space: nowrap; }
main { counter-reset: figure; }
figure { margin: 1.8rem 0 0; }
img { display: block; box-sizing: border-box; width: 100%; padding: .4rem; border-radius: 4px; background: #fff; }
figcaption { margin-top: .4rem; font-weight: 600; font-size: .92rem; counter-increment: figure; }
figcaption::before { content: "Figure " counter(figure) ". "; }
.source { margin-top: .4rem; color: var(--soft); font-size: .85rem; }
pre { padding: .8rem 1rem; border-radius: 6px; background: var(--shade); overflow-x: auto; }
code { font: .9em ui-monospace, monospace; }
@media screen and (min-width: 75rem) {
  body { display: grid; grid-template-columns: 15rem minmax(0, 1fr); gap: 0 3rem; max-width: 72rem; }
  h1 { grid-column: 1 / -1; }
  nav { position: sticky; top: 1rem; align-self: start; max-height: calc(100vh - 3rem); overflow-y: auto; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .wide { overflow: visible; }
  table { max-width: 100%; font-size: 8pt; }
  th, td:nth-child(n) { min-width: 0; padding: .2rem .35rem; }
  thead { display: table-header-group; }
  tr, figure, pre { break-inside: avoid; }
}
"""


def write_html(workspace: Workspace) -> Path:
    """Write the report as one HTML file whose only references are its links.

    Raises:
        FileNotFoundError: `evaluation/report.md` is not there.
    """
    document, markdown = read_document(workspace), parser()
    markdown.add_render_rule("image", _figure)
    markdown.add_render_rule("table_open", _table_open)
    markdown.add_render_rule("table_close", _table_close)
    contents = "\n".join(
        f'<li class="{opening.tag}"><a href="#{escape(str(opening.attrs["id"]))}">{escape(text)}</a></li>'
        for opening, text in headings(document.tokens)
    )
    main = markdown.renderer.render(document.tokens, markdown.options, {"figures": document.figures})
    path = workspace.evaluation / "report.html"
    write_text(path, PAGE.format(title=escape(document.title), style=STYLE, contents=contents, main=main))
    return path


def _figure(
    _: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    image = tokens[place]
    alt = escape(image.content)
    data = env["figures"].get(image.attrs["src"])
    if data is None:
        return f"<figure><figcaption>{NOT_MEASURED}: {alt}</figcaption></figure>\n"
    url = f"data:image/png;base64,{b64encode(data).decode()}"
    return f'<figure><img src="{url}" alt="{alt}"><figcaption>{alt}</figcaption></figure>\n'


def _table_open(*_: Any) -> str:
    # a region that scrolls must be reachable by keyboard
    return '<div class="wide" role="region" aria-label="Table" tabindex="0">\n<table>\n'


def _table_close(*_: Any) -> str:
    return "</table>\n</div>\n"
