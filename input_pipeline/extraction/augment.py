"""Sketch augmentation: other line widths, gaps and wobble at every reading.

The regions stay those of the clean sketch: what a line means does not change with its wobble. How
strong a change is, is drawn at random within the ranges below, of which lengths are shares of the
side of the page; they were chosen by eye on line drawings (docs/images/augmentation.png).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import grain.python as grain
import numpy as np
from jaxtyping import Float32, UInt8

# Grey pages, paper 255 and ink 0, but `Ink` the other way round.
Sketch = UInt8[np.ndarray, "s s"]
Ink = UInt8[np.ndarray, "s s"]

PAPER = 255
EDGE_MOVES = (0.002, 0.008)  # of both edges of a stroke, outwards or inwards
GAP_COUNT = (2, 6)
GAP_RADIUS = (0.02, 0.04)
WOBBLE = (0.005, 0.015)  # the farthest that a point moves
WOBBLE_CELLS = (4, 8)  # independent displacements along a side
BLOB_AXES = (0.10, 0.22)  # half axes of what an eraser wiped in one place …
STRIP_AXES = ((0.5, 0.8), (0.05, 0.09))  # … or in one stroke
FADE = (0.4, 1.0)  # share of the ink that goes where it was wiped most
SPECK_COUNT = (4, 16)
SPECK_RADIUS = (0.002, 0.006)
SPECK_INK = (30, 130)  # of 255
SMUDGE_INK = (8, 28)  # of 255, where a smudge is darkest

_FINE = 256  # strokes are widened on a page of at least this side
_COARSE = 64  # soft shapes are drawn on a page of this side
_SUBPIXEL_BITS = 4


def change_stroke_width(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """All strokes a little thicker, or a little thinner; a line too thin for that stays."""
    edges_move = rng.uniform(*EDGE_MOVES) * len(sketch)
    change = _thicker if rng.random() < 0.5 else _thinner
    fine = max(1, _FINE // len(sketch))
    ink = PAPER - sketch
    large = cv2.resize(ink, None, fx=fine, fy=fine, interpolation=cv2.INTER_CUBIC)
    # Between the whole radii, which morphology knows, the ink is blended as anti-aliasing would.
    radius, share = divmod(edges_move * fine, 1)
    less, more = (change(large, int(radius) + step) for step in (0, 1))
    changed = cv2.addWeighted(less, 1 - share, more, share, 0)
    # The difference alone is brought back to size, so that what stays, stays as sharp as it was.
    difference = cv2.subtract(changed, large, dtype=cv2.CV_16S)
    if fine > 1:
        difference = cv2.resize(difference, sketch.shape[::-1], interpolation=cv2.INTER_AREA)
    return cv2.subtract(sketch, difference, dtype=cv2.CV_8U)


def _thicker(ink: Ink, radius: int) -> Ink:
    return cv2.dilate(ink, _disc(radius))


def _thinner(ink: Ink, radius: int) -> Ink:
    core = cv2.erode(ink, _disc(radius))
    # Strokes of which no core is left would vanish: they stay as they are.
    return cv2.max(core, cv2.min(ink, PAPER - cv2.dilate(core, _disc(radius + 1))))


def _disc(radius: int) -> UInt8[np.ndarray, "d d"]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)


def open_gaps(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """Discs of paper here and there on the strokes, which leave at least half of the ink."""
    inked = _inked(sketch)
    if not len(inked):
        return sketch
    count = rng.integers(*GAP_COUNT, endpoint=True)
    discs = _discs(
        len(sketch),
        centres=inked[rng.integers(len(inked), size=count)],
        radii=rng.uniform(*GAP_RADIUS, count),
        values=np.full(count, 255),
    )
    return _fade(sketch, discs.astype(np.float32) / 255)


def wobble(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """The page bent smoothly; beyond its border is paper."""
    size = len(sketch)
    cells = rng.integers(*WOBBLE_CELLS, endpoint=True)
    amplitude = rng.uniform(*WOBBLE) * size
    moves = np.stack([_smooth(rng, cells), _smooth(rng, cells)], -1)
    moves *= amplitude / np.sqrt(np.square(moves).sum(-1).max())
    moves = cv2.resize(moves, (size, size))  # linear: no point moves farther than the farthest
    pixels = np.arange(size, dtype=np.float32)
    moves[..., 0] += pixels
    moves[..., 1] += pixels[:, None]
    return cv2.remap(
        sketch, moves, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=PAPER
    )


def erase_partly(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """Ink wiped off around one place or along one straight line, but never more than half of it."""
    inked = _inked(sketch)
    if not len(inked):
        return sketch
    x, y = inked[rng.integers(len(inked))] * (_COARSE / len(sketch))
    axes = STRIP_AXES if rng.random() < 0.5 else (BLOB_AXES, BLOB_AXES)
    long, short = (rng.uniform(*axis) * _COARSE for axis in axes)
    angle = rng.uniform(0, np.pi)
    pixels = np.arange(_COARSE, dtype=np.float32) + 0.5
    right, down = pixels - x, pixels[:, None] - y
    along = (right * np.cos(angle) + down * np.sin(angle)) / long
    across = (down * np.cos(angle) - right * np.sin(angle)) / short
    # 1 on an ellipse, which a hand does not follow; soft on both sides of it.
    distance = np.sqrt(along**2 + across**2) + 0.3 * _smooth(rng, 6)
    wiped = np.clip(1.5 - distance, 0, 1).astype(np.float32) * np.float32(rng.uniform(*FADE))
    return _fade(sketch, cv2.resize(wiped, sketch.shape[::-1]))


def add_noise(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """Specks of dust and faint grey smudges, on the paper and not on the ink."""
    smudges = np.clip(_smooth(rng, 5) - 0.2, 0, None)
    smudges *= rng.uniform(*SMUDGE_INK) / max(smudges.max(), 1e-6)
    count = rng.integers(*SPECK_COUNT, endpoint=True)
    specks = _discs(
        len(sketch),
        centres=rng.uniform(0, len(sketch), (count, 2)),
        radii=rng.uniform(*SPECK_RADIUS, count),
        values=rng.uniform(*SPECK_INK, count),
    )
    grey = cv2.max(specks, cv2.resize(smudges, sketch.shape[::-1]).astype(np.uint8))
    return cv2.min(sketch, PAPER - grey)


def _inked(sketch: Sketch) -> Float32[np.ndarray, "n 2"]:
    """Centres (x, y) of the pixels with at least half of the darkest one's ink; none on paper."""
    rows, columns = np.nonzero(sketch < (int(sketch.min()) + PAPER) / 2)
    return np.stack([columns, rows], -1).astype(np.float32) + np.float32(0.5)


