"""An image enlarged for viewing, with the lines of the sketch over it."""

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
    """Refuses a side that no upscaled image can have.

    Raises:
      UserError: no whole number from 0, which stands for none, to `LARGEST` px.
    """
    if not (isinstance(side, numbers.Integral) and 0 <= int(side) <= LARGEST):
        raise UserError(f"upscale is {side}; choose the side in pixels, 1 to {LARGEST}, or 0.")


def upscaled(
    image: UInt8[np.ndarray, "s s 3"], lines: UInt8[np.ndarray, "h w"], side: int
) -> UInt8[np.ndarray, "side side 3"]:
    """The image resampled smoothly (Lanczos), times the brightness of the sketch's lines.

    Args:
      image: of a model.
      lines: of the sketch that the image was made of, as in `sketch_input.SketchInput`.
      side: of the result, px.
    """
    smooth = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
    ink = on_page(lines, side)[..., None] / 255
    return np.rint(np.asarray(smooth) * ink).astype(np.uint8)
