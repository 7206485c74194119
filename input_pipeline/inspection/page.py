"""The findings as a web page in one file and as Markdown."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ragaf_jax.figures import web_page

_DRAWN = ("regions", "graph")
PICTURES = ("image", "sketch", *_DRAWN)

_DISTRIBUTIONS = {
    "regions": "regions of a drawing",
    "edges": "edges of its graph",
    "caption_tokens": "tokens of a caption",
}
_STYLE = """
.side { display: flex; flex-wrap: wrap; gap: 1.5em 2.5em; } svg { display: block; }
"""
_BARS = " ▁▂▃▄▅▆▇█"
_FITS, _TOO_MUCH = "#3d6fb5", "#d0402b"


class Example(NamedTuple):
    """One record to look at.

    Attributes:
      pictures: grey or RGB, one for each name in `PICTURES`.
      captions: all it has.
      key: and the next two as in the record.
      group: what may not be parted.
      category: "" if there is none.
      facts: a line of numbers.
    """

    pictures: Sequence[UInt8[np.ndarray, "_ _ *rgb"]]
    captions: Sequence[str]
    key: str
    group: str
    category: str
    facts: str


def table(found: dict[str, Any]) -> list[list[str]]:
    """The statistics in rows of equal length; the first one is the head."""
    splits, budgets = found["splits"], found["budgets"]

    def row(name: str, *path: str, form: str = "{:,}") -> list[str]:
        cells = []
        for split in splits.values():
            value: Any = split
            for step in path:
                value = value[step]
            cells.append(form.format(value))
        return [name, *cells]

    def spread(name: str, title: str) -> list[str]:
        form = "{min} / {median:g} / {mean:.1f} / {percentile_95:.1f} / {max}"
        return [title, *(form.format(**split[name]) for split in splits.values())]

    def share(name: str, title: str) -> list[str]:
        return row(title, "shares", name, form="{:.1%}")

    kept, limit = budgets["regions_kept"], budgets["max_regions"] - 1
    return [
        ["", *splits],
        row("records", "records"),
        row("drawings or photos", "groups"),
        row("captions", "captions"),
        *(
            spread(name, f"{title} (min / median / mean / 95 % / max)")
            for name, title in _DISTRIBUTIONS.items()
        ),
        share("regions_merged", f"drawings with regions merged to keep to {kept}"),
        share("regions_over_budget", f"drawings with more than {limit} regions (training refuses)"),
        share("edges_trimmed", f"graphs trimmed to {budgets['max_edges']} edges"),
        share("captions_cut", f"captions cut to {budgets['text_length']} tokens"),
        share("unknown_words", "words that the vocabulary lacks"),
        share("one_region", "sketches of one region"),
        share("no_ink", "sketches without ink"),
        row("ink of a sketch, share of the page (mean)", "ink_share", "mean", form="{:.1%}"),
    ]


def notes(found: dict[str, Any]) -> list[str]:
    """What else there is to say, a sentence each."""
    graph = found["graph"]
    said = [f"Graph: {graph['kind']} (k = {graph['k']}, radius = {graph['radius']})."]
    if shared := found["groups_in_several_splits"]:
        said.append(f"Drawings or photos that are in more than one split: {shared:,}.")
    if number := found["rejected"]["number"]:
        said.append(f"Examples rejected when the data were prepared: {number:,}.")
    return said


def markdown(found: dict[str, Any]) -> str:
    """Tables for a terminal or an issue."""
    parts = [
        f"# {found['dataset']}, {found['image_size']} px",
        web_page.markdown_table(table(found)),
    ]
    if categories := _category_rows(found):
        parts.append(web_page.markdown_table([["category", "records"], *categories]))
    bars = [
        [title, _sparkline(found["histograms"][name]["counts"]), _scale(found["histograms"][name])]
        for name, title in _DISTRIBUTIONS.items()
    ]
    parts.append(web_page.markdown_table([["", "how many have how many", "from … to"], *bars]))
    if found["rejected"]["first"]:
        rows = [[line["file"], line["reason"]] for line in found["rejected"]["first"]]
        parts.append(web_page.markdown_table([["rejected", "because"], *rows]))
    return "\n\n".join([*parts, *notes(found)])


def page(found: dict[str, Any], split: str, examples: Sequence[Example]) -> str:
    """A web page that needs no other file, runs no script and loads nothing."""
    title = f"{found['dataset']}, {found['image_size']} px"
    histograms = "".join(
        f"<div>{title}{_svg(found['histograms'][name])}</div>"
        for name, title in _DISTRIBUTIONS.items()
    )
    parts = {
        f"{len(examples)} random examples of {split}": "".join(map(_article, examples)),
        "Statistics": web_page.html_table(table(found))
        + "".join(f"<p>{html.escape(note)}</p>" for note in notes(found)),
        "Against the budgets of a run": f'<div class="side">{histograms}</div>',
    }
    if categories := _category_rows(found):
        counts = " · ".join(
            f"{html.escape(name)} <b>{html.escape(records)}</b>" for name, records in categories
        )
        parts["Records per category"] = f"<p>{counts}</p>"
    if found["rejected"]["first"]:
        rows = [[line["file"], line["reason"]] for line in found["rejected"]["first"]]
        parts["Rejected"] = web_page.html_table([["file", "reason"], *rows], "words")
    heading = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="faint"><code>{html.escape(found["folder"])}</code></p>',
    ]
    return web_page.page(title, [*heading, *web_page.sections(parts)], _STYLE)


def _category_rows(found: dict[str, Any]) -> list[list[str]]:
    rows = [[name, f"{count:,}"] for name, count in found["categories"]["largest"].items()]
    others = found["categories"]["others"]
    if others["number"]:
        rows.append([f"{others['number']:,} others", f"{others['records']:,}"])
    return rows


def _sparkline(counts: Sequence[int]) -> str:
    """A character a bin; whatever is not empty shows."""
    top = max(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in counts)


def _scale(histogram: dict[str, Any]) -> str:
    last = histogram["width"] * len(histogram["counts"]) - 1
    return f"0 … {last}, room for {histogram['limit']}"


def _svg(histogram: dict[str, Any], width: int = 330, height: int = 110) -> str:
    """Bars over the values, red beyond a dashed line that stands after the last one that fits."""
    counts, step, limit = histogram["counts"], histogram["width"], histogram["limit"]
    bar, top = width / len(counts), max(counts)
    bars = ""
    for place, count in enumerate(counts):
        if not count:
            continue
        tall = max(1.5, height * count / top)
        last = place * step + step - 1
        color = _TOO_MUCH if place * step > limit else _FITS
        name = last if step == 1 else f"{place * step} to {last}"
        bars += (
            f'<rect x="{place * bar:.1f}" y="{height - tall:.1f}" width="{bar - 1:.1f}" '
            f'height="{tall:.1f}" fill="{color}"><title>{name}: {count:,}</title></rect>'
        )
    line = min(width - 1.0, (limit + 1) / step * bar)
    return (
        f'<svg width="{width}" height="{height + 16}" role="img">{bars}'
        f'<line x1="{line:.1f}" x2="{line:.1f}" y1="0" y2="{height}" stroke="{_TOO_MUCH}" '
        'stroke-dasharray="4 3"/><g font-size="11" fill="#6b6b6b">'
        f'<text x="0" y="{height + 13}">0</text>'
        f'<text x="{width / 2}" y="{height + 13}" text-anchor="middle">room for {limit}</text>'
        f'<text x="{width}" y="{height + 13}" text-anchor="end">{step * len(counts) - 1}</text>'
        "</g></svg>"
    )


def _article(example: Example) -> str:
    figures = "".join(
        f"<figure>{web_page.image(name, picture, name in _DRAWN)}"
        f"<figcaption>{name}</figcaption></figure>"
        for name, picture in zip(PICTURES, example.pictures, strict=True)
    )
    captions = "".join(f'<li dir="auto">{html.escape(text)}</li>' for text in example.captions)
    category = f" · {html.escape(example.category)}" if example.category else ""
    return (
        f'<article><div class="row">{figures}</div><ul>{captions}</ul>'
        f'<div class="faint"><code>{html.escape(example.key)}</code>{category} · '
        f"{html.escape(example.facts)}</div></article>"
    )
