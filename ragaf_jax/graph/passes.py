"""What lies between two cells: the length of their border and its widest opening."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from ragaf_jax.graph.components import sampling_stride


class Pass(NamedTuple):
    """The border of two cells. Lengths in px."""

    contact: int  # pairs of neighbouring pixels, one in each cell
    open_contact: int  # those with no ink between them
    half_width: float  # largest distance to ink on the border; 0 where ink closes it
    ink: float  # stroke crossings around the widest point: how much is drawn near the opening


class Cells(NamedTuple):
    """The cells of a page and the passes between them."""

    area: Int[np.ndarray, " m"]  # paper, px
    depth: Float32[np.ndarray, " m"]  # largest sampled distance to ink, px
    on_frame: Bool[np.ndarray, " m"]  # whether the cell reaches the page's edge
    passes: list[dict[int, Pass]]  # for each cell: neighbouring cell → pass
    stroke_width: float  # px


def stroke_width(paper: UInt8[np.ndarray, "h w"]) -> float:
    """Mean width of the strokes, px: twice the ink's area over its perimeter.

    The perimeter is the Cauchy–Crofton estimate π/4 · (horizontal + vertical transitions).
    """
    transitions = cv2.countNonZero(paper[:, 1:] ^ paper[:, :-1]) if paper.shape[1] > 1 else 0
    if paper.shape[0] > 1:
        transitions += cv2.countNonZero(paper[1:] ^ paper[:-1])
    ink = paper.size - cv2.countNonZero(paper)
    return max(1.0, 2.0 * ink / max(np.pi / 4 * transitions, 1.0))


def measure_cells(
    labels: Int32[np.ndarray, "h w"],
    paper: UInt8[np.ndarray, "h w"],
    distance: Float32[np.ndarray, "h w"],
) -> Cells:
    """Measure the cells 0 … m−1 of `labels`: at least two, and a pixel in every one."""
    count, width = int(labels.max()) + 1, stroke_width(paper)
    # Rooms are found by their samples, and the scores of passes were fitted to the same ones.
    stride = sampling_stride(labels.shape)
    depth = np.zeros(count, np.float32)
    samples = (values[::stride, ::stride].ravel() for values in (labels, distance))
    np.maximum.at(depth, *samples)  # fast on flat arrays only
    on_frame = np.zeros(count, bool)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        on_frame[side] = True
    return Cells(
        area=np.bincount(labels[paper > 0], minlength=count),
        depth=depth,
        on_frame=on_frame,
        passes=_measure_passes(labels, paper, distance, count, width),
        stroke_width=width,
    )


def _measure_passes(
    labels: Int32[np.ndarray, "h w"],
    paper: UInt8[np.ndarray, "h w"],
    distance: Float32[np.ndarray, "h w"],
    count: int,
    width: float,
) -> list[dict[int, Pass]]:
    one, other = _border_pixels(labels)
    a, b = labels.ravel()[one], labels.ravel()[other]
    pair = np.minimum(a, b).astype(np.int64) * count + np.maximum(a, b)
    clearance = np.minimum(distance.ravel()[one], distance.ravel()[other])
    order = np.lexsort((clearance, pair))
    pair, clearance, one = pair[order], clearance[order], one[order]
    starts = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]])
    ends = np.r_[starts[1:], len(pair)]
    open_contacts = np.add.reduceat((clearance > 0).astype(np.int64), starts)

    ink_sums = cv2.integral(1 - paper)
    passes: list[dict[int, Pass]] = [{} for _ in range(count)]
    for start, end, open_contact in zip(starts, ends, open_contacts, strict=True):
        i, j = divmod(int(pair[start]), count)
        half_width, ink = float(clearance[end - 1]), 0.0
        if half_width > 0:
            y, x = divmod(int(one[end - 1]), labels.shape[1])
            reach = round(half_width + width)
            ink = _ink_around(ink_sums, y, x, reach) / (width * (2 * reach + 1))
        passes[i][j] = passes[j][i] = Pass(int(end - start), int(open_contact), half_width, ink)
    return passes


def _border_pixels(
    labels: Int32[np.ndarray, "h w"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Flat indices of all pairs of side-by-side pixels in different cells."""
    width = labels.shape[1]
    right = np.flatnonzero(labels[:, 1:] != labels[:, :-1])
    right += right // max(width - 1, 1)  # index in rows of w − 1 → index in rows of w
    down = np.flatnonzero(labels[1:] != labels[:-1])
    return np.concatenate([right, down]), np.concatenate([right + 1, down + width])


def _ink_around(sums: Int32[np.ndarray, "rows columns"], y: int, x: int, reach: int) -> int:
    """Ink pixels in the square of side 2 · reach + 1 about a pixel, from the integral image."""
    height, width = sums.shape[0] - 1, sums.shape[1] - 1
    top, left = max(0, y - reach), max(0, x - reach)
    bottom, right = min(height, y + reach + 1), min(width, x + reach + 1)
    corners = sums[[bottom, top, bottom, top], [right, left, left, right]]
    return int(corners @ (1, 1, -1, -1))


def joined(one: Pass, other: Pass) -> Pass:
    """The border to a third cell when two cells become one: the wider opening speaks for it."""
    wider = one if one.half_width >= other.half_width else other
    return wider._replace(
        contact=one.contact + other.contact,
        open_contact=one.open_contact + other.open_contact,
    )
