"""Edge precision, recall and F1 of an image against its sketch."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from scipy.spatial import cKDTree

from ragaf_jax.errors import UserError
from ragaf_jax.palette import srgb_to_lab

BLACK = 15.0
"""Paint of this lightness L* or less is black: the palette's black has 6, its next darkest 37."""


class Strokes(NamedTuple):
    """Where a picture and its sketch have lines, as wide as they are drawn.

    drawn: the picture's dark pixels, of dark paint only a stroke along its inner rim.
    asked: the sketch's ink, likewise.
    hidden: the picture's dark paint within that rim, where no line can be seen.
    """

    drawn: Bool[np.ndarray, "h w"]
    asked: Bool[np.ndarray, "h w"]
    hidden: Bool[np.ndarray, "h w"]


def edge_f1(
    image: UInt8[np.ndarray, "image_h image_w 3"],
    sketch: UInt8[np.ndarray, "h w"],
    tolerance: float | None = None,
) -> tuple[float, float, float]:
    """(precision, recall, F1), each in 0 … 1, of the dark lines in a picture against its sketch.

    Both pages are reduced to lines one pixel wide: a stroke to its centre line, and what is dark
    and wider than the sketch's strokes to the centre line of a stroke along its inner rim. The two
    sets of line pixels are then matched one to one within `tolerance`, as the BSDS benchmark does
    (Martin, Fowlkes & Malik 2004, sec. 3.1; with the most pairs instead of the cheapest, since only
    their number counts). Precision is the share of the picture's line pixels with a partner, recall
    the share of the sketch's. One to one: a page full of lines does not recall for free.

    A pixel of the picture is dark where its lightness L* is under half that of the paint about it
    (a grey closing wider than a stroke), or black outright. So a line counts on brown or purple
    paint too, and the meeting of two paints is no line. A sketch's line that runs through black
    paint cannot be seen there; those pixels of the sketch are not judged.

    It measures drawn lines: not for photographs, whose outlines need not be dark.

    image: sRGB. sketch: paper 255, ink 0; what is under 128 is ink.
    tolerance: a distance in pixels; by default the benchmark's 0.75 % of the page's diagonal, at
      least 1.5, under which a line's centre at 64² is lost in rounding.

    Zeros where the picture or the sketch has no line. Raises UserError where their sizes differ.
    """
    drawn, asked = line_pixels(image, sketch)
    if tolerance is None:
        tolerance = max(1.5, 0.0075 * float(np.hypot(*sketch.shape)))
    pairs = count_matches(drawn, asked, tolerance)
    if pairs == 0:
        return 0.0, 0.0, 0.0
    precision, recall = pairs / int(drawn.sum()), pairs / int(asked.sum())
    return precision, recall, 2 * precision * recall / (precision + recall)


