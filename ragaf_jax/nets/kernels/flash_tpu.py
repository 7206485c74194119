"""FlashAttention in Pallas for TPUs, on arrays whose last axis holds all heads.

A TPU pads the last axis of an array to a multiple of 128. Heads of 40 channels, as [b, h, t, 40],
would take three times their size and traffic. These kernels read [b, t, h·d], the layout of the
projections, and separate the heads on the chip. Scores exist only on the chip, as tiles (Dao et al.
2022, algorithms 1 and 4).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from ragaf_jax.nets.kernels.flash_tpu_blocks import (
    LANES,
    TILE,
    Sizes,
    dkv_kernel,
    dq_kernel,
    forward_kernel,
)
from ragaf_jax.nets.layers import PRODUCT

# Maximum size of a block of tokens on the chip: 1024 of 384 channels in bfloat16.
_BLOCK_TOKENS, _BLOCK_BYTES = 1024, 1024 * 384 * 2


def flash_attention(
    q: Float[Array, "b t c"],
    k: Float[Array, "b s c"],
    v: Float[Array, "b s c"],
    bias: Float[Array, "b t s"] | None,
    heads: int,
    interpret: bool = False,
) -> Float[Array, "b t c"]:
    """softmax(q·kᵀ/√d + bias)·v of each head of d = c / heads channels.

    All heads share `bias`. Differentiable in reverse mode in all four arrays. Products have the
    dtype of `q`, sums are float32. Lengths are padded to whole blocks.
    """
    (t, c), s = q.shape[1:], k.shape[1]
    rows, columns = _block(t, c * q.dtype.itemsize), _block(s, c * q.dtype.itemsize)
    sizes = Sizes(heads, rows, columns, s, interpret)
    if bias is not None:
        bias = _padded(_padded(bias.astype(jnp.float32), 1, rows), 2, columns)
    q, k, v = _padded(q, 1, rows), _padded(k, 1, columns), _padded(v, 1, columns)
    return _flash(q, k, v, bias, sizes)[:, :t]


def _block(length: int, token_bytes: int) -> int:
    """Tokens of a block: a multiple of 128 with little padding; all, if they fit one tile."""
    if length <= min(TILE):
        return length
    most = max(LANES, min(_BLOCK_TOKENS, _BLOCK_BYTES // token_bytes) // LANES * LANES)
    return -(-length // -(-length // most) // LANES) * LANES


def _padded(x: Array, axis: int, block: int) -> Array:
    missing = -x.shape[axis] % block
    return jnp.pad(x, [(0, missing * (i == axis)) for i in range(x.ndim)]) if missing else x


def _flash(q: Array, k: Array, v: Array, bias: Array | None, sizes: Sizes) -> Array:
    return _forward(q, k, v, bias, sizes)[0]


def _flash_forward(
    q: Array, k: Array, v: Array, bias: Array | None, sizes: Sizes
) -> tuple[Array, tuple[Any, ...]]:
    out, log_sum = checkpoint_name(_forward(q, k, v, bias, sizes), PRODUCT)
    return out, (q, k, v, bias, out, log_sum)


def _forward(
    q: Array, k: Array, v: Array, bias: Array | None, sizes: Sizes
) -> tuple[Float[Array, "b t c"], Float[Array, "b h t"]]:
    """Attention, and the logarithm of each row's sum of exponentials."""
    (b, t, c), rows = q.shape, sizes.rows
    grid = b, t // rows, k.shape[1] // sizes.columns
    block = _blocks(sizes, c, lambda b, i, j: (b, i, j))
    log_sum = jax.ShapeDtypeStruct((b, sizes.heads, t), jnp.float32)
    inputs = [(q, block["query"]), (k, block["key"]), (v, block["key"])]
    outputs = [(q, block["query"]), (log_sum, block["row"])]
    scratch = [(rows, sizes.heads), (rows, sizes.heads), (rows, c)]
    if bias is not None:
        inputs.append((bias, block["bias"]))
    out, sums = _call(forward_kernel, sizes, grid, inputs, outputs, scratch, 2)
    return out, sums


