"""Sketch augmentation: random line widths, gaps, distortion, erasure and noise in each epoch.

Regions stay those of the clean sketch, because augmentation does not change what lines enclose. The
strength is sampled from the ranges below, with lengths as shares of the page's side (`page_side`).
They were chosen by eye (docs/images/augmentation.png).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import grain.python as grain
import numpy as np
from jaxtyping import Float32, UInt8

from ragaf_jax.graph.blocks import page_side

# Grey pages: `Sketch` with paper 255 and ink 0, `Ink` inverted.
Sketch = UInt8[np.ndarray, "h w"]
Ink = UInt8[np.ndarray, "h w"]

PAPER = 255
EDGE_MOVES = (0.002, 0.008)  # displacement of both edges of a stroke
GAP_COUNT = (2, 6)
GAP_RADIUS = (0.02, 0.04)
WOBBLE = (0.005, 0.015)  # largest displacement
WOBBLE_CELLS = (4, 8)  # independent displacements along a side
BLOB_AXES = (0.10, 0.22)  # semi-axes of an erased blob …
STRIP_AXES = ((0.5, 0.8), (0.05, 0.09))  # … or strip
FADE = (0.4, 1.0)  # largest share of erased ink
SPECK_COUNT = (4, 16)
SPECK_RADIUS = (0.002, 0.006)
SPECK_INK = (30, 130)  # of 255
SMUDGE_INK = (8, 28)  # of 255, at the maximum

_FINE = 256  # smallest side, px, for changing stroke widths
_COARSE = 64  # side, px, for smooth shapes
_SUBPIXEL_BITS = 4


def change_stroke_width(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """Makes all strokes thicker or thinner; lines that would vanish stay."""
    side = page_side(sketch.shape)
    edges_move = rng.uniform(*EDGE_MOVES) * side
    change = _thicker if rng.random() < 0.5 else _thinner
    fine = max(1, int(_FINE // side))
    ink = PAPER - sketch
    large = cv2.resize(ink, None, fx=fine, fy=fine, interpolation=cv2.INTER_CUBIC)
    # A fractional radius is a blend of two integer radii.
    radius, share = divmod(edges_move * fine, 1)
    less, more = (change(large, int(radius) + step) for step in (0, 1))
    changed = cv2.addWeighted(less, 1 - share, more, share, 0)
    # Only the difference is resized, so unchanged pixels stay sharp.
    difference = cv2.subtract(changed, large, dtype=cv2.CV_16S)
    if fine > 1:
        difference = cv2.resize(difference, sketch.shape[::-1], interpolation=cv2.INTER_AREA)
    return cv2.subtract(sketch, difference, dtype=cv2.CV_8U)


def _thicker(ink: Ink, radius: int) -> Ink:
    return cv2.dilate(ink, _disc(radius))


def _thinner(ink: Ink, radius: int) -> Ink:
    core = cv2.erode(ink, _disc(radius))
    # Strokes without a remaining core would vanish, so they stay.
    return cv2.max(core, cv2.min(ink, PAPER - cv2.dilate(core, _disc(radius + 1))))


def _disc(radius: int) -> UInt8[np.ndarray, "d d"]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)


def open_gaps(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """Erases random discs on the strokes; at least half of the ink stays."""
    inked = _inked(sketch)
    if not len(inked):
        return sketch
    count = rng.integers(*GAP_COUNT, endpoint=True)
    discs = _discs(
        sketch.shape,
        centres=inked[rng.integers(len(inked), size=count)],
        radii=rng.uniform(*GAP_RADIUS, count),
        values=np.full(count, 255),
    )
    return _fade(sketch, discs.astype(np.float32) / 255)


def wobble(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """Distorts the page smoothly; outside the border is paper."""
    height, width = sketch.shape
    cells = rng.integers(*WOBBLE_CELLS, endpoint=True)
    amplitude = rng.uniform(*WOBBLE) * page_side(sketch.shape)
    moves = np.stack([_smooth(rng, cells), _smooth(rng, cells)], -1)
    moves *= amplitude / np.sqrt(np.square(moves).sum(-1).max())
    moves = cv2.resize(moves, (width, height))  # linear, so the maximum stays
    moves[..., 0] += np.arange(width, dtype=np.float32)
    moves[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(
        sketch, moves, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=PAPER
    )


def erase_partly(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """Erases ink in one blob or along one strip; at least half of the ink stays."""
    inked = _inked(sketch)
    if not len(inked):
        return sketch
    (height, width), side = sketch.shape, page_side(sketch.shape)
    x, y = inked[rng.integers(len(inked))]
    axes = STRIP_AXES if rng.random() < 0.5 else (BLOB_AXES, BLOB_AXES)
    long, short = (rng.uniform(*axis) * _COARSE for axis in axes)
    angle = rng.uniform(0, np.pi)
    pixels = np.arange(_COARSE, dtype=np.float32) + 0.5
    # The coarse page is a square, which is stretched to the sketch.
    right = (pixels - x * (_COARSE / width)) * (width / side)
    down = (pixels[:, None] - y * (_COARSE / height)) * (height / side)
    along = (right * np.cos(angle) + down * np.sin(angle)) / long
    across = (down * np.cos(angle) - right * np.sin(angle)) / short
    # An ellipse with an irregular, soft border.
    distance = np.sqrt(along**2 + across**2) + 0.3 * _smooth(rng, 6)
    erased = np.clip(1.5 - distance, 0, 1).astype(np.float32) * np.float32(rng.uniform(*FADE))
    return _fade(sketch, cv2.resize(erased, sketch.shape[::-1]))


def add_noise(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """Adds specks and faint grey smudges to the paper."""
    smudges = np.clip(_smooth(rng, 5) - 0.2, 0, None)
    smudges *= rng.uniform(*SMUDGE_INK) / max(smudges.max(), 1e-6)
    count = rng.integers(*SPECK_COUNT, endpoint=True)
    specks = _discs(
        sketch.shape,
        centres=rng.uniform(size=(count, 2)) * sketch.shape[::-1],
        radii=rng.uniform(*SPECK_RADIUS, count),
        values=rng.uniform(*SPECK_INK, count),
    )
    grey = cv2.max(specks, cv2.resize(smudges, sketch.shape[::-1]).astype(np.uint8))
    return cv2.min(sketch, PAPER - grey)


def _inked(sketch: Sketch) -> Float32[np.ndarray, "n 2"]:
    """Centres (x, y) of pixels with at least half of the darkest pixel's ink; none if blank."""
    rows, columns = np.nonzero(sketch < (int(sketch.min()) + PAPER) / 2)
    return np.stack([columns, rows], -1).astype(np.float32) + np.float32(0.5)


