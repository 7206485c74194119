"""The inspection's results as one HTML file and as Markdown."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from input_pipeline.inspection.framing import framing_notes, framing_rows
from ragaf_jax.figures import web_page

_FIGURES = ("regions", "graph")
IMAGES = ("image", "sketch", *_FIGURES)

_DISTRIBUTIONS = {
    "regions": "regions per sketch",
    "edges": "edges per graph",
    "caption_tokens": "tokens per caption",
}
_STYLE = """
.side { display: flex; flex-wrap: wrap; gap: 1.5em 2.5em; } svg { display: block; }
"""
_BARS = " ▁▂▃▄▅▆▇█"
_FITS, _TOO_MUCH = "#3d6fb5", "#d0402b"


class Example(NamedTuple):
    """One record on the page."""

    images: Sequence[UInt8[np.ndarray, "_ _ *rgb"]]  # one for each name in `IMAGES`
    captions: Sequence[str]  # all of the record
    key: str
    category: str  # "" for none
    facts: str  # a line with counts


def table(found: dict[str, Any]) -> list[list[str]]:
    """The statistics in rows of equal length; the first is the header."""
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
        values = (form.format(**split[name]) for split in splits.values())
        return [f"{title} (min / median / mean / 95 % / max)", *values]

    def share(name: str, title: str) -> list[str]:
        return row(title, "shares", name, form="{:.1%}")

    most, limit = budgets["regions_kept"], budgets["max_regions"] - 1
    return [
        ["", *splits],
        row("records", "records"),
        row("groups (sketches or photos)", "groups"),
        row("captions", "captions"),
        row("… without sides", "mirrored_captions", "same"),
        row("… with sides that mirrored examples exchange", "mirrored_captions", "exchanged"),
        row("… whose examples are not mirrored", "mirrored_captions", "none"),
        *(spread(name, title) for name, title in _DISTRIBUTIONS.items()),
        share("regions_merged", f"sketches with regions merged to {most}"),
        share("regions_over_budget", f"sketches with more than {limit} regions (training refuses)"),
        share("edges_trimmed", f"graphs trimmed to {budgets['max_edges']} edges"),
        share("captions_cut", f"captions truncated to {budgets['text_length']} tokens"),
        share("unknown_words", "words outside the vocabulary"),
        share("one_region", "sketches with one region"),
        share("no_ink", "sketches without ink"),
        row("ink per sketch, share of the page (mean)", "ink_share", "mean", form="{:.1%}"),
    ]


def notes(found: dict[str, Any]) -> list[str]:
    """Further facts, one sentence each."""
    graph = found["graph"]
    sentences = [f"Graph: {graph['kind']} (k = {graph['k']}, radius = {graph['radius']})."]
    if shared := found["groups_in_several_splits"]:
        sentences.append(f"Groups in more than one split: {shared:,}.")
    if framing := found.get("framing"):
        sentences += framing_notes(framing)
    if number := found["rejected"]["number"]:
        sentences.append(f"Examples rejected in preparation: {number:,}.")
    return sentences


def markdown(found: dict[str, Any]) -> str:
    """Tables for a terminal or an issue."""
    title = f"# {found['dataset']}, {found['image_size']} px"
    parts = [title, web_page.markdown_table(table(found))]
    if buckets := framing_rows(found.get("framing", {"buckets": []})):
        parts.append(web_page.markdown_table(buckets))
    if categories := _category_rows(found):
        parts.append(web_page.markdown_table([["category", "records"], *categories]))
    bars = [
        [title, _sparkline(found["histograms"][name]["counts"]), _scale(found["histograms"][name])]
        for name, title in _DISTRIBUTIONS.items()
    ]
    parts.append(web_page.markdown_table([["", "histogram", "range"], *bars]))
    if found["rejected"]["first"]:
        rows = [[line["file"], line["reason"]] for line in found["rejected"]["first"]]
        parts.append(web_page.markdown_table([["rejected", "reason"], *rows]))
    return "\n\n".join([*parts, *notes(found)])


def page(found: dict[str, Any], split: str, examples: Sequence[Example]) -> str:
    """A web page without scripts or external resources."""
    title = f"{found['dataset']}, {found['image_size']} px"
    histograms = "".join(
        f"<div>{title}{_svg(found['histograms'][name])}</div>"
        for name, title in _DISTRIBUTIONS.items()
    )
    parts = {
        f"{len(examples)} random examples of {split}": "".join(map(_article, examples)),
        "Statistics": web_page.html_table(table(found))
        + "".join(f"<p>{html.escape(note)}</p>" for note in notes(found)),
        "Distributions and limits of a run": f'<div class="side">{histograms}</div>',
    }
    if buckets := framing_rows(found.get("framing", {"buckets": []})):
        parts["Images per bucket"] = web_page.html_table(buckets)
    if categories := _category_rows(found):
        counts = " · ".join("{} <b>{}</b>".format(*map(html.escape, row)) for row in categories)
        parts["Records per category"] = f"<p>{counts}</p>"
    if found["sided"]:
        rows = [[text, mirrored or "not mirrored"] for text, mirrored in found["sided"]]
        header = ["caption", "caption of the mirrored image"]
        parts["First captions with sides"] = web_page.html_table([header, *rows], "words")
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
    """One character per bin; non-empty bins are visible."""
    top = max(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in counts)


def _scale(histogram: dict[str, Any]) -> str:
    last = histogram["width"] * len(histogram["counts"]) - 1
    return f"0 … {last}, limit {histogram['limit']}"


def _svg(histogram: dict[str, Any], width: int = 330, height: int = 110) -> str:
    """A histogram; a dashed line marks the limit, and bars beyond it are red."""
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
        f'<text x="{width / 2}" y="{height + 13}" text-anchor="middle">limit {limit}</text>'
        f'<text x="{width}" y="{height + 13}" text-anchor="end">{step * len(counts) - 1}</text>'
        "</g></svg>"
    )


def _article(example: Example) -> str:
    figures = "".join(
        f"<figure>{web_page.image(name, image, name in _FIGURES)}"
        f"<figcaption>{name}</figcaption></figure>"
        for name, image in zip(IMAGES, example.images, strict=True)
    )
    captions = "".join(f'<li dir="auto">{html.escape(text)}</li>' for text in example.captions)
    category = f" · {html.escape(example.category)}" if example.category else ""
    return (
        f'<article><div class="row">{figures}</div><ul>{captions}</ul>'
        f'<div class="faint"><code>{html.escape(example.key)}</code>{category} · '
        f"{html.escape(example.facts)}</div></article>"
    )
