"""Region colour accuracy, and the difference from the requested colour."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from ragaf_jax.evaluation.metrics.delta_e import delta_e_2000
from ragaf_jax.palette import PALETTE_LAB, nearest, srgb_to_lab

MIN_PIXELS = 8
"""A part with fewer pixels beside the ink is too small to have a colour of its own."""

PAPER = 200
"""From this grey on a pixel of a sketch is paper; below, ink is on it or at its edge."""


class RegionColors(NamedTuple):
    """Colours of the judged parts, in the order of their ids; palette indices.

    part: the part's id in the label map (1, 2, …).
    requested: the colour that the caption names.
    obtained: the colour that the picture shows.
    shown: the same not rounded to the palette, sRGB in 0 … 255.
    """

    part: Int[np.ndarray, "n"]
    requested: Int[np.ndarray, "n"]
    obtained: Int[np.ndarray, "n"]
    shown: Float[np.ndarray, "n 3"]


def region_colors(
    image: UInt8[np.ndarray, "h w 3"],
    true_labels: Integer[np.ndarray, "h w"],
    true_colors: Integer[np.ndarray, "parts"],
    ink: Bool[np.ndarray, "h w"],
) -> RegionColors:
    """The colour asked for and the palette colour nearest to what each part shows.

    What a part shows is the median of each sRGB channel over its pixels that are not ink: robust to
    antialiased edges and to a minority of misplaced paint. Nearest is by distance in CIELAB.

    image: sRGB. true_labels: 0 for no part, else the part's id. true_colors: entry k − 1 is the
      colour asked of part k, or −1 where the text says nothing. ink: true where lines are drawn.

    Left out: parts asked nothing, and parts with fewer than `MIN_PIXELS` pixels beside the ink.
    """
    parts, medians = [], []
    for part in np.flatnonzero(true_colors >= 0) + 1:
        paint = image[(true_labels == part) & ~ink]
        if len(paint) >= MIN_PIXELS:
            parts.append(part)
            medians.append(np.median(paint, axis=0))
    judged = np.array(parts, np.int64)
    shown = np.array(medians, np.float64).reshape(-1, 3)
    return RegionColors(judged, true_colors[judged - 1].astype(np.int64), nearest(shown), shown)


def color_differences(colors: RegionColors) -> Float[np.ndarray, "n"]:
    """ΔE₀₀ of what each judged part shows from the palette colour asked of it, ≥ 0.

    Unlike the accuracy it tells a part that is nearly right from one that is wholly wrong. The
    palette's nearest colours, blue and purple, are 20 apart, and half of its pairs over 40.
    """
    return delta_e_2000(srgb_to_lab(colors.shown), PALETTE_LAB[colors.requested])
