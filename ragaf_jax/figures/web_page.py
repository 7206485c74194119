"""A web page in one file without scripts or downloads, and its tables as Markdown."""

import base64
import html
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

_PNG = "png", [cv2.IMWRITE_PNG_COMPRESSION, 9]

# Rows of equal length; the first is the header.
Table = Sequence[Sequence[str]]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1e1e1e; max-width: 1180px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin: 2em 0 .6em; }
.faint { color: #6b6b6b; } code { overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .9em; border-bottom: 1px solid #e4e4e4; text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child, .words * { text-align: left; white-space: normal; }
article { border-top: 1px solid #e4e4e4; padding: 1em 0; }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: .6em; align-items: start; }
figure { margin: 0; } figcaption { color: #6b6b6b; font-size: .85em; }
img { width: 100%; border: 1px solid #d0d0d0; box-sizing: border-box; image-rendering: pixelated; }
img.drawn { image-rendering: auto; } ul { margin: .5em 0 0; padding-left: 1.2em; }
li { overflow-wrap: anywhere; } nav ul { columns: 3 18em; list-style: none; padding: 0; }
a { color: #1f5aa6; }
"""


def page(title: str, parts: Sequence[str], style: str = "") -> str:
    """The complete page: `title` is plain text, `parts` HTML, `style` CSS after the common one."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style></head><body>"
    )
    return "\n".join([head, *parts, "</body></html>\n"])


def sections(parts: Mapping[str, str]) -> list[str]:
    """A table of contents and the linked sections: HTML by heading, which is plain text."""
    links = "".join(
        f'<li><a href="#section{i}">{html.escape(title)}</a></li>' for i, title in enumerate(parts)
    )
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
    shown = (
        f'<section id="section{i}"><h2>{html.escape(title)}</h2>{part}</section>'
        for i, (title, part) in enumerate(parts.items())
    )
    return [contents, *shown]


def html_table(rows: Table, css: str = "") -> str:
    """A table of plain texts with the CSS class `css`."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in row) + "</tr>"

    body = "".join(cells(row, "td") for row in rows[1:])
    return f'<table class="{css}">{cells(rows[0], "th")}{body}</table>'


def markdown_table(rows: Table) -> str:
    """A Markdown table of plain texts with aligned columns."""
    cells = [[one_line(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *body = (
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    )
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([head, rule, *body])


def one_line(text: str) -> str:
    """The text without unprintable characters, which break tables and control terminals."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def image(name: str, picture: UInt8[np.ndarray, "_ _ *rgb"], drawn: bool = False) -> str:
    """A grey or RGB image inside the page.

    Images of data are stored as PNG and enlarged without smoothing. Figures (`drawn`) are stored as
    WebP in a fifth of the bytes.
    """
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    kind, options = ("webp", [cv2.IMWRITE_WEBP_QUALITY, 90]) if drawn else _PNG
    data = base64.b64encode(cv2.imencode(f".{kind}", pixels, options)[1].tobytes()).decode()
    css = ' class="drawn"' if drawn else ""
    return f'<img alt="{html.escape(name)}"{css} src="data:image/{kind};base64,{data}">'
