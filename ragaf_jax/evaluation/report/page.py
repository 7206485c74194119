"""Writes report.html: an evaluation in one file, images first."""

import html
from collections.abc import Mapping, Sequence

from ragaf_jax.evaluation.report.illustrations import Row
from ragaf_jax.evaluation.report.numbers import absent, facts, tables
from ragaf_jax.evaluation.statistics.summary import Json
from ragaf_jax.figures import web_page
from ragaf_jax.figures.lettering import Rgb

_STYLE = """
.figure { overflow-x: auto; } .figure img { width: auto; max-width: 100%; image-rendering: auto; }
.wide { overflow-x: auto; }
"""


def report_page(found: Json, rows: Mapping[str, Sequence[Row]], figures: Mapping[str, Rgb]) -> str:
    """The page: contents, the first figure, ranked examples, the other figures, tables.

    found: the contents of metrics.json. rows: ranked examples by title of the metric.
    """
    title = f"Evaluation of {found['workdir']}"
    shown = {
        name: f'<div class="figure">{web_page.image(name, figure)}</div>'
        for name, figure in figures.items()
    }
    first = dict(list(shown.items())[:1])
    ranked = {
        f"Best, median and worst images of Stage 2 by {metric}": "".join(map(_article, examples))
        for metric, examples in rows.items()
    }
    sections = {
        table.title: f'<div class="wide">{web_page.html_table(table.rows)}</div>'
        for table in tables(found)
    }
    if found["missing"]:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in absent(found["missing"]))
        sections["Not computed"] = f"<ul>{lines}</ul>"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *(f'<p class="faint">{html.escape(fact)}</p>' for fact in facts(found)),
        *web_page.sections(first | ranked | shown | sections),
    ]
    return web_page.page(title, parts, _STYLE)


def _article(row: Row) -> str:
    images = "".join(
        f"<figure>{web_page.image(name, image)}<figcaption>{name}</figcaption></figure>"
        for name, image in row.images.items()
    )
    return (
        f"<article><p>{html.escape(row.note)} · <code>{html.escape(row.key)}</code></p>"
        f'<div class="row">{images}</div><p dir="auto">{html.escape(row.caption)}</p></article>'
    )
