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
"""Lightness L* up to this is black: the palette's black has 6, its next darkest colour 37."""


class Strokes(NamedTuple):
    """Strokes of an image and its sketch at their full width.

    image: the image's dark pixels; of larger dark areas only a stroke along the inner rim.
    sketch: the sketch's ink, likewise.
    hidden: the interior of the image's dark areas, where lines are invisible.
    """

    image: Bool[np.ndarray, "h w"]
    sketch: Bool[np.ndarray, "h w"]
    hidden: Bool[np.ndarray, "h w"]


def edge_f1(
    image: UInt8[np.ndarray, "image_h image_w 3"], sketch: UInt8[np.ndarray, "h w"]
) -> tuple[float, float, float]:
    """(precision, recall, F1), each in 0 … 1, of the dark lines in an image against its sketch.

    Both are reduced to lines one pixel wide: strokes to their centre lines, and dark areas wider
    than the sketch's strokes to the centre line of a stroke along their inner rim. Line pixels are
    then matched one to one within 0.75 % of the diagonal, as in the BSDS benchmark (Martin, Fowlkes
    & Malik 2004, sec. 3.1), but at least 1.5 px, the rounding error of a centre line at 64². The
    matching has maximum cardinality, because only the number of pairs counts. Precision is the
    matched share of the image's line pixels, recall that of the sketch's. Because matches are one
    to one, extra lines do not raise recall.

    A pixel is dark if its lightness L* is under half that of the surrounding colour (a grey closing
    wider than a stroke), or black. So lines count on brown or purple too, and a border between two
    colours is no line. The sketch's lines within black areas are excluded.

    Not for photographs, whose outlines need not be dark.

    image: sRGB. sketch: paper 255, ink 0; pixels under 128 are ink.

    Zeros if the image or the sketch has no line. Raises UserError if their sizes differ.
    """
    image_lines, sketch_lines = line_pixels(image, sketch)
    tolerance = max(1.5, 0.0075 * float(np.hypot(*sketch.shape)))
    pairs = count_matches(image_lines, sketch_lines, tolerance)
    if pairs == 0:
        return 0.0, 0.0, 0.0
    precision, recall = pairs / int(image_lines.sum()), pairs / int(sketch_lines.sum())
    return precision, recall, 2 * precision * recall / (precision + recall)


def line_pixels(
    image: UInt8[np.ndarray, "image_h image_w 3"], sketch: UInt8[np.ndarray, "h w"]
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The lines of an image and the visible lines of its sketch, one pixel wide; see `edge_f1`.

    Raises UserError if the sizes differ.
    """
    strokes = find_strokes(image, sketch)
    return thin(strokes.image), thin(strokes.sketch) & ~strokes.hidden


def find_strokes(
    image: UInt8[np.ndarray, "image_h image_w 3"], sketch: UInt8[np.ndarray, "h w"]
) -> Strokes:
    """The strokes of an image and its sketch; UserError if their sizes differ."""
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
    """The typical stroke width in pixels: twice the median depth of centre lines."""
    # Padding with paper gives a page of ink alone a finite depth.
    depth = _depth(np.pad(ink, 1))[1:-1, 1:-1]
    centres = ink & (depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8)))
    # The centre of a line of k pixels is k/2 deep for even k and (k + 1)/2 for odd k.
    return max(1.0, 2.0 * float(np.median(depth[centres])) - 0.5) if centres.any() else 1.0


def dark_pixels(image: UInt8[np.ndarray, "h w 3"], width: float) -> Bool[np.ndarray, "h w"]:
    """The mask of pixels under half as light as the surrounding colour, or black."""
    lightness = srgb_to_lab(image)[..., 0].astype(np.float32)
    reach = int(np.ceil(width + 1))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    paint = cv2.morphologyEx(lightness, cv2.MORPH_CLOSE, disc)
    return lightness < np.maximum(BLACK, paint / 2)


def count_matches(
    first: Bool[np.ndarray, "h w"], second: Bool[np.ndarray, "h w"], tolerance: float
) -> int:
    """The size of a maximum matching of the two masks' pixels within `tolerance` pixels."""
    points = np.argwhere(first), np.argwhere(second)
    if min(map(len, points)) == 0:
        return 0
    near = cKDTree(points[0]).sparse_distance_matrix(
        cKDTree(points[1]), tolerance, output_type="coo_matrix"
    )
    # As a maximum flow, because SciPy's maximum_bipartite_matching takes minutes on some images of
    # 256 px.
    (rows, columns), (n, m) = near.coords, near.shape
    source, sink = n + m, n + m + 1
    tails = np.concatenate([np.full(n, source), rows, n + np.arange(m)])
    heads = np.concatenate([np.arange(n), n + columns, np.full(m, sink)])
    ones = np.ones(len(tails), np.int32)
    graph = csr_array((ones, (tails, heads)), shape=(n + m + 2,) * 2)
    return int(maximum_flow(graph, source, sink).flow_value)


def thin(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask thinned to lines of one pixel with the same topology (Guo & Hall 1989, alg. A1)."""
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
    """Distance of each pixel to the mask's outside; the mask extends beyond the page."""
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)


def _deeper_than(width: float, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    # A mask's outermost pixel has depth 1, its centre half a pixel less.
    return _depth(mask) > width + 0.5


# Bit i of a pixel's code is its neighbour i, clockwise from north.
_NEIGHBOUR_BITS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)


def _removable(second_pass: bool) -> Bool[np.ndarray, "256"]:
    """Whether Guo & Hall's pass removes the central pixel of each neighbourhood."""
    n, ne, e, se, s, sw, w, nw = ((np.arange(256) >> i & 1).astype(bool) for i in range(8))
    gaps = sum(
        (~a & (b | c)).astype(int) for a, b, c in ((n, ne, e), (e, se, s), (s, sw, w), (w, nw, n))
    )
    pairs = [
        sum((a | b).astype(int) for a, b in couples)
        for couples in (((nw, n), (ne, e), (se, s), (sw, w)), ((n, ne), (e, se), (s, sw), (w, nw)))
    ]
    ends = np.minimum(*pairs)
    kept_side = (n | ne | ~se) & e if second_pass else (s | sw | ~nw) & w
    return (gaps == 1) & (ends >= 2) & (ends <= 3) & ~kept_side


_REMOVABLE = (_removable(False), _removable(True))
