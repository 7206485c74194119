"""Colour leakage: parts that have the colour requested for another part."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from ragaf_jax.batch import Truth
from ragaf_jax.evaluation.metrics.colors import PAPER, color_differences, region_colors
from ragaf_jax.evaluation.metrics.edges import stroke_width
from ragaf_jax.palette import PALETTE


class Leakage(NamedTuple):
    """Where the colours of n judged parts of some drawings come from.

    What leaks comes from a part that touches this one (near) or from another (far); a colour that
    is asked of both counts as near. Chance is the rate at which colours would leak if every part
    with a wrong colour had any of the ten wrong ones alike: it asks where the errors go, not how
    many there are, and whoever paints without reading is at chance.

    drawing: index of the drawing, the groups of `bootstrap_interval`.
    part: the part's id in its drawing's label map.
    requested, obtained: palette indices, as `region_colors` tells.
    difference: ΔE2000 of the part's colour to the one asked, as `color_differences` tells.
    near, far: whether the colour leaked.
    near_chance, far_chance: in 0 … 1; 0 where the colour is right.
    """

    drawing: Int[np.ndarray, "n"]
    part: Int[np.ndarray, "n"]
    requested: Int[np.ndarray, "n"]
    obtained: Int[np.ndarray, "n"]
    difference: Float[np.ndarray, "n"]
    near: Bool[np.ndarray, "n"]
    far: Bool[np.ndarray, "n"]
    near_chance: Float[np.ndarray, "n"]
    far_chance: Float[np.ndarray, "n"]

    @property
    def right(self) -> Bool[np.ndarray, "n"]:
        """Whether the part has the colour asked."""
        return self.requested == self.obtained

    @property
    def right_chance(self) -> Float[np.ndarray, "n"]:
        """What a blind guess would have."""
        return np.full(len(self.part), 1 / len(PALETTE))

    @property
    def leaked(self) -> Bool[np.ndarray, "n"]:
        """Whether the part has a colour that is not its own but another part's."""
        return self.near | self.far


def leakage(pictures: UInt8[np.ndarray, "b s s 3"], truth: Truth) -> Leakage:
    """Judges the pictures of drawings in which it is known what was asked of which part."""
    rows = []
    for i, picture in enumerate(pictures):
        labels, asked = truth.true_labels[i], truth.true_colors[i]
        ink = truth.sketch_u8[i] < PAPER
        colors = region_colors(picture, labels, asked, ink)
        touches = touching(labels, ink, len(asked))
        wrong_colors = len(PALETTE) - 1
        judged = zip(*colors[:3], color_differences(colors), strict=True)
        for part, requested, obtained, difference in judged:
            others = asked >= 0
            beside = set(asked[others & touches[part - 1]].tolist()) - {requested}
            apart = set(asked[others].tolist()) - {requested} - beside
            wrong = float(requested != obtained) / wrong_colors
            leaks = obtained in beside, obtained in apart
            chances = wrong * len(beside), wrong * len(apart)
            rows.append((i, part, requested, obtained, difference, *leaks, *chances))
    kinds = (int, int, int, int, float, bool, bool, float, float)
    columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
    return Leakage(*(np.array(x, kind) for x, kind in zip(columns, kinds, strict=True)))


def touching(
    true_labels: Integer[np.ndarray, "h w"], ink: Bool[np.ndarray, "h w"], parts: int
) -> Bool[np.ndarray, "{parts} {parts}"]:
    """Which parts (id − 1) have no more between them than a stroke, or one mixed pixel.

    true_labels: 0 for no part and under ink, else the part's id.
    """
    # Every stroke is shared out to the parts beside it, to half its width from either side.
    distance, source = cv2.distanceTransformWithLabels(
        np.uint8(true_labels == 0), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    part_of_source = np.zeros(source.max() + 1, np.int64)
    part_of_source[source[true_labels > 0]] = true_labels[true_labels > 0]
    reached = ink & (distance <= stroke_width(ink) / 2 + 1)
    grown = np.where(reached, part_of_source[source], true_labels)

    met = np.zeros((parts + 1, parts + 1), bool)
    for across in (grown, grown.T):
        for step in (1, 2):  # 2: over a pixel that is half one part's and half the other's
            met[across[step:], across[:-step]] = True
    met = (met | met.T)[1:, 1:]
    np.fill_diagonal(met, False)
    return met


def color_table(
    requested: Int[np.ndarray, "n"], obtained: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "11 11"]:
    """How many parts of each colour asked (rows) have each colour (columns), by palette index.

    Of the parts that `Leakage.leaked` marks alone it is the table of what leaked into what.
    """
    count = len(PALETTE)
    return np.bincount(requested * count + obtained, minlength=count**2).reshape(count, count)
