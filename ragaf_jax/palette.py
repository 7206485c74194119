"""The eleven basic colours, by name, in sRGB and in CIELAB.

The names are the basic colour terms of English (Berlin & Kay, "Basic Color Terms", 1969). Their
values here are chosen far apart, so that the nearest colour is unambiguous.
"""

import numpy as np
from jaxtyping import Float, Int, Num

_COLORS = {
    "black": (20, 20, 20),
    "white": (250, 250, 250),
    "grey": (140, 140, 140),
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 220, 50),
    "green": (50, 160, 70),
    "blue": (45, 95, 205),
    "purple": (130, 60, 170),
    "pink": (250, 160, 200),
    "brown": (125, 75, 40),
}
PALETTE: tuple[str, ...] = tuple(_COLORS)
PALETTE_RGB = np.array(list(_COLORS.values()), np.uint8)

# IEC 61966-2-1: linear sRGB to CIE XYZ, and the D65 white that it is relative to.
_RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE_D65 = np.array([0.95047, 1.0, 1.08883])


def srgb_to_lab(rgb: Num[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """sRGB in 0 … 255 to CIELAB (CIE 15:2004, D65, 2°): L* in 0 … 100, a* and b* about ±128."""
    encoded = np.asarray(rgb, np.float64) / 255.0
    linear = np.where(
        encoded <= 0.04045, encoded / 12.92, ((np.maximum(encoded, 0) + 0.055) / 1.055) ** 2.4
    )
    xyz = linear @ _RGB_TO_XYZ.T / _WHITE_D65
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


PALETTE_LAB = srgb_to_lab(PALETTE_RGB)


def nearest(rgb: Num[np.ndarray, "*batch 3"]) -> Int[np.ndarray, "*batch"]:
    """Index of the palette colour at the least CIE76 distance from each sRGB colour (0 … 255)."""
    lab = srgb_to_lab(rgb)
    return np.linalg.norm(lab[..., None, :] - PALETTE_LAB, axis=-1).argmin(-1)
