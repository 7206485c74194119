"""CIEDE2000, the perceptual difference of two colours."""

import numpy as np
from jaxtyping import Float


def delta_e_2000(
    first: Float[np.ndarray, "n 3"], second: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n"]:
    """ΔE₀₀ of pairs of CIELAB colours, ≥ 0; about 1 is just noticeable, black to white is 100.

    Sharma, Wu & Dalal, "The CIEDE2000 Color-Difference Formula: Implementation Notes, Supplementary
    Test Data, and Mathematical Observations" (2005), eq. 2 to 22, with k_L = k_C = k_H = 1.
    """
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(lab, -1, 0) for lab in (first, second))

    # Eq. 2 to 7: a* is stretched near grey before chroma and hue are computed.
    stretch = 1.5 - 0.5 * _saturating((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)
    a1, a2 = stretch * a1, stretch * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.rad2deg(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))

    # Eq. 8 to 14: differences and means over the shorter arc; greys have no hue. The 1e-9 keeps
    # rounding from making half a circle the longer arc.
    colored, turn = c1 * c2 > 0, h2 - h1
    apart = np.abs(turn) > 180 + 1e-9
    turn = np.where(colored, np.where(apart, turn - 360 * np.sign(turn), turn), 0)
    hue = np.where(apart, np.where(h1 + h2 < 360, h1 + h2 + 360, h1 + h2 - 360), h1 + h2) / 2
    hue = np.where(colored, hue, h1 + h2)
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    dl, dc = l2 - l1, c2 - c1
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.deg2rad(turn) / 2)

    # Eq. 15 to 22: differences are weighted by the eye's sensitivity.
    t = (
        1
        - 0.17 * _cos(hue - 30)
        + 0.24 * _cos(2 * hue)
        + 0.32 * _cos(3 * hue + 6)
        - 0.20 * _cos(4 * hue - 63)
    )
    offset = (lightness - 50) ** 2
    s_l = 1 + 0.015 * offset / np.sqrt(20 + offset)
    s_c = 1 + 0.045 * chroma
    s_h = 1 + 0.015 * chroma * t
    rotation = np.sin(np.deg2rad(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    blue = -2 * _saturating(chroma) * rotation
    light, chromatic, hued = dl / s_l, dc / s_c, dh / s_h
    squared = light**2 + chromatic**2 + hued**2 + blue * chromatic * hued
    return np.sqrt(np.maximum(squared, 0))  # rounding may give −1e-16 for equal colours


def _saturating(chroma: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.sqrt(chroma**7 / (chroma**7 + 25.0**7))


def _cos(degrees: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.cos(np.deg2rad(degrees))
