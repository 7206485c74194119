"""The TPU's FlashAttention for one block of queries and one block of keys.

Blocks are divided into tiles of scores. Grid points that share an output run in order and sum in
scratch memory on the chip.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

LANES = 128
# Maximum queries and keys of a tile of scores. A kernel's code and compilation time grow with its
# tile: a few seconds with these.
TILE = 256, 512
_HIDDEN = -1e30  # logit of a padding key

_NT = (((1,), (1,)), ((), ()))  # x·yᵀ
_NN = (((1,), (0,)), ((), ()))  # x·y
_TN = (((0,), (0,)), ((), ()))  # xᵀ·y


class Sizes(NamedTuple):
    """The division of a call into blocks.

    Attributes:
      heads: in the channels.
      rows, columns: queries and keys of a block.
      keys: number of keys without padding.
      interpret: whether to use Pallas' interpreter, without a TPU.
    """

    heads: int
    rows: int
    columns: int
    keys: int
    interpret: bool


def _first_and_last() -> tuple[Array, Array]:
    """Whether this grid point is the first, and the last, of its sum."""
    step = pl.program_id(2)
    return step == 0, step == pl.num_programs(2) - 1


def _each_tile(sizes: Sizes, body: Callable[[Any, Any, Any], None]) -> None:
    """Calls `body(rows, columns, first column)` for each tile of a block of scores."""
    tile = [_tile(n, most) for n, most in zip((sizes.rows, sizes.columns), TILE, strict=True)]
    across = sizes.columns // tile[1]

    def one(index: Any, carry: None) -> None:
        row, column = index // across * tile[0], index % across * tile[1]
        if not isinstance(index, int):
            row, column = pl.multiple_of(row, tile[0]), pl.multiple_of(column, tile[1])
        body(pl.ds(row, tile[0]), pl.ds(column, tile[1]), column)

    count = sizes.rows // tile[0] * across
    if count == 1:
        one(0, None)
    else:
        jax.lax.fori_loop(0, count, one, None)


def _tile(block: int, most: int) -> int:
    """The side of a tile: the block's, or the greatest multiple of 128 up to `most` dividing it."""
    if block <= most:
        return block
    return max(n for n in range(LANES, most + 1, LANES) if block % n == 0)


def _dot(x: Array, y: Array, axes: Any) -> Array:
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)


def _heads(sizes: Sizes, channels: int) -> list[tuple[slice, slice]]:
    """(index, channels) of each head, as slices."""
    d = channels // sizes.heads
    return [(slice(h, h + 1), slice(h * d, (h + 1) * d)) for h in range(sizes.heads)]


def _scores(
    sizes: Sizes, q: Array, k: Array, bias: Array | None, column: Any
) -> Float[Array, "r c"]:
    """Logits of one head's tile, whose first key is `column`; padding keys are masked."""
    scores = _dot(q, k, _NT) * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    if sizes.keys % sizes.columns == 0:
        return scores
    keys = column + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    return jnp.where(keys < sizes.keys, scores, _HIDDEN)


def forward_kernel(sizes: Sizes, counts: Sequence[int], *refs: Any) -> None:
    """Algorithm 1: the softmax of one block of queries, tile by tile of its keys."""
    (q, k, v, *bias), (out, log_sum), (peak, total, weighted) = _parts(counts, refs)
    first, last = _first_and_last()
    begin = pl.program_id(2) * sizes.columns
    heads = _heads(sizes, q.shape[-1])

    @pl.when(first)
    def _() -> None:
        peak[...] = jnp.full(peak.shape, -jnp.inf)
        total[...] = jnp.zeros(total.shape)
        weighted[...] = jnp.zeros(weighted.shape)

    def tile(rows: Any, columns: Any, column: Any) -> None:
        added = bias[0][0, rows, columns] if bias else None
        for head, lanes in heads:
            scores = _scores(sizes, q[0, rows, lanes], k[0, columns, lanes], added, begin + column)
            before = peak[rows, head]
            now = jnp.maximum(before, scores.max(-1, keepdims=True))
            weights = jnp.exp(scores - now)
            rescale = jnp.exp(before - now)
            peak[rows, head] = now
            total[rows, head] = total[rows, head] * rescale + weights.sum(-1, keepdims=True)
            values = _dot(weights.astype(v.dtype), v[0, columns, lanes], _NN)
            weighted[rows, lanes] = weighted[rows, lanes] * rescale + values

    _each_tile(sizes, tile)

    @pl.when(last)
    def _() -> None:
        for head, lanes in heads:
            out[0, :, lanes] = (weighted[:, lanes] / total[:, head]).astype(out.dtype)
        log_sum[0] = (peak[...] + jnp.log(total[...])).T