def _discs(
    size: tuple[int, ...],
    centres: Float32[np.ndarray, "n 2"],
    radii: Float32[np.ndarray, " n"],
    values: Float32[np.ndarray, " n"],
) -> UInt8[np.ndarray, "h w"]:
    """Antialiased discs on a page of zeros; centres in pixels, radii as shares of its side."""
    page = np.zeros(size, np.uint8)
    unit = 1 << _SUBPIXEL_BITS
    # Integer coordinates are pixel centres in OpenCV, and corners here.
    points = np.rint((centres - 0.5) * unit).astype(int).tolist()
    widths = np.rint(radii * page_side(size) * unit).astype(int).tolist()
    for point, width, value in zip(points, widths, values.tolist(), strict=True):
        cv2.circle(page, point, width, value, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)
    return page


def _smooth(rng: np.random.Generator, cells: int) -> Float32[np.ndarray, "c c"]:
    """A smooth random surface around 0, `_COARSE` pixels per side, mostly in -1 … 1."""
    heights = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(heights, (_COARSE, _COARSE), interpolation=cv2.INTER_CUBIC)


def _fade(sketch: Sketch, share: Float32[np.ndarray, "h w"]) -> Sketch:
    """Removes this share of each pixel's ink, scaled down to at most half of all ink."""
    ink = (PAPER - sketch).astype(np.float32)
    taken = ink * share
    total = taken.sum()
    if total > ink.sum() / 2:
        taken *= ink.sum() / (2 * total)
    return sketch + taken.astype(np.uint8)  # rounded down, so at least half of the ink stays


# In the order of application.
KINDS: dict[str, Callable[[Sketch, np.random.Generator], Sketch]] = {
    "wobble": wobble,
    "stroke_width": change_stroke_width,
    "gaps": open_gaps,
    "erasure": erase_partly,
    "noise": add_noise,
}


@dataclasses.dataclass(frozen=True)
class AugmentSketch(grain.RandomMapTransform):
    """Augments a record's sketch; each field is the probability, 0 … 1, of its kind in `KINDS`."""

    stroke_width: float = 0.0
    gaps: float = 0.0
    wobble: float = 0.0
    erasure: float = 0.0
    noise: float = 0.0

    def random_map(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        numbers = zip(KINDS, rng.random(len(KINDS)), strict=True)
        kinds = [name for name, number in numbers if number < getattr(self, name)]
        if not kinds:
            return record
        sketch = record["sketch"][..., 0]
        for name in kinds:
            sketch = KINDS[name](sketch, rng)
        return {**record, "sketch": sketch[..., None]}
