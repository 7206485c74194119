"""Upscales an image for viewing and overlays the lines of its sketch."""

import numbers
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ragaf_jax.errors import UserError
from ragaf_jax.framing import place_inside
from ragaf_jax.sketch_input import on_page

SIDE = 512  # px, by default
LARGEST = 4096  # px


def check_upscale(side: Any) -> None:
    """Refuses sides other than 0 (no upscaled image) to `LARGEST` px.

    Raises:
      UserError: another value.
    """
    if not (isinstance(side, numbers.Integral) and 0 <= int(side) <= LARGEST):
        raise UserError(f"upscale is {side}; choose the side in pixels, 1 to {LARGEST}, or 0.")


def upscaled(
    image: UInt8[np.ndarray, "h w 3"], lines: UInt8[np.ndarray, "rows columns"], side: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The image, resampled by a Lanczos filter, times the brightness of the sketch's lines.

    lines: of its sketch, as in `sketch_input.SketchInput`. side: the longer one of the result, px.
    """
    height, width, _, _ = place_inside(image.shape[0], image.shape[1], (side, side))
    smooth = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    ink = on_page(lines, (height, width))[..., None] / 255
    return np.rint(np.asarray(smooth) * ink).astype(np.uint8)
