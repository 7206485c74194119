"""3×3 convolutions of images with blocks of pixels along the channels (space to depth).

A TPU multiplies and stores 128 channels at once, so 16 or 32 channels are mostly padding. In blocks
of 4 × 4 pixels 16 channels become 256. The equivalent kernel of blocks is mostly zeros: it
multiplies more and moves fewer bytes.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num


def to_blocks(x: Num[Array, "b h w c"], block: int) -> Num[Array, "b h_blocks w_blocks channels"]:
    """[b, h, w, c] → [b, h / block, w / block, block² · c], channels by row, column, channel."""
    b, h, w, c = x.shape
    rows = x.reshape(b, h // block, block, w // block, block, c)
    return rows.swapaxes(2, 3).reshape(b, h // block, w // block, block * block * c)


def block_kernel(
    kernel: Float[Array, "3 3 c f"], block: int, stride: int
) -> Float[Array, "3 3 {block**2}*c {(block//stride)**2}*f"]:
    """The kernel of blocks with stride 1 that equals `kernel` of pixels with `stride`.

    Both are for a padding of one pixel, or block, before and after each side. Blocks of the output
    have sides of `block` / `stride` pixels, those of the input a multiple of `stride`, 1 or 2.
    Numbers are copied without rounding.
    """
    c, f = kernel.shape[2:]
    taps = _taps(block, stride).astype(kernel.dtype)
    # Gradients sum over the copies, which TPUs would do in bfloat16.
    blocks = jnp.einsum("DpPd,EqQe,deio->DEpqiPQo", taps, taps, kernel, precision="highest")
    return blocks.reshape(3, 3, block**2 * c, (block // stride) ** 2 * f)


def _taps(block: int, stride: int) -> np.ndarray:
    """[3 blocks, block, block / stride, 3]: 1 where an output's tap reads a row of a block."""
    taps = np.zeros((3, block, block // stride, 3))
    for out in range(block // stride):
        for tap in range(3):
            row = stride * out + tap - 1
            taps[row // block + 1, row % block, out, tap] = 1
    return taps