def _discs(
    size: int,
    centres: Float32[np.ndarray, "n 2"],
    radii: Float32[np.ndarray, " n"],
    values: Float32[np.ndarray, " n"],
) -> UInt8[np.ndarray, "s s"]:
    """Anti-aliased discs on nothing; centres in pixels, radii as shares of `size`."""
    page = np.zeros((size, size), np.uint8)
    unit = 1 << _SUBPIXEL_BITS
    # OpenCV's whole numbers are the centres of pixels, ours their corners.
    places = np.rint((centres - 0.5) * unit).astype(int).tolist()
    widths = np.rint(radii * size * unit).astype(int).tolist()
    for place, width, value in zip(places, widths, values.tolist(), strict=True):
        cv2.circle(page, place, width, value, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)
    return page


def _smooth(rng: np.random.Generator, cells: int) -> Float32[np.ndarray, "c c"]:
    """A soft random surface about 0, `_COARSE` pixels a side, mostly within -1 … 1."""
    heights = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(heights, (_COARSE, _COARSE), interpolation=cv2.INTER_CUBIC)


def _fade(sketch: Sketch, share: Float32[np.ndarray, "s s"]) -> Sketch:
    """Takes this share of each pixel's ink, less everywhere where that is over half of it all."""
    ink = (PAPER - sketch).astype(np.float32)
    taken = ink * share
    total = taken.sum()
    if total > ink.sum() / 2:
        taken *= ink.sum() / (2 * total)
    return sketch + taken.astype(np.uint8)  # rounded down, so half of the ink stays for certain


# In the order in which a drawing would suffer them.
KINDS: dict[str, Callable[[Sketch, np.random.Generator], Sketch]] = {
    "wobble": wobble,
    "stroke_width": change_stroke_width,
    "gaps": open_gaps,
    "erasure": erase_partly,
    "noise": add_noise,
}


@dataclasses.dataclass(frozen=True)
class AugmentSketch(grain.RandomMapTransform):
    """Changes a record's sketch and nothing else; each kind of change with its own probability.

    Attributes:
      stroke_width: probability 0 … 1 of `change_stroke_width`.
      gaps: of `open_gaps`.
      wobble: of `wobble`.
      erasure: of `erase_partly`.
      noise: of `add_noise`.
    """

    stroke_width: float = 0.0
    gaps: float = 0.0
    wobble: float = 0.0
    erasure: float = 0.0
    noise: float = 0.0

    def random_map(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        drawn = zip(KINDS, rng.random(len(KINDS)), strict=True)
        kinds = [name for name, number in drawn if number < getattr(self, name)]
        if not kinds:
            return record
        sketch = record["sketch"][..., 0]
        for name in kinds:
            sketch = KINDS[name](sketch, rng)
        return {**record, "sketch": sketch[..., None]}
