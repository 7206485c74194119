"""Renders the strokes of Quick, Draw! as line drawings."""

import json
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_SIDE = 256  # of the page, px
_MARGIN = 16  # px; strokes have their proportions within it
_WIDTH = 3  # of lines, px
_SHIFT = 4  # bits of fractions of a pixel in OpenCV's coordinates


def rendered(line: bytes) -> bytes:
    """A PNG file of the drawing in a line of ndjson: ink 0 on paper 255.

    Raises:
      ValueError: it is not a drawing; the message continues "the line".
    """
    try:
        drawing = json.loads(line)["drawing"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError("is not JSON with a drawing") from error
    return cv2.imencode(".png", _page(_strokes(drawing)))[1].tobytes()


def _strokes(drawing: Any) -> list[Float[np.ndarray, "n 2"]]:
    """The points (x, y) of each stroke; raw drawings also have times, which are ignored."""
    try:
        strokes = [np.array(stroke[:2], np.float64).T for stroke in drawing]
    except (ValueError, TypeError, OverflowError, KeyError) as error:
        raise ValueError("has strokes that are not lists of numbers x and y") from error
    strokes = [stroke for stroke in strokes if stroke.size]
    if not strokes:
        raise ValueError("has no strokes")
    if any(stroke.ndim != 2 or stroke.shape[1] != 2 for stroke in strokes):
        raise ValueError("has strokes without as many x as y")
    # Larger numbers would overflow; canvases have some thousand pixels.
    if not all((np.abs(stroke) < 1e6).all() for stroke in strokes):
        raise ValueError("has strokes with numbers that are no coordinates")
    return strokes


def _page(strokes: list[Float[np.ndarray, "n 2"]]) -> UInt8[np.ndarray, "h w"]:
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    scale = (_SIDE - 2 * _MARGIN) / max((high - low).max(), 1e-3)
    page = np.full((_SIDE, _SIDE), 255, np.uint8)
    for stroke in strokes:
        placed = (stroke - (low + high) / 2) * scale + (_SIDE - 1) / 2
        if len(placed) == 1:  # OpenCV renders no line of one point
            placed = np.repeat(placed, 2, axis=0)
        fixed = np.round(placed * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(page, [fixed[:, None]], False, 0, _WIDTH, cv2.LINE_AA, _SHIFT)
    return page
