"""report.html: what an evaluation found, with pictures, in one file."""

import html
from collections.abc import Mapping, Sequence

from ragaf_jax import web_page
from ragaf_jax.evaluation.illustrations import Row
from ragaf_jax.evaluation.report import absent, facts, tables
from ragaf_jax.evaluation.summary import Json
from ragaf_jax.lettering import Picture

_STYLE = """
.figure { overflow-x: auto; } .figure img { width: auto; max-width: 100%; image-rendering: auto; }
.wide { overflow-x: auto; }
"""


def report_page(
    found: Json, rows: Mapping[str, Sequence[Row]], figures: Mapping[str, Picture]
) -> str:
    """The page.

    Args:
      found: what metrics.json holds.
      rows: drawings by what they are ranked by.
      figures: by title.
    """
    title = f"Evaluation of {found['workdir']}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="faint">{html.escape(fact)}</p>' for fact in facts(found)]
    for table in tables(found):
        shown = web_page.html_table(table.rows)
        parts.append(f'<h2>{html.escape(table.title)}</h2><div class="wide">{shown}</div>')
    if found["missing"]:
        said = "".join(f"<li>{html.escape(line)}</li>" for line in absent(found["missing"]))
        parts.append(f"<h2>Not computed</h2><ul>{said}</ul>")
    for metric, drawings in rows.items():
        parts.append(
            f"<h2>Best, median and worst pictures of Stage 2 by {html.escape(metric)}</h2>"
        )
        parts += [_article(row) for row in drawings]
    for name, figure in figures.items():
        shown = web_page.image(name, figure)
        parts.append(f'<h2>{html.escape(name)}</h2><div class="figure">{shown}</div>')
    return web_page.page(title, parts, _STYLE)


def _article(row: Row) -> str:
    pictures = "".join(
        f"<figure>{web_page.image(name, picture)}<figcaption>{name}</figcaption></figure>"
        for name, picture in row.pictures.items()
    )
    return (
        f"<article><p>{html.escape(row.note)} · <code>{html.escape(row.key)}</code></p>"
        f'<div class="row">{pictures}</div><p dir="auto">{html.escape(row.caption)}</p></article>'
    )
