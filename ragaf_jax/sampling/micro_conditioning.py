"""Settings of SDXL's micro-conditioning: original size, crop and target size of an image.

Its UNet was trained with these sizes of each image (Podell et al. 2023, "SDXL", §2.2). In sampling,
they select how images of such sizes look; they do not change the size of the result.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ragaf_jax.errors import UserError
from ragaf_jax.framing import Size, parse_size

# The fields of `Options`: texts, width first, and the crop as "TOP,LEFT".
SETTINGS = "original_size", "crop_top_left", "target_size"
CROP = "crop_top_left"

LARGEST = 16384  # px, more than the sides of training's images
_CROP = re.compile(r"\s*([0-9]{1,6})\s*,\s*([0-9]{1,6})\s*")


def checked_sizes(fields: Mapping[str, Any]) -> dict[str, str | None]:
    """`SETTINGS` among some fields of `Options` in their usual form; None: as the image.

    Empty texts are None, which overrides recorded values.

    Raises:
      UserError: another form, or a number out of its range.
    """
    found: dict[str, str | None] = {}
    for name in SETTINGS:
        given = fields.get(name)
        if given is None or (isinstance(given, str) and not given.strip()):
            found[name] = None
            continue
        pair = _parsed(name, given)
        least = 0 if name == CROP else 1
        if pair is None or not all(least <= x <= LARGEST for x in pair):
            form = "top,left" if name == CROP else "width x height"
            example = "'0,64'" if name == CROP else "'1216x832'"
            raise UserError(
                f"{name} is {given!r}; write {form} in pixels, each {least} to {LARGEST}, such as "
                f"{example}."
            )
        found[name] = ",".join(map(str, pair)) if name == CROP else f"{pair[1]}x{pair[0]}"
    return found


def refuse_sizes(fields: Mapping[str, Any]) -> None:
    """Refuses given `SETTINGS`, for a UNet that does not read them."""
    for name in SETTINGS:
        if fields.get(name) is not None:
            raise UserError(
                f"{name} is {fields[name]!r} and this model's UNet does not read it, as that of "
                "Stable Diffusion XL does; leave it out."
            )


def size_inputs(fields: Mapping[str, Any], size: Size) -> Float[np.ndarray, " 6"]:
    """The sizes of `AddedConditions` for images of (height, width) = `size`.

    fields: checked `SETTINGS`; by default the image is not cropped, and has its original size.
    """
    default = {"original_size": size, CROP: (0, 0), "target_size": size}
    pairs = [_parsed(name, fields[name]) if fields[name] else default[name] for name in SETTINGS]
    return np.array(pairs, np.float32).reshape(6)


def _parsed(name: str, text: Any) -> tuple[int, int] | None:
    """Height and width, or top and left, px; None for another form."""
    if not isinstance(text, str):
        return None
    if name != CROP:
        return parse_size(text)
    match = _CROP.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]))
