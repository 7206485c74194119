"""Image similarity by pixels and windows: PSNR, SSIM and MS-SSIM.

All compare 8-bit images pairwise and average over channels. Pairs may differ in size.
"""

from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, UInt8

from ragaf_jax.batch import PerExample
from ragaf_jax.errors import UserError

Images = UInt8[np.ndarray, "n h w c"] | PerExample
References = UInt8[np.ndarray, "n reference_h reference_w c"] | PerExample
Scores = Float64[np.ndarray, " n"]

WINDOW = 11
"""Side of SSIM's Gaussian window in pixels; σ = 1.5."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Wang, Simoncelli & Bovik 2003, sec. 3.2, from the finest scale to the coarsest."""

# SSIM's stabiliser of the luminance term, and one so large that the term is exactly 1. The latter
# leaves the product of contrast and structure.
LUMINANCE, NO_LUMINANCE = 0.01, 1e8


def psnr(images: Images, references: References) -> Scores:
    """Peak signal-to-noise ratio in decibels, 0 … ∞; ∞ for equal images.

    Raises UserError if sizes differ.
    """
    return _one_by_one(_psnr, images, references, 1, "PSNR")


def ssim(images: Images, references: References) -> Scores:
    """Structural similarity (Wang et al. 2004, eq. 13), −1 … 1; 1 only for equal images.

    The mean over all windows inside the image and over channels.

    Raises UserError if sizes differ or images are smaller than the window.
    """
    return _one_by_one(_ssim, images, references, WINDOW, "SSIM's window")


def ms_ssim(images: Images, references: References) -> Scores:
    """Multi-scale structural similarity (Wang, Simoncelli & Bovik 2003, eq. 7), 0 … 1; 1 is best.

    The mean over channels. Each of five scales halves the previous one by 2 × 2 means, with the
    last pixels of an odd side repeated. A negative scale counts as 0, because its power is not
    real.

    Raises UserError if sizes differ or a side is under 161 px: its fifth scale would be smaller
    than the window.
    """
    least = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
    return _one_by_one(_ms_ssim, images, references, least, "MS-SSIM's coarsest scale")


_psnr, _ssim = jax.jit(dm_pix.psnr), jax.jit(dm_pix.ssim)


@jax.jit
def _ms_ssim(image: Float[Array, "h w c"], reference: Float[Array, "h w c"]) -> Float[Array, ""]:
    product = jnp.ones(image.shape[-1], image.dtype)
    *finer, coarsest = SCALE_WEIGHTS
    for weight in finer:
        product *= _channels_ssim(image, reference, NO_LUMINANCE) ** weight
        image, reference = _halved(image), _halved(reference)
    return (product * _channels_ssim(image, reference, LUMINANCE) ** coarsest).mean()


def _channels_ssim(
    image: Float[Array, "h w c"], reference: Float[Array, "h w c"], k1: float
) -> Float[Array, " c"]:
    windows = dm_pix.ssim(image, reference, k1=k1, return_map=True)
    return jnp.maximum(windows.mean((0, 1)), 0)


def _halved(image: Float[Array, "h w c"]) -> Float[Array, "half_h half_w c"]:
    height, width, channels = image.shape
    even = jnp.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return even.reshape(-(-height // 2), 2, -(-width // 2), 2, channels).mean((1, 3))


def _one_by_one(
    metric: Callable[[Array, Array], Array],
    images: Images,
    references: References,
    least: int,
    what: str,
) -> Scores:
    """The metric of each pair, scaled to 0 … 1; `what` needs sides of `least` pixels."""
    for image, reference in zip(images, references, strict=True):
        _check_sizes(image.shape[:2], reference.shape[:2], least, what)
    # In float64: in float32 the rounding error of a flat area's variance is over 1e-4 of SSIM's
    # stabiliser.
    with jax.enable_x64(True):
        values = [
            float(metric(a / 255.0, b / 255.0)) for a, b in zip(images, references, strict=True)
        ]
    return np.array(values, np.float64)


def _check_sizes(size: tuple[int, int], other: tuple[int, int], least: int, what: str) -> None:
    height, width = size
    if size != other:
        raise UserError(
            f"the images are {width}x{height} pixels and their references {other[1]}x{other[0]}; "
            "bring both to one size."
        )
    if min(size) < least:
        raise UserError(
            f"the images are {width}x{height} pixels and {what} needs {least} a side; "
            "compare larger images."
        )
