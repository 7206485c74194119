"""Region colour accuracy, and the difference from the requested colour."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from ragaf_jax.evaluation.metrics.delta_e import delta_e_2000
from ragaf_jax.palette import PALETTE_LAB, nearest, srgb_to_lab

MIN_PIXELS = 8
"""A part with fewer pixels, ink excluded, is too small to measure its colour."""

PAPER = 200
"""Grey levels of a sketch from here on are paper; lower ones are ink or its antialiased edge."""


class RegionColors(NamedTuple):
    """Colours of the measured parts, in the order of their ids; palette indices.

    part: the part's id in the label map (1, 2, …).
    requested: the caption's colour.
    obtained: the image's colour.
    shown: the image's colour before rounding to the palette, sRGB in 0 … 255.
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
    """The requested colour of each part and the palette colour nearest to the image's.

    A part's colour is the median of each sRGB channel over its pixels that are not ink. It is
    robust to antialiased edges and a minority of wrong pixels. Distances are in CIELAB.

    image: sRGB. true_labels: the part's id, 0 for none. true_colors: entry k − 1 is the colour
      requested for part k, −1 for none. ink: mask of the sketch's lines.

    Parts without a requested colour or with fewer than `MIN_PIXELS` pixels are left out.
    """
    parts, medians = [], []
    for part in np.flatnonzero(true_colors >= 0) + 1:
        paint = image[(true_labels == part) & ~ink]
        if len(paint) >= MIN_PIXELS:
            parts.append(part)
            medians.append(np.median(paint, axis=0))
    part_ids = np.array(parts, np.int64)
    shown = np.array(medians, np.float64).reshape(-1, 3)
    return RegionColors(part_ids, true_colors[part_ids - 1].astype(np.int64), nearest(shown), shown)


def color_differences(colors: RegionColors) -> Float[np.ndarray, "n"]:
    """ΔE₀₀ between the obtained and the requested colour of each measured part, ≥ 0.

    Unlike accuracy, it measures the size of errors. The palette's closest colours, blue and purple,
    are 20 apart; half of its pairs are over 40 apart.
    """
    return delta_e_2000(srgb_to_lab(colors.shown), PALETTE_LAB[colors.requested])
