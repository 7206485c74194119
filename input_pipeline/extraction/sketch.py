"""Extracts sketches from photographs by one of three methods: paper 255, ink 0.

`canny` detects all contrasts, `xdog` shades their dark side, `hed` detects object contours. Only
`hed` imports JAX, and only when called, because preparation runs one process per core. Filter sizes
are proportional to the root of the photo's size.
"""

import math

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16

from ragaf_jax.errors import UserError

METHODS = ("canny", "xdog", "hed")

REFERENCE_SIZE = 256  # longer side, px, for which the lengths below are given

# Canny.
CANNY_SIGMA = 1.4
CANNY_RATIO = 0.4  # low over high; Canny (1986) recommends a third to a half
NOISE_FACTOR = 3  # noise exceeds three times its median gradient in one of 400 pixels
FAINTEST = 12  # a step of about five grey levels; smaller ones may be quantised slopes

SHORTEST = 12  # px; XDoG and HED remove smaller components

# XDoG; ε < 0 leaves flat areas white however dark they are.
SIGMA, K, P, EPSILON, PHI = 0.7, 1.6, 60.0, -0.5, 2.0

# HED.
LIKELY, POSSIBLE = 0.4, 0.15  # thresholds of the hysteresis, high and low
MARGIN = 16  # px of padding, because the network detects the photo's border as an edge


def photo_to_sketch(photo: UInt8[np.ndarray, "h w 3"], method: str) -> UInt8[np.ndarray, "h w"]:
    """A sketch of the RGB photo, paper 255 and ink 0, with lines of 1 to 2 pixels.

    Raises:
        UserError: unknown method, a photo without 8 bits and three channels, or HED is not
            installed.
    """
    if method not in METHODS:
        raise UserError(f"sketch method is {method!r}; choose one of {', '.join(METHODS)}.")
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3 or photo.size == 0:
        raise UserError(
            f"the photo has shape {photo.shape} and type {photo.dtype}, expected an RGB image of "
            "shape (height, width, 3) and type uint8; convert it first."
        )
    return {"canny": canny, "xdog": xdog, "hed": hed}[method](photo)


def thicken(sketch: UInt8[np.ndarray, "h w"], width: int) -> UInt8[np.ndarray, "h w"]:
    """Widens lines of 1 pixel to `width` pixels by the minimum over a disc.

    For models of a lower resolution, where thin lines would fade. Even widths shift lines by half a
    pixel.
    """
    if width < 1:
        raise UserError(f"line width is {width}, expected at least 1 pixel.")
    return cv2.erode(sketch, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))


def canny(
    photo: UInt8[np.ndarray, "h w 3"], low: float | None = None, high: float | None = None
) -> UInt8[np.ndarray, "h w"]:
    """255 − OpenCV's Canny (1986) of `smooth_grey(photo)`; lines of 1 pixel.

    low, high: thresholds on the gradient |∂x| + |∂y| of 3×3 Sobel filters. The default `high` is
      the maximum of Otsu's threshold (1979) on the gradient, three times the gradient's median
      (against noise and texture), and `FAINTEST`; `low` is 0.4 of `high`.
    """
    grey = smooth_grey(photo)
    if high is None:
        steepness = _gradient(grey)
        otsu, _ = cv2.threshold(steepness, 0, 65535, cv2.THRESH_OTSU)
        high = max(otsu, NOISE_FACTOR * float(np.median(steepness)), FAINTEST, low or 0)
    if low is None:
        low = CANNY_RATIO * high
    return 255 - cv2.Canny(grey, low, high)