def dq_kernel(sizes: Sizes, counts: Sequence[int], *refs: Any) -> None:
    """Algorithm 4 for one block of queries and their bias; also each row's sum of out · g."""
    inputs, (dq, delta, *dbias), (total, sums) = _parts(counts, refs)
    q, g, k, v, log_sum, out, *bias = inputs
    first, last = _first_and_last()
    begin = pl.program_id(2) * sizes.columns
    heads = _heads(sizes, q.shape[-1])

    @pl.when(first)
    def _() -> None:
        total[...] = jnp.zeros(total.shape)
        for head, lanes in heads:
            product = out[0, :, lanes].astype(jnp.float32) * g[0, :, lanes].astype(jnp.float32)
            sums[:, head] = product.sum(-1, keepdims=True)
        delta[0] = sums[...].T

    def tile(rows: Any, columns: Any, column: Any) -> None:
        of_all: Any = 0.0
        added = bias[0][0, rows, columns] if bias else None
        for head, lanes in heads:
            _, dscores = _gradients(
                _scores(sizes, q[0, rows, lanes], k[0, columns, lanes], added, begin + column),
                log_sum[0, head, rows].T,
                g[0, rows, lanes],
                v[0, columns, lanes],
                sums[rows, head],
            )
            total[rows, lanes] += _dot(dscores.astype(k.dtype), k[0, columns, lanes], _NN)
            of_all += dscores
        if dbias:
            dbias[0][0, rows, columns] = of_all

    _each_tile(sizes, tile)

    @pl.when(last)
    def _() -> None:
        dq[0] = (total[...] * (q.shape[-1] // sizes.heads) ** -0.5).astype(dq.dtype)


def dkv_kernel(sizes: Sizes, counts: Sequence[int], *refs: Any) -> None:
    """Algorithm 4 for one block of keys and values."""
    (q, g, k, v, log_sum, delta, *bias), (dk, dv), (keys, values) = _parts(counts, refs)
    first, last = _first_and_last()
    begin = pl.program_id(1) * sizes.columns

    @pl.when(first)
    def _() -> None:
        keys[...] = jnp.zeros(keys.shape)
        values[...] = jnp.zeros(values.shape)

    def tile(rows: Any, columns: Any, column: Any) -> None:
        added = bias[0][0, rows, columns] if bias else None
        for head, lanes in _heads(sizes, q.shape[-1]):
            weights, dscores = _gradients(
                _scores(sizes, q[0, rows, lanes], k[0, columns, lanes], added, begin + column),
                log_sum[0, head, rows].T,
                g[0, rows, lanes],
                v[0, columns, lanes],
                delta[0, head, rows].T,
            )
            values[columns, lanes] += _dot(weights.astype(g.dtype), g[0, rows, lanes], _TN)
            keys[columns, lanes] += _dot(dscores.astype(q.dtype), q[0, rows, lanes], _TN)

    _each_tile(sizes, tile)

    @pl.when(last)
    def _() -> None:
        dk[0] = (keys[...] * (q.shape[-1] // sizes.heads) ** -0.5).astype(dk.dtype)
        dv[0] = values[...].astype(dv.dtype)


def _parts(counts: Sequence[int], refs: Sequence[Any]) -> tuple[Any, Any, Any]:
    """(inputs, outputs, scratch) of a kernel."""
    return refs[: counts[0]], refs[counts[0] : sum(counts)], refs[sum(counts) :]


def _gradients(
    scores: Float[Array, "r c"],
    log_sum: Float[Array, "r 1"],
    g: Float[Array, "r d"],
    v: Float[Array, "c d"],
    delta: Float[Array, "r 1"],
) -> tuple[Float[Array, "r c"], Float[Array, "r c"]]:
    """Softmax weights of one head's tile, and the gradients of its scores."""
    weights = jnp.exp(scores - log_sum)
    return weights, weights * (_dot(g, v, _NT) - delta)
