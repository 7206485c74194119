"""Sketches with known regions: OpenMoji's lines and the fills behind them."""

import copy
from collections.abc import Sequence
from xml.etree import ElementTree

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from input_pipeline.datasets.openmoji_art import Drawing, Paint, render_lines
from input_pipeline.datasets.scanning.splits import stable_hash

THIN = 0.35  # × stroke width
BREAKS, BREAK_RADII = 8, (2, 4)  # gaps per sketch, and their radii in px at 256 px


def sample_drawings(drawings: Sequence[Drawing], count: int) -> list[Drawing]:
    """`count` of the drawings (0: all) in an order that depends only on their keys."""
    mixed = sorted(drawings, key=lambda drawing: stable_hash(f"regions/{drawing.key}"))
    return mixed[: count or None]


def draw_sketches(
    root: ElementTree.Element, key: str, size: int
) -> dict[str, UInt8[np.ndarray, "s s"]]:
    """The sketch unchanged, with thin strokes, and with gaps in thin strokes."""
    thin = render_lines(thin_strokes(root), size)
    rng = np.random.default_rng(stable_hash(f"gaps/{key}"))
    return {"clean": render_lines(root, size), "thin": thin, "gaps": break_strokes(thin, rng)}


def thin_strokes(root: ElementTree.Element) -> ElementTree.Element:
    """The drawing with strokes of line groups scaled to `THIN` times their width.

    OpenMoji has widths as attributes, never in `style`; SVG's default is 1.
    """
    thinned = copy.deepcopy(root)
    for group in thinned:
        if group.get("id", "").startswith("line"):
            group.set("stroke-width", group.get("stroke-width", "1"))
            for element in group.iter():
                if "stroke-width" in element.attrib:
                    element.set("stroke-width", str(THIN * float(element.attrib["stroke-width"])))
    return thinned


def break_strokes(
    sketch: UInt8[np.ndarray, "s s"], rng: np.random.Generator
) -> UInt8[np.ndarray, "s s"]:
    """The sketch with `BREAKS` round holes at random places of its ink."""
    broken, scale = sketch.copy(), len(sketch) / 256
    ink = np.argwhere(sketch < 128)
    for _ in range(BREAKS):
        y, x = ink[int(rng.random() * len(ink))].tolist()
        cv2.circle(broken, (x, y), round(scale * rng.uniform(*BREAK_RADII)), 255, -1)
    return broken


def true_regions(paint: Paint) -> Int32[np.ndarray, "s s"]:
    """8-connected components of one colour, numbered from 0; unpainted paper is a colour."""
    packed = paint.color.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    packed[~paint.painted] = -1
    regions = np.zeros(packed.shape, np.int32)
    count = 0
    for color in np.unique(packed):
        found, parts = cv2.connectedComponents(np.uint8(packed == color), connectivity=8)
        regions = np.where(parts > 0, parts + (count - 1), regions)
        count += found - 1
    return regions
