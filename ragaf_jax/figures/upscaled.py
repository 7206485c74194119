"""Upscales an image for viewing and overlays the lines of its sketch."""

import numbers
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ragaf_jax.errors import UserError
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
    image: UInt8[np.ndarray, "s s 3"], lines: UInt8[np.ndarray, "h w"], side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """The image, resampled by a Lanczos filter, times the brightness of the sketch's lines.

    lines: of its sketch, as in `sketch_input.SketchInput`. side: of the result, px.
    """
    smooth = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
    ink = on_page(lines, side)[..., None] / 255
    return np.rint(np.asarray(smooth) * ink).astype(np.uint8)
