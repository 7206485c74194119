"""Colour leakage: parts that have the colour requested for another part."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from ragaf_jax.batch import Images, Truth
from ragaf_jax.evaluation.metrics.colors import PAPER, color_differences, region_colors
from ragaf_jax.evaluation.metrics.edges import stroke_width
from ragaf_jax.palette import PALETTE


class Leakage(NamedTuple):
    """Colours of n parts and whether a wrong colour was requested for another part.

    A colour leaks from a part that touches this one (near) or from any other (far); a colour
    requested for both counts as near. Chance is the leak rate if wrong colours were uniform over
    the ten others. So it depends on which colours are wrong, not on how many.

    drawing: index of the example, the groups of `bootstrap_interval`.
    part: the part's id in its label map.
    requested, obtained: palette indices, see `region_colors`.
    difference: ΔE2000 between both, see `color_differences`.
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
        """Whether the part has the requested colour."""
        return self.requested == self.obtained

    @property
    def right_chance(self) -> Float[np.ndarray, "n"]:
        """The accuracy of a random colour."""
        return np.full(len(self.part), 1 / len(PALETTE))

    @property
    def leaked(self) -> Bool[np.ndarray, "n"]:
        """Whether the part has the colour of another part."""
        return self.near | self.far


def leakage(images: Images, truth: Truth) -> Leakage:
    """The colours of all parts whose requested colour is known."""
    rows = []
    for i, image in enumerate(images):
        labels, true_colors = truth.true_labels[i], truth.true_colors[i]
        ink = truth.sketch_u8[i] < PAPER
        colors = region_colors(image, labels, true_colors, ink)
        touches = touching(labels, ink, len(true_colors))
        wrong_colors = len(PALETTE) - 1
        measured = zip(*colors[:3], color_differences(colors), strict=True)
        for part, requested, obtained, difference in measured:
            known = true_colors >= 0
            near = set(true_colors[known & touches[part - 1]].tolist()) - {requested}
            far = set(true_colors[known].tolist()) - {requested} - near
            wrong = float(requested != obtained) / wrong_colors
            leaks = obtained in near, obtained in far
            chances = wrong * len(near), wrong * len(far)
            rows.append((i, part, requested, obtained, difference, *leaks, *chances))
    kinds = (int, int, int, int, float, bool, bool, float, float)
    columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
    return Leakage(*(np.array(x, kind) for x, kind in zip(columns, kinds, strict=True)))


def touching(
    true_labels: Integer[np.ndarray, "h w"], ink: Bool[np.ndarray, "h w"], parts: int
) -> Bool[np.ndarray, "{parts} {parts}"]:
    """Which parts (id − 1) are separated by at most a stroke or one antialiased pixel.

    true_labels: the part's id; 0 for no part and under ink.
    """
    # Each part grows into adjacent strokes by half the stroke width.
    distance, source = cv2.distanceTransformWithLabels(
        np.uint8(true_labels == 0), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    part_of_source = np.zeros(source.max() + 1, np.int64)
    part_of_source[source[true_labels > 0]] = true_labels[true_labels > 0]
    reached = ink & (distance <= stroke_width(ink) / 2 + 1)
    grown = np.where(reached, part_of_source[source], true_labels)

    touches = np.zeros((parts + 1, parts + 1), bool)
    for labels in (grown, grown.T):
        for step in (1, 2):  # 2 skips a pixel that antialiasing shares between two parts
            touches[labels[step:], labels[:-step]] = True
    touches = (touches | touches.T)[1:, 1:]
    np.fill_diagonal(touches, False)
    return touches


def color_table(
    requested: Int[np.ndarray, "n"], obtained: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "11 11"]:
    """The confusion matrix of colours: requested in rows, obtained in columns, palette indices."""
    count = len(PALETTE)
    return np.bincount(requested * count + obtained, minlength=count**2).reshape(count, count)
