"""Measures the borders between cells: their lengths and widest openings."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, Integer, Real, Shaped, UInt8

from ragaf_jax.graph.blocks import page_side
from ragaf_jax.graph.components import Samples


class Border(NamedTuple):
    """The border of two cells. Lengths in px."""

    contact: int  # pairs of neighbouring pixels, one in each cell
    open_contact: int  # those pairs on paper
    half_width: float  # largest distance to ink on the border; 0 where ink closes it
    ink: float  # stroke crossings around the widest point


class Cells(NamedTuple):
    """The cells of a page and their borders. Lengths in px of the map of cells."""

    area: Real[np.ndarray, " m"]  # px of the page; cells of area 0 are ignored
    depth: Float32[np.ndarray, " m"]  # largest sampled distance to ink
    on_frame: Bool[np.ndarray, " m"]  # whether the cell reaches the page's edge
    borders: list[dict[int, Border]]  # of each cell, by neighbouring cell
    stroke_width: float
    page_side: float  # of the page, px


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
    """Measure the cells 0 … m−1 of `labels`, with `areas` in px; at least two must have pixels.

    `paper` is 1 on paper and 0 on ink; `distance` is that to the nearest ink, px.
    """
    count, width = len(areas), stroke_width(paper)
    depth = np.zeros(count, np.float32)
    cell_of_sample = labels[:: samples.stride, :: samples.stride].ravel()
    np.maximum.at(depth, cell_of_sample[samples.peaks], samples.distance.ravel()[samples.peaks])
    return Cells(
        area=areas,
        depth=depth,
        on_frame=np.bincount(frame_pixels(labels), minlength=count) > 0,
        borders=_measure_borders(labels, paper, distance, count, width),
        stroke_width=width,
        page_side=page_side(labels.shape),
    )


def frame_pixels(page: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, " k"]:
    """The outermost pixels of a page."""
    return np.concatenate([page[0], page[-1], page[1:-1, 0], page[1:-1, -1]])


def _measure_borders(
    labels: Integer[np.ndarray, "h w"],
    paper: UInt8[np.ndarray, "h w"],
    distance: Float32[np.ndarray, "h w"],
    count: int,
    width: float,
) -> list[dict[int, Border]]:
    one, other = _border_pixels(labels)
    a, b = labels.ravel()[one], labels.ravel()[other]
    pair = np.minimum(a, b).astype(np.intp) * count + np.maximum(a, b)
    clearance = np.minimum(distance.ravel()[one], distance.ravel()[other])
    contact = dict(zip(*_counted(pair), strict=True))

    is_open = np.flatnonzero(clearance > 0)
    order = is_open[np.argsort(clearance[is_open], kind="stable")]
    names, open_contacts = _counted(pair[order])
    widest = np.zeros(count * count, np.intp)
    widest[pair[order]] = order  # the last of several assignments to one element holds
    half_widths, pixels = clearance[widest[names]].tolist(), one[widest[names]].tolist()

    found = {name: Border(pairs, 0, 0.0, 0.0) for name, pairs in contact.items()}
    openings = zip(names, open_contacts, half_widths, pixels, strict=True)
    for name, open_contact, half_width, pixel in openings:
        y, x = divmod(pixel, labels.shape[1])
        reach = round(half_width + width)
        ink = _ink_around(paper, y, x, reach) / (width * (2 * reach + 1))
        found[name] = Border(contact[name], open_contact, half_width, ink)
    borders: list[dict[int, Border]] = [{} for _ in range(count)]
    for name, border in found.items():
        i, j = divmod(name, count)
        borders[i][j] = borders[j][i] = border
    return borders


def _counted(values: Int[np.ndarray, " k"]) -> tuple[list[int], list[int]]:
    """The distinct values in rising order, and the count of each."""
    counts = np.bincount(values)
    present = np.flatnonzero(counts)
    return present.tolist(), counts[present].tolist()


def _border_pixels(
    labels: Integer[np.ndarray, "h w"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Flat indices of all pairs of neighbouring pixels (4-connected) in different cells."""
    right, down = (np.flatnonzero(unlike) for unlike in unlike_neighbours(labels))
    return np.concatenate([right, down]), np.concatenate([right + 1, down + labels.shape[1]])


def unlike_neighbours(
    page: Integer[np.ndarray, "h w"],
) -> tuple[Bool[np.ndarray, " right"], Bool[np.ndarray, " down"]]:
    """By flat index, whether a pixel differs from its right and from its lower neighbour."""
    flat, width = page.ravel(), page.shape[1]
    right = flat[1:] != flat[:-1]
    right[width - 1 :: width] = False  # the last pixel of a row has no right neighbour
    return right, flat[width:] != flat[:-width]


def _ink_around(paper: UInt8[np.ndarray, "h w"], y: int, x: int, reach: int) -> int:
    """Number of ink pixels in the square of side 2 · reach + 1 around a pixel."""
    square = paper[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
    return square.size - cv2.countNonZero(square)


def join_borders(one: Border, other: Border) -> Border:
    """The border of two merged cells to a third one, with the wider of the two openings."""
    wider = one if one.half_width >= other.half_width else other
    contact, open_contact = one.contact + other.contact, one.open_contact + other.open_contact
    return wider._replace(contact=contact, open_contact=open_contact)
