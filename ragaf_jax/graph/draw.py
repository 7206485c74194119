"""Figures of regions and graphs, large enough to read."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from ragaf_jax.graph.build import RegionGraph
from ragaf_jax.graph.features import EDGE_KINDS
from ragaf_jax.graph.regions import Regions

LEAST_SIDE = 512  # px of a figure's shorter side; every stroke and letter scales with it
# Red, blue, green, orange: apart in hue and in lightness.
_EDGE_COLORS = {
    "adjacency": (200, 30, 45),
    "containment": (30, 90, 200),
    "knn": (35, 145, 75),
    "radius": (235, 150, 20),
}
_BACKGROUND = (232, 232, 232)
_GOLDEN_ANGLE = 137.50776  # degrees; successive multiples never come close together


def draw_regions(
    sketch: UInt8[np.ndarray, "h w"],
    regions: Regions,
    numbers: Sequence[int] | None = None,
    letters: int = 17,
) -> UInt8[np.ndarray, "height width 3"]:
    """The drawing with each region in a colour of its own, numbered; background pale grey.

    Args:
        sketch: paper 255, ink 0, of the shape of `regions.labels`.
        numbers: of the regions, where they are not called by their ids.
        letters: height of the numbers, px of a figure of LEAST_SIDE.

    Returns:
        RGB, enlarged so that the shorter side has at least LEAST_SIDE pixels.
    """
    size, unit = _figure_size(regions)
    colors = _region_colors(regions)[regions.labels]
    fill = cv2.resize(colors, size, interpolation=cv2.INTER_NEAREST)
    shade = cv2.resize(sketch, size, interpolation=cv2.INTER_LINEAR)[..., None] / 255
    figure = (fill * (0.15 + 0.85 * shade)).round().astype(np.uint8)
    return _numbered(figure, _anchors(regions, size), round(letters * unit), numbers)


def draw_graph(
    sketch: UInt8[np.ndarray, "h w"],
    regions: Regions,
    graph: RegionGraph,
    numbers: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The graph over the faded drawing, and below it what the colours of its edges mean.

    A node stands at its region's innermost point, not at the centroid, which of a ring or of the
    background lies in another region. A pair joined for several reasons has several lines.
    """
    size, unit = _figure_size(regions)
    faded = 255 - (255 - cv2.resize(sketch, size, interpolation=cv2.INTER_LINEAR)) // 3
    figure = cv2.cvtColor(faded, cv2.COLOR_GRAY2RGB)
    anchors = _anchors(regions, size)
    for sender, receiver, edge in zip(graph.senders, graph.receivers, graph.edges, strict=True):
        if sender < receiver:
            kinds = [kind for place, kind in enumerate(EDGE_KINDS) if edge[place] > 0]
            _draw_edge(figure, anchors[sender], anchors[receiver], kinds, unit)
    for anchor, color in zip(anchors.tolist(), _region_colors(regions).tolist(), strict=True):
        cv2.circle(figure, anchor, round(11 * unit), (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(figure, anchor, round(9.5 * unit), color, -1, cv2.LINE_AA)
    figure = _numbered(figure, anchors, round(13 * unit), numbers)
    return np.concatenate([figure, _legend(graph, size[0], unit)])


def _figure_size(regions: Regions) -> tuple[tuple[int, int], float]:
    """Width and height in px, and the length of one px of a figure of LEAST_SIDE."""
    height, width = regions.labels.shape
    factor = max(1, -(-LEAST_SIDE // min(height, width)))
    return (width * factor, height * factor), min(height, width) * factor / LEAST_SIDE


def _region_colors(regions: Regions) -> UInt8[np.ndarray, "n 3"]:
    hue = np.arange(regions.n) * _GOLDEN_ANGLE % 360
    saturation = np.where(np.arange(regions.n) % 2, 0.75, 0.45)
    hsv = np.stack([hue, saturation, np.ones(regions.n)], axis=1).astype(np.float32)
    rgb = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    colors = (255 * rgb).round().astype(np.uint8)
    colors[regions.background] = _BACKGROUND
    return colors


def _anchors(regions: Regions, size: tuple[int, int]) -> Int[np.ndarray, "n 2"]:
    """x, y on the figure of each region's point that is farthest from its borders."""
    anchors = []
    for region in range(regions.n):
        mask = (regions.labels == region).astype(np.uint8)
        mask = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        anchors.append((x + 0.5, y + 0.5))
    height, width = regions.labels.shape
    return (np.array(anchors) * (size[0] / width, size[1] / height)).astype(int)


def _draw_edge(
    figure: UInt8[np.ndarray, "height width 3"],
    start: Int[np.ndarray, "2"],
    end: Int[np.ndarray, "2"],
    kinds: list[str],
    unit: float,
) -> None:
    """One line for each kind, side by side."""
    along: Float[np.ndarray, "2"] = (end - start) / max(float(np.hypot(*(end - start))), 1.0)
    normal = np.array([-along[1], along[0]])
    for place, kind in enumerate(kinds):
        shift = normal * (place - (len(kinds) - 1) / 2) * 3.5 * unit
        one, other = ((point + shift).round().astype(int).tolist() for point in (start, end))
        cv2.line(figure, one, other, _EDGE_COLORS[kind], max(1, round(2 * unit)), cv2.LINE_AA)


def _legend(graph: RegionGraph, width: int, unit: float) -> UInt8[np.ndarray, "height width 3"]:
    """A strip of white paper with a line and a name for each kind of edge in the graph."""
    strip = Image.new("RGB", (width, round(28 * unit)), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(13 * unit)
    middle, column = strip.height // 2, width // len(_EDGE_COLORS)
    present = np.flatnonzero(graph.edges[:, : len(EDGE_KINDS)].any(0))
    shown = [EDGE_KINDS[kind] for kind in present if EDGE_KINDS[kind] != "self"]
    for place, kind in enumerate(shown):
        left = place * column + round(8 * unit)
        right = left + round(24 * unit)
        pen.line((left, middle, right, middle), _EDGE_COLORS[kind], round(3 * unit))
        pen.text((right + round(6 * unit), middle), kind, "black", font, anchor="lm")
    return np.array(strip)


def _numbered(
    figure: UInt8[np.ndarray, "height width 3"],
    anchors: Int[np.ndarray, "n 2"],
    height: int,
    numbers: Sequence[int] | None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Region numbers, black with a white outline, legible on paper and on ink."""
    image = Image.fromarray(figure)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(height)
    # An anchor at the page's edge must not push its number off the page.
    places = np.clip(anchors, height, (image.width - height, image.height - height))
    edge = max(2, height // 8)
    for i, (x, y) in enumerate(places.tolist()):
        text = str(i if numbers is None else numbers[i])
        pen.text((x, y), text, "black", font, "mm", stroke_width=edge, stroke_fill="white")
    return np.array(image)
