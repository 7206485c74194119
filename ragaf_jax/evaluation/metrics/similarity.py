"""Image similarity by pixels and windows: PSNR, SSIM and MS-SSIM.

All take pictures of 8 bits, compare them one by one and count every channel alike.
"""

from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, UInt8

from ragaf_jax.errors import UserError

Pictures = UInt8[np.ndarray, "n h w c"]
References = UInt8[np.ndarray, "n reference_h reference_w c"]
Scores = Float64[np.ndarray, " n"]

WINDOW = 11
"""px; side of SSIM's Gaussian window, of σ = 1.5."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Wang, Simoncelli & Bovik 2003, sec. 3.2, from the finest scale to the coarsest."""

# SSIM's stabilisers, and one of its luminance term so large that this term is 1 to the last bit:
# what is left is the product of contrast and structure.
LUMINANCE, NO_LUMINANCE = 0.01, 1e8


def psnr(pictures: Pictures, references: References) -> Scores:
    """Peak signal-to-noise ratio in decibels, 0 … ∞; ∞ where the two are the same.

    Raises UserError where sizes differ.
    """
    _check_sizes(pictures, references, 1, "PSNR")
    return _one_by_one(_psnr, pictures, references)


def ssim(pictures: Pictures, references: References) -> Scores:
    """Structural similarity (Wang et al. 2004, eq. 13), −1 … 1; 1 only where the two are the same.

    The mean over all windows inside the picture and over its channels.

    Raises UserError where sizes differ, and for pictures smaller than the window.
    """
    _check_sizes(pictures, references, WINDOW, "SSIM's window")
    return _one_by_one(_ssim, pictures, references)


def ms_ssim(pictures: Pictures, references: References) -> Scores:
    """Multi-scale structural similarity (Wang, Simoncelli & Bovik 2003, eq. 7), 0 … 1; 1 is best.

    Of each channel, then the mean over channels. At five scales always: each halves the one before
    by 2 × 2 means, an odd side's last pixels counting twice. A scale on which the two are
    anticorrelated counts as 0, since its power is not real.

    Raises UserError where sizes differ, and for pictures with a side of less than 161 px, whose
    fifth scale is smaller than the window.
    """
    least = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
    _check_sizes(pictures, references, least, "MS-SSIM's coarsest scale")
    return _one_by_one(_ms_ssim, pictures, references)


_psnr, _ssim = jax.jit(dm_pix.psnr), jax.jit(dm_pix.ssim)


@jax.jit
def _ms_ssim(picture: Float[Array, "h w c"], reference: Float[Array, "h w c"]) -> Float[Array, ""]:
    product = jnp.ones(picture.shape[-1], picture.dtype)
    *finer, coarsest = SCALE_WEIGHTS
    for weight in finer:
        product *= _channels_ssim(picture, reference, NO_LUMINANCE) ** weight
        picture, reference = _halved(picture), _halved(reference)
    return (product * _channels_ssim(picture, reference, LUMINANCE) ** coarsest).mean()


def _channels_ssim(
    picture: Float[Array, "h w c"], reference: Float[Array, "h w c"], k1: float
) -> Float[Array, " c"]:
    windows = dm_pix.ssim(picture, reference, k1=k1, return_map=True)
    return jnp.maximum(windows.mean((0, 1)), 0)


def _halved(picture: Float[Array, "h w c"]) -> Float[Array, "half_h half_w c"]:
    height, width, channels = picture.shape
    even = jnp.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return even.reshape(-(-height // 2), 2, -(-width // 2), 2, channels).mean((1, 3))


def _one_by_one(
    metric: Callable[[Array, Array], Array], pictures: Pictures, references: Pictures
) -> Scores:
    """The metric of every pair, brought to values in 0 … 1."""
    # In double precision: the variance of a flat area, a small difference of large numbers, would
    # else be rounding of a ten thousandth of SSIM's stabiliser and more.
    with jax.enable_x64(True):
        values = [
            float(metric(a / 255.0, b / 255.0)) for a, b in zip(pictures, references, strict=True)
        ]
    return np.array(values, np.float64)


def _check_sizes(pictures: Pictures, references: References, least: int, what: str) -> None:
    (height, width), other = pictures.shape[1:3], references.shape[1:3]
    if (height, width) != other:
        raise UserError(
            f"the pictures are {width}x{height} pixels and their references {other[1]}x{other[0]}; "
            "bring both to one size."
        )
    if min(height, width) < least:
        raise UserError(
            f"the pictures are {width}x{height} pixels and {what} needs {least} a side; "
            "compare larger pictures."
        )
