"""Borders between cells: their length and their widest opening."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, Integer, Real, Shaped, UInt8

from ragaf_jax.graph.components import Samples


class Pass(NamedTuple):
    """The border of two cells. Lengths in px."""

    contact: int  # pairs of neighbouring pixels, one in each cell
    open_contact: int  # those with no ink between them
    half_width: float  # largest distance to ink on the border; 0 where ink closes it
    ink: float  # stroke crossings around the widest point: how much is drawn near the opening


class Cells(NamedTuple):
    """The cells of a page and the passes between them. Lengths in px of the map of cells."""

    area: Real[np.ndarray, " m"]  # px of the page; a cell without any does not exist
    depth: Float32[np.ndarray, " m"]  # largest sampled distance to ink
    on_frame: Bool[np.ndarray, " m"]  # whether the cell reaches the page's edge
    passes: list[dict[int, Pass]]  # for each cell: neighbouring cell → pass
    stroke_width: float
    page_side: float  # of a square of the page's area


def stroke_width(paper: UInt8[np.ndarray, "h w"]) -> float:
    """Mean width of the strokes, px: twice the ink's area over its perimeter.

    The perimeter is the Cauchy–Crofton estimate π/4 · (horizontal + vertical transitions).
    """
    across, down = unlike_neighbours(paper)
    transitions = np.count_nonzero(across) + np.count_nonzero(down)
    ink = paper.size - cv2.countNonZero(paper)
    return max(1.0, 2.0 * ink / max(math.pi / 4 * transitions, 1.0))


def measure_cells(
    labels: Integer[np.ndarray, "h w"],
    areas: Real[np.ndarray, " m"],
    paper: UInt8[np.ndarray, "h w"],
    distance: Float32[np.ndarray, "h w"],
    samples: Samples,
) -> Cells:
    """Measure the cells 0 … m−1 of `labels`, of which at least two have any pixel.

    Args:
        areas: of the cells, px of the page.
        paper: 1 on paper, 0 on ink.
        distance: of every pixel to the nearest ink, px.
        samples: of `distance`.
    """
    count, width = len(areas), stroke_width(paper)
    depth = np.zeros(count, np.float32)
    cell_of_sample = labels[:: samples.stride, :: samples.stride].ravel()
    np.maximum.at(depth, cell_of_sample[samples.peaks], samples.distance.ravel()[samples.peaks])
    return Cells(
        area=areas,
        depth=depth,
        on_frame=np.bincount(frame_pixels(labels), minlength=count) > 0,
        passes=_measure_passes(labels, paper, distance, count, width),
        stroke_width=width,
        page_side=math.sqrt(labels.size),
    )


def frame_pixels(page: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, " k"]:
    """The outermost pixels of a page."""
    return np.concatenate([page[0], page[-1], page[1:-1, 0], page[1:-1, -1]])


def _measure_passes(
    labels: Integer[np.ndarray, "h w"],
    paper: UInt8[np.ndarray, "h w"],
    distance: Float32[np.ndarray, "h w"],
    count: int,
    width: float,
) -> list[dict[int, Pass]]:
    one, other = _border_pixels(labels)
    a, b = labels.ravel()[one], labels.ravel()[other]
    pair = np.minimum(a, b).astype(np.intp) * count + np.maximum(a, b)
    clearance = np.minimum(distance.ravel()[one], distance.ravel()[other])
    contact = dict(zip(*_counted(pair), strict=True))

    is_open = np.flatnonzero(clearance > 0)
    order = is_open[np.argsort(clearance[is_open], kind="stable")]
    names, open_contacts = _counted(pair[order])
    widest = np.zeros(count * count, np.intp)
    widest[pair[order]] = order  # of several assignments to one place the last one holds
    openings = zip(
        names,
        open_contacts,
        clearance[widest[names]].tolist(),
        one[widest[names]].tolist(),
        strict=True,
    )

    found = {name: Pass(pairs, 0, 0.0, 0.0) for name, pairs in contact.items()}
    for name, open_contact, half_width, place in openings:
        y, x = divmod(place, labels.shape[1])
        reach = round(half_width + width)
        ink = _ink_around(paper, y, x, reach) / (width * (2 * reach + 1))
        found[name] = Pass(contact[name], open_contact, half_width, ink)
    passes: list[dict[int, Pass]] = [{} for _ in range(count)]
    for name, border in found.items():
        i, j = divmod(name, count)
        passes[i][j] = passes[j][i] = border
    return passes


def _counted(values: Int[np.ndarray, " k"]) -> tuple[list[int], list[int]]:
    """The values that occur, rising, and how often each does."""
    if len(values) == 0:
        return [], []
    counts = np.bincount(values)
    present = np.flatnonzero(counts)
    return present.tolist(), counts[present].tolist()


def _border_pixels(
    labels: Integer[np.ndarray, "h w"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Flat indices of all pairs of side-by-side pixels in different cells."""
    right, down = (np.flatnonzero(unlike) for unlike in unlike_neighbours(labels))
    return np.concatenate([right, down]), np.concatenate([right + 1, down + labels.shape[1]])


def unlike_neighbours(
    page: Integer[np.ndarray, "h w"],
) -> tuple[Bool[np.ndarray, " right"], Bool[np.ndarray, " down"]]:
    """By flat index: whether a pixel differs from the one to its right, and from the one below."""
    flat, width = page.ravel(), page.shape[1]
    right = flat[1:] != flat[:-1]
    right[width - 1 :: width] = False  # at a row's end comes the next row's beginning
    return right, flat[width:] != flat[:-width]


def _ink_around(paper: UInt8[np.ndarray, "h w"], y: int, x: int, reach: int) -> int:
    """Pixels of ink in the square of side 2 · reach + 1 about a pixel."""
    square = paper[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
    return square.size - cv2.countNonZero(square)


def joined(one: Pass, other: Pass) -> Pass:
    """The border to a third cell when two cells become one: the wider opening speaks for it."""
    wider = one if one.half_width >= other.half_width else other
    return wider._replace(
        contact=one.contact + other.contact,
        open_contact=one.open_contact + other.open_contact,
    )
