"""Figures of regions and their graphs."""

from collections.abc import Collection, Iterable, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw

from ragaf_jax.figures.lettering import font, wrap
from ragaf_jax.framing import resized
from ragaf_jax.graph.build import RegionGraph
from ragaf_jax.graph.features import EDGE_KINDS
from ragaf_jax.graph.measure import measure_regions
from ragaf_jax.graph.regions import Regions

LEAST_SIDE = 512  # px of a figure's shorter side; strokes and letters scale with it
LETTERS = 20  # height of region numbers, px of a figure of LEAST_SIDE
# Names and colours of edge kinds, the most specific first; colours differ in hue and lightness.
_EDGES = {
    "containment": ("containment", (30, 90, 200)),
    "adjacency": ("adjacency", (200, 30, 45)),
    "radius": ("near", (235, 150, 20)),
    "knn": ("k nearest", (35, 145, 75)),
}
_LEGEND = "A pair has one line: its first kind in this order."
_BACKGROUND = (232, 232, 232)
_GOLDEN_ANGLE = 137.50776  # degrees between hues; multiples never coincide
_CHROMA = 30  # CIELAB; low, so that black lines and numbers stand out
_LIGHTNESS = 86, 76  # CIELAB, alternating


def draw_regions(
    sketch: UInt8[np.ndarray, "H W"],
    regions: Regions,
    numbers: Sequence[int] | None = None,
    letters: int = LETTERS,
) -> UInt8[np.ndarray, "height width 3"]:
    """The sketch with coloured, numbered regions; the background is pale grey.

    Args:
        sketch: paper 255, ink 0, of the proportions of `regions.labels` and any resolution.
        numbers: of the regions; default: their ids.
        letters: height of the numbers, px of a figure of LEAST_SIDE.

    Returns:
        RGB; the shorter side has at least LEAST_SIDE pixels.
    """
    size, unit = _figure_size(regions)
    colors = _region_colors(regions)[regions.labels]
    fill = cv2.resize(colors, size, interpolation=cv2.INTER_NEAREST)
    figure = fill * (0.1 + 0.9 * resized(sketch, *size[::-1])[..., None] / 255)
    height = round(letters * unit)
    # Numbers of regions at the border are moved inside.
    places = np.clip(_anchors(regions, size), height, np.array(size) - height)
    edge = max(1, height // 10)
    return _numbered(figure.round().astype(np.uint8), places, height, numbers, edge)


def draw_graph(
    sketch: UInt8[np.ndarray, "H W"],
    regions: Regions,
    graph: RegionGraph,
    numbers: Sequence[int] | None = None,
    letters: int = LETTERS,
) -> UInt8[np.ndarray, "height width 3"]:
    """The graph over the faded sketch, with a legend of the edge colours below.

    A node is at its region's innermost point: the centroid of a ring lies in another region. A pair
    has one line, of its most specific edge kind: containment, adjacency, near (within a radius), k
    nearest. Arguments as in `draw_regions`.
    """
    size, unit = _figure_size(regions)
    faded = 255 - (255 - resized(sketch, *size[::-1])) // 4
    figure = cv2.cvtColor(faded, cv2.COLOR_GRAY2RGB)
    anchors, pairs = _anchors(regions, size), _pairs(graph)
    for (one, other), kind in pairs.items():
        (begin, end), width = anchors[[one, other]].tolist(), max(1, round(2.5 * unit))
        cv2.line(figure, begin, end, _EDGES[kind][1], width, cv2.LINE_AA)
    radius = 0.75 * letters * unit
    for anchor, color in zip(anchors.tolist(), _region_colors(regions).tolist(), strict=True):
        cv2.circle(figure, anchor, round(radius + 1.5 * unit), (40, 40, 40), -1, cv2.LINE_AA)
        cv2.circle(figure, anchor, round(radius), color, -1, cv2.LINE_AA)
    # Unlike in `draw_regions`, numbers stay inside their circles at the border.
    numbered = _numbered(figure, anchors, max(1, round(0.85 * letters * unit)), numbers)
    return np.concatenate([numbered, _legend(set(pairs.values()), size[0], letters * unit)])


def _pairs(graph: RegionGraph) -> dict[tuple[int, int], str]:
    """The most specific edge kind of each connected pair of different regions."""
    found: dict[tuple[int, int], set[str]] = {}
    edges = zip(graph.senders.tolist(), graph.receivers.tolist(), graph.edges, strict=True)
    for sender, receiver, edge in edges:
        if sender != receiver:
            kinds = {kind for place, kind in enumerate(EDGE_KINDS) if edge[place] > 0}
            pair = min(sender, receiver), max(sender, receiver)
            found[pair] = found.get(pair, set()) | kinds
    return {pair: next(x for x in _EDGES if x in kinds) for pair, kinds in found.items()}


def _figure_size(regions: Regions) -> tuple[tuple[int, int], float]:
    """Width and height, px, and the scale relative to a figure of LEAST_SIDE."""
    height, width = regions.labels.shape
    factor = max(1, -(-LEAST_SIDE // min(height, width)))
    return (width * factor, height * factor), min(height, width) * factor / LEAST_SIDE


def _region_colors(regions: Regions) -> UInt8[np.ndarray, "n 3"]:
    """A muted colour per region: greedily, the unused colour farthest from its neighbours'."""
    lab = _muted(regions.n)
    adjacent: Bool[np.ndarray, "n n"] = measure_regions(regions).adjacent
    left, chosen = list(range(regions.n)), np.zeros(regions.n, int)
    for region in range(regions.n):
        near = chosen[:region][adjacent[region, :region] & ~regions.background[:region]]
        apart = [
            np.linalg.norm(lab[near] - lab[color], axis=1).min(initial=np.inf) for color in left
        ]
        chosen[region] = left.pop(int(np.argmax(apart)))
    rgb = cv2.cvtColor(lab[None, chosen], cv2.COLOR_LAB2RGB)[0]
    colors = (255 * rgb.clip(0, 1)).round().astype(np.uint8)
    colors[regions.background] = _BACKGROUND
    return colors


def _muted(count: int) -> Float[np.ndarray, "count 3"]:
    """CIELAB colours of similar lightness and chroma."""
    hue = np.radians(np.arange(count) * _GOLDEN_ANGLE)
    lightness = np.where(np.arange(count) % 2, *_LIGHTNESS[::-1])
    lab = np.stack([lightness, _CHROMA * np.cos(hue), _CHROMA * np.sin(hue)], axis=1)
    return lab.astype(np.float32)


def _anchors(regions: Regions, size: tuple[int, int]) -> Int[np.ndarray, "n 2"]:
    """x, y on the figure of each region's innermost point."""
    height, width = regions.labels.shape
    points = innermost(regions.labels, range(regions.n))
    return (points * (size[0] / width, size[1] / height)).astype(int)


def innermost(labels: Int[np.ndarray, "h w"], regions: Iterable[int]) -> Float[np.ndarray, "n 2"]:
    """x, y on the label map of the point of each region that is farthest from its edge."""
    points = []
    for region in regions:
        # Padding counts as outside, which keeps points away from the border.
        inside = np.pad((labels == region).astype(np.uint8), 1)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        points.append((x + 0.5, y + 0.5))
    return np.array(points)


def _legend(
    present: Collection[str], width: int, letters: float
) -> UInt8[np.ndarray, "height width 3"]:
    """A line and a name for each edge kind in the figure."""
    size = max(1, round(0.75 * letters))
    entries, left, row = [], 0.5 * size, 0
    for kind in (kind for kind in _EDGES if kind in present):
        name, color = _EDGES[kind]
        length = 2.2 * size + font(size).getlength(name)
        if left + length > width:
            left, row = 0.5 * size, row + 1
        entries.append((name, color, left, row))
        left += length + 0.9 * size
    note = wrap(_LEGEND, width - size, size) if len(entries) > 1 else []
    rows, step = row + 1 + len(note), round(1.5 * size)
    strip = Image.new("RGB", (width, rows * step + size // 2), "white")
    pen = ImageDraw.Draw(strip)
    for name, color, left, row in entries:
        middle = (row + 0.6) * step
        pen.line((left, middle, left + 1.8 * size, middle), color, max(1, size // 4))
        pen.text((left + 2.2 * size, middle), name, "black", font(size), anchor="lm")
    for i, text in enumerate(note, rows - len(note)):
        place = 0.5 * size, (i + 0.6) * step
        pen.text(place, text, (90, 90, 90), font(size), anchor="lm")
    return np.array(strip)


def _numbered(
    figure: UInt8[np.ndarray, "height width 3"],
    places: Int[np.ndarray, "n 2"],
    height: int,
    numbers: Sequence[int] | None,
    edge: int = 0,
) -> UInt8[np.ndarray, "height width 3"]:
    """The figure with region numbers `height` px high, black with a white outline of `edge` px."""
    image = Image.fromarray(figure)
    pen, letters = ImageDraw.Draw(image), font(height)
    for i, (x, y) in enumerate(places.tolist()):
        text = str(i if numbers is None else numbers[i])
        pen.text((x, y), text, "black", letters, "mm", stroke_width=edge, stroke_fill="white")
    return np.array(image)