def smooth_grey(photo: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Canny's input: the grey photo blurred with σ = 1.4 pixels at the reference size."""
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    return cv2.GaussianBlur(grey, (0, 0), CANNY_SIGMA * _scale(photo))


def _gradient(grey: UInt8[np.ndarray, "h w"]) -> UInt16[np.ndarray, "h w"]:
    """|∂x| + |∂y| as in cv2.Canny."""
    across, down = (
        np.abs(cv2.Sobel(grey, cv2.CV_16S, *axes, borderType=cv2.BORDER_REPLICATE))
        for axes in ((1, 0), (0, 1))
    )
    return (across + down).astype(np.uint16)


def xdog(photo: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """`xdog_tones` of the photo with stretched contrast: strokes of about 2 pixels, no specks."""
    grey = cv2.cvtColor(_stretched(photo), cv2.COLOR_RGB2GRAY)
    tones = xdog_tones(grey / np.float32(255), SIGMA * _scale(photo))
    sketch = np.rint(255 * tones).astype(np.uint8)
    ink = _without_specks(sketch < 255, sketch < 128, SHORTEST * _scale(photo))
    return np.where(ink, sketch, np.uint8(255))


def xdog_tones(grey: Float32[np.ndarray, "h w"], sigma: float) -> Float32[np.ndarray, "h w"]:
    """The reparameterised extended difference of Gaussians, softly thresholded; in and out 0 … 1.

    S = (1 + p) G_σ − p G_kσ and T = 1 where S ≥ ε, else 1 + tanh(φ (S − ε)), after Winnemöller,
    Kyprianidis & Olsen, "XDoG", Computers & Graphics 36 (2012) 740. Gaussians are truncated at 4 σ;
    the image is reflected at its border.
    """
    sharpened = (1 + P) * _blurred(grey, sigma) - P * _blurred(grey, K * sigma)
    return 1 + np.tanh(PHI * np.minimum(sharpened - EPSILON, 0))


def _blurred(grey: Float32[np.ndarray, "h w"], sigma: float) -> Float32[np.ndarray, "h w"]:
    width = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(grey, (width, width), sigma, borderType=cv2.BORDER_REFLECT_101)


def hed(photo: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """The ridges of HED's edge probability (Xie & Tu 2015) as lines of 1 pixel.

    The photo's contrast is stretched first. Ridges are thresholded with hysteresis (`POSSIBLE`,
    `LIKELY`), and short components are removed.

    Raises:
        UserError: h5py or the weights are not installed.
    """
    from input_pipeline.extraction.hed import edge_probability

    margins = (MARGIN, MARGIN)
    # NumPy's "reflect" is OpenCV's BORDER_REFLECT_101.
    padded = np.pad(_stretched(photo), (margins, margins, (0, 0)), mode="reflect")
    # A slight blur connects ragged ridges.
    probability = cv2.GaussianBlur(edge_probability(padded), (0, 0), 1.0)
    inside = slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN)
    ridge, probability = ridges(probability)[inside], probability[inside]
    possible, likely = (ridge & (probability >= least) for least in (POSSIBLE, LIKELY))
    line = _without_specks(possible, likely, SHORTEST * _scale(photo))
    return np.where(line, 0, 255).astype(np.uint8)


def ridges(height: Float32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Non-maximum suppression across the direction of strongest downward curvature.

    The direction comes from the Hessian at σ = 2 pixels, as in Dollár & Zitnick 2015.
    """
    smooth = cv2.GaussianBlur(height, (0, 0), 2.0)
    dxx, dyy, dxy = (cv2.Sobel(smooth, cv2.CV_32F, *axes) for axes in ((2, 0), (0, 2), (1, 1)))
    along = 0.5 * np.arctan2(2 * dxy, dxx - dyy)  # direction of the largest curvature
    step_x, step_y = -np.sin(along), np.cos(along)
    y, x = np.indices(height.shape, np.float32)
    before, after = (
        cv2.remap(
            height,
            x + sign * step_x,
            y + sign * step_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for sign in (-1, 1)
    )
    # One of two equal neighbours stays.
    return (height > before) & (height >= after)


def _scale(photo: UInt8[np.ndarray, "h w 3"]) -> float:
    return math.sqrt(max(photo.shape) / REFERENCE_SIZE)


def _stretched(photo: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with the 1st to 99th percentile of grey, at least 32 levels, mapped to 0 … 255."""
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    up_to = np.cumsum(np.bincount(grey.ravel(), minlength=256))
    darkest, lightest = np.searchsorted(up_to, (0.01 * grey.size, 0.99 * grey.size))
    span = max(int(lightest - darkest), 32)
    levels = (np.arange(256) - (darkest + lightest - span) / 2) * 255 / span
    return np.rint(levels.clip(0, 255)).astype(np.uint8)[photo]


def _without_specks(
    possible: Bool[np.ndarray, "h w"], sure: Bool[np.ndarray, "h w"], shortest: float
) -> Bool[np.ndarray, "h w"]:
    """Components of `possible` with at least `shortest` pixels and at least one `sure` pixel."""
    count, component, stats, _ = cv2.connectedComponentsWithStats(possible.view(np.uint8))
    valid = np.bincount(component[sure], minlength=count) > 0
    valid &= stats[:, cv2.CC_STAT_AREA] >= shortest
    valid[0] = False
    return valid[component]