def _flash_backward(sizes: Sizes, saved: tuple[Any, ...], g: Array) -> tuple[Any, ...]:
    q, k, v, bias, out, log_sum = saved
    (b, t, c), (rows, columns) = q.shape, (sizes.rows, sizes.columns)
    log_sum_like = jax.ShapeDtypeStruct(log_sum.shape, log_sum.dtype)

    grid = b, t // rows, k.shape[1] // columns
    block = _blocks(sizes, c, lambda b, i, j: (b, i, j))
    query, key, row = block["query"], block["key"], block["row"]
    inputs = [(q, query), (g, query), (k, key), (v, key), (log_sum, row), (out, query)]
    outputs, scratch = [(q, query), (log_sum_like, row)], [(rows, c), (rows, sizes.heads)]
    if bias is not None:
        inputs, outputs = inputs + [(bias, block["bias"])], outputs + [(bias, block["bias"])]
    dq, delta, *dbias = _call(dq_kernel, sizes, grid, inputs, outputs, scratch, 3)

    grid = b, k.shape[1] // columns, t // rows
    block = _blocks(sizes, c, lambda b, j, i: (b, i, j))
    query, key, row = block["query"], block["key"], block["row"]
    inputs = [(q, query), (g, query), (k, key), (v, key), (log_sum, row), (delta, row)]
    outputs, scratch = [(k, key), (v, key)], [(columns, c)] * 2
    if bias is not None:
        inputs = inputs + [(bias, block["bias"])]
    dk, dv = _call(dkv_kernel, sizes, grid, inputs, outputs, scratch, 4)
    return dq, dk, dv, dbias[0] if dbias else None


_flash = jax.custom_vjp(_flash, nondiff_argnums=(4,))
_flash.defvjp(_flash_forward, _flash_backward)


def _blocks(
    sizes: Sizes, channels: int, where: Callable[..., tuple[Any, Any, Any]]
) -> dict[str, pl.BlockSpec]:
    """The block of each kind of array; `where` gives (example, row, column) of a grid point."""

    def at(*axes: int | None) -> Callable[..., tuple[Any, ...]]:
        return lambda *point: tuple(0 if i is None else where(*point)[i] for i in axes)

    return {
        "query": pl.BlockSpec((1, sizes.rows, channels), at(0, 1, None)),
        "key": pl.BlockSpec((1, sizes.columns, channels), at(0, 2, None)),
        "row": pl.BlockSpec((1, sizes.heads, sizes.rows), at(0, None, 1)),
        "bias": pl.BlockSpec((1, sizes.rows, sizes.columns), at(0, 1, 2)),
    }


def _call(
    kernel: Callable[..., None],
    sizes: Sizes,
    grid: tuple[int, int, int],
    inputs: Sequence[tuple[Any, pl.BlockSpec]],
    outputs: Sequence[tuple[Any, pl.BlockSpec]],
    scratch: Sequence[tuple[int, int]],
    products: int,
) -> tuple[Array, ...]:
    """Runs `kernel` at each point of `grid`; the last axis runs in order and sums in `scratch`.

    `outputs` have arrays or shapes like the outputs. `products` is the number of products per
    score, for XLA's cost analysis.
    """
    channels = inputs[0][0].shape[-1]
    scores = math.prod(grid) * sizes.rows * sizes.columns * sizes.heads
    call = pl.pallas_call(
        functools.partial(kernel, sizes, [len(inputs), len(outputs)]),
        grid=grid,
        in_specs=[spec for _, spec in inputs],
        out_specs=[spec for _, spec in outputs],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x, _ in outputs],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * scores // sizes.heads * channels,
            transcendentals=scores,
            bytes_accessed=sum(_moved(x, spec, grid) for x, spec in (*inputs, *outputs)),
        ),
        interpret=sizes.interpret,
        name=f"flash_{kernel.__name__}",
    )
    return tuple(call(*(x for x, _ in inputs)))


def _moved(x: Any, spec: pl.BlockSpec, grid: tuple[int, int, int]) -> int:
    """Bytes copied to or from the chip; a block is copied again after another one."""
    block_of: Any = spec.index_map
    start = block_of(0, 0, 0)
    along_middle, along_last = block_of(0, 1, 0) != start, block_of(0, 0, 1) != start
    again = grid[1] if along_last and not along_middle and grid[2] > 1 else 1
    return math.prod(x.shape) * x.dtype.itemsize * again