def line_pixels(
    image: UInt8[np.ndarray, "image_h image_w 3"], sketch: UInt8[np.ndarray, "h w"]
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The lines of a picture, and those of its sketch that can be seen in it, one pixel wide.

    What counts as a line is told at `edge_f1`. Raises UserError where the sizes differ.
    """
    strokes = find_strokes(image, sketch)
    return thin(strokes.drawn), thin(strokes.asked) & ~strokes.hidden


def find_strokes(
    image: UInt8[np.ndarray, "image_h image_w 3"], sketch: UInt8[np.ndarray, "h w"]
) -> Strokes:
    """The strokes of a picture and its sketch; UserError where their sizes differ."""
    if image.shape[:2] != sketch.shape:
        raise UserError(
            f"the image is {image.shape[1]}x{image.shape[0]} pixels and its sketch "
            f"{sketch.shape[1]}x{sketch.shape[0]}; bring both to one size."
        )
    ink = sketch < 128
    width = stroke_width(ink)
    dark = dark_pixels(image, width)
    hidden = _deeper_than(width, dark)
    return Strokes(dark & ~hidden, ink & ~_deeper_than(width, ink), hidden)


def stroke_width(ink: Bool[np.ndarray, "h w"]) -> float:
    """The usual width of the strokes in pixels: twice the median depth of their middles."""
    # Framed with paper, so that a page of nothing but ink has a depth too.
    depth = _depth(np.pad(ink, 1))[1:-1, 1:-1]
    middles = ink & (depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8)))
    # The middle of a line k pixels wide is k/2 deep when k is even and (k + 1)/2 when k is odd.
    return max(1.0, 2.0 * float(np.median(depth[middles])) - 0.5) if middles.any() else 1.0


def dark_pixels(image: UInt8[np.ndarray, "h w 3"], width: float) -> Bool[np.ndarray, "h w"]:
    """Whether a pixel is under half as light as the paint about it, as a stroke is, or black."""
    lightness = srgb_to_lab(image)[..., 0].astype(np.float32)
    reach = int(np.ceil(width + 1))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    paint = cv2.morphologyEx(lightness, cv2.MORPH_CLOSE, disc)
    return lightness < np.maximum(BLACK, paint / 2)


def count_matches(
    first: Bool[np.ndarray, "h w"], second: Bool[np.ndarray, "h w"], tolerance: float
) -> int:
    """The most pairs that can be made of a pixel of each, no further apart than `tolerance`."""
    points = np.argwhere(first), np.argwhere(second)
    if min(map(len, points)) == 0:
        return 0
    near = cKDTree(points[0]).sparse_distance_matrix(
        cKDTree(points[1]), tolerance, output_type="coo_matrix"
    )
    # As a flow from a source over the pairs to a sink: SciPy's maximum_bipartite_matching takes
    # minutes on some drawings of 256 px.
    (rows, columns), (n, m) = near.coords, near.shape
    source, sink = n + m, n + m + 1
    tails = np.concatenate([np.full(n, source), rows, n + np.arange(m)])
    heads = np.concatenate([np.arange(n), n + columns, np.full(m, sink)])
    ones = np.ones(len(tails), np.int32)
    graph = csr_array((ones, (tails, heads)), shape=(n + m + 2,) * 2)
    return int(maximum_flow(graph, source, sink).flow_value)


def thin(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask's lines, one pixel wide and connected as they were (Guo & Hall 1989, alg. A1)."""
    thinned = mask.astype(np.uint8)
    remaining = -1
    while remaining != (remaining := int(thinned.sum())):
        for removable in _REMOVABLE:
            neighbours = cv2.filter2D(
                thinned, cv2.CV_16S, _NEIGHBOUR_BITS, borderType=cv2.BORDER_CONSTANT
            )
            thinned[removable[neighbours]] = 0
    return thinned.astype(bool)


def _depth(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Distance of each pixel to the nearest outside the mask; beyond the page the mask goes on."""
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)


def _deeper_than(width: float, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    # A mask's outermost pixel is 1 deep, its middle half a pixel less.
    return _depth(mask) > width + 0.5


# Bit i of a pixel's code is its neighbour i, clockwise from the north.
_NEIGHBOUR_BITS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)


def _removable(second_pass: bool) -> Bool[np.ndarray, "256"]:
    """For each neighbourhood, whether Guo & Hall's pass removes the pixel in its middle."""
    n, ne, e, se, s, sw, w, nw = ((np.arange(256) >> i & 1).astype(bool) for i in range(8))
    gaps = sum(
        (~a & (b | c)).astype(int) for a, b, c in ((n, ne, e), (e, se, s), (s, sw, w), (w, nw, n))
    )
    pairs = [
        sum((a | b).astype(int) for a, b in couples)
        for couples in (
            ((nw, n), (ne, e), (se, s), (sw, w)),
            ((n, ne), (e, se), (s, sw), (w, nw)),
        )
    ]
    ends = np.minimum(*pairs)
    kept_side = (n | ne | ~se) & e if second_pass else (s | sw | ~nw) & w
    return (gaps == 1) & (ends >= 2) & (ends <= 3) & ~kept_side


_REMOVABLE = (_removable(False), _removable(True))
