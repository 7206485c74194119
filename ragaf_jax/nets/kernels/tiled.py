"""Softmax attention in tiles of the score matrix, for every backend.

Memory holds the scores of one tile at a time. The backward pass recomputes them (FlashAttention,
Dao et al. 2022, algorithms 1 and 4). XLA's CPU backend multiplies by a transposed score matrix
several times slower than by a transposed small operand; the order of the products avoids that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from ragaf_jax.nets.layers import PRODUCT, widened

# Fewer query rows than this make the products of a tile inefficient, however large the tile.
_MIN_TILE_ROWS = 256


class Tiling(NamedTuple):
    """The size of tiles and the dtype of their products.

    Attributes:
      bytes: maximum of a tile's scores, which should fit a cache.
      widen: whether products are in float32, because CPUs have none in bfloat16; else in the
        arrays' dtype.
    """

    bytes: int
    widen: bool


# (groups of examples, query rows of a tile, factor of the scores) of a call.
_Static = tuple[int, int, float]

CPU = Tiling(4 << 20, widen=True)  # a core's cache
ACCELERATOR = Tiling(16 << 20, widen=False)  # the L2 cache of data-centre GPUs


def tiled_attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    bias: Float[Array, "#b #h t s"] | None = None,
    *,
    tiling: Tiling,
) -> Float[Array, "b t h d"]:
    """As `nets.attention.attention`; differentiable in reverse mode in all four arrays.

    Heads come before tokens, and queries are padded to whole tiles.
    """
    b, t, h, d = q.shape
    arrays: Any = (q, k, v)
    arrays = tuple(x.swapaxes(1, 2) for x in arrays)
    if tiling.widen:
        arrays = tuple(map(widened, arrays))
    if bias is not None:
        bias = widened(jnp.broadcast_to(bias, (b, *bias.shape[1:])))
    arrays = (*arrays, bias)
    if bias is None or bias.shape[1] == h:  # Then heads are as independent as examples are.
        arrays = jax.tree.map(lambda x: x.reshape(b * h, 1, *x.shape[2:]), arrays)
    queries, keys, values, biases = arrays
    groups, rows = _division((*queries.shape[:3], keys.shape[2]), tiling.bytes)
    scale = d**-0.5
    if queries.dtype == widened(queries).dtype:  # Otherwise scaling would round once more.
        queries, scale = queries * scale, 1.0

    def pad(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, -t % rows), (0, 0)))

    biases = None if biases is None else pad(biases)
    static = groups, rows, scale
    out = _tiled(pad(queries), keys, values, biases, static)[:, :, :t]
    return out.reshape(b, h, t, d).swapaxes(1, 2).astype(q.dtype)


def _division(scores: tuple[int, int, int, int], tile_bytes: int) -> tuple[int, int]:
    """(groups of examples, query rows of a tile); a tile has whole examples or a part of one."""
    b, h, t, s = scores
    row_bytes = 4 * h * s
    blocks = -(-t // max(_MIN_TILE_ROWS, tile_bytes // row_bytes))
    if blocks > 1:
        return b, -(-t // blocks)
    examples = max(1, tile_bytes // (row_bytes * t))
    return b // max(n for n in range(1, b + 1) if b % n == 0 and n <= examples), t


def _tiled(q: Array, k: Array, v: Array, bias: Array | None, static: _Static) -> Array:
    return _tiled_forward(q, k, v, bias, static)[0]


def _tiled_forward(
    q: Array, k: Array, v: Array, bias: Array | None, static: _Static
) -> tuple[Array, tuple[Any, ...]]:
    groups, rows, scale = static

    def group(args: Any) -> Any:
        q, k, v, bias = args
        blocks = _split_rows((q, bias), rows)
        return _join_rows(_map(lambda x: _tile_forward(x[0], k, v, x[1], scale), blocks))

    out, log_sum = _join(_map(group, _split((q, k, v, bias), groups)))
    out, log_sum = checkpoint_name((out, log_sum), PRODUCT)
    return out, (q, k, v, bias, out, log_sum)


def _tiled_backward(static: _Static, saved: tuple[Any, ...], g: Array) -> tuple[Any, ...]:
    groups, rows, scale = static

    def group(args: Any) -> Any:
        q, k, v, bias, out, log_sum, g = args

        def block(total: Any, args: Any) -> Any:
            dq, dk, dv, dbias = _tile_backward(args, k, v, scale)
            return (total[0] + dk, total[1] + dv), (dq, dbias)

        blocks = _split_rows((q, bias, out, log_sum, g), rows)
        none = jnp.zeros_like(widened(k)), jnp.zeros_like(widened(v))
        (dk, dv), blocks = _scan(block, none, blocks)
        dq, dbias = _join_rows(blocks)
        return dq, dk.astype(k.dtype), dv.astype(v.dtype), dbias

    return _join(_map(group, _split((*saved, g), groups)))


_tiled = jax.custom_vjp(_tiled, nondiff_argnums=(4,))
_tiled.defvjp(_tiled_forward, _tiled_backward)


def _dot(equation: str, x: Array, y: Array) -> Array:
    """A product with sums and result in at least float32."""
    return jnp.einsum(equation, x, y, preferred_element_type=widened(x).dtype)


def _scores(q: Array, k: Array, bias: Array | None, scale: float) -> Array:
    scores = _dot("bhqd,bhkd->bhqk", q, k)
    scores = scores if scale == 1 else scores * scale
    return scores if bias is None else scores + bias


def _tile_forward(
    q: Array, k: Array, v: Array, bias: Array | None, scale: float
) -> tuple[Array, Array]:
    scores = _scores(q, k, bias, scale)
    peak = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    total = weights.sum(-1, keepdims=True)
    out = _dot("bhqk,bhkd->bhqd", weights.astype(v.dtype), v) / total
    return out.astype(q.dtype), peak + jnp.log(total)


def _tile_backward(
    queries: tuple[Array, Array | None, Array, Array, Array], k: Array, v: Array, scale: float
) -> tuple[Array, Array, Array, Array | None]:
    q, bias, out, log_sum, g = queries
    weights = jnp.exp(_scores(q, k, bias, scale) - log_sum)
    delta = (widened(g) * widened(out)).sum(-1, keepdims=True)
    dscores = weights * (_dot("bhqd,bhkd->bhqk", g, v) - delta)
    dbias = None
    if bias is not None:
        dbias = dscores.sum(1, keepdims=True) if bias.shape[1] == 1 else dscores
    dscores = (dscores if scale == 1 else dscores * scale).astype(q.dtype)
    # Transpose the small operand, not the scores. Without the barrier XLA folds the final swapaxes
    # into the dot and transposes the scores.
    dk = _dot("bhqd,bhqk->bhdk", q, dscores)
    dv = _dot("bhqd,bhqk->bhdk", g, weights.astype(g.dtype))
    dk, dv = jax.lax.optimization_barrier((dk, dv))
    dq = _dot("bhqk,bhkd->bhqd", dscores, k).astype(q.dtype)
    return dq, dk.swapaxes(2, 3), dv.swapaxes(2, 3), dbias


def _map(f: Callable[[Any], Any], arrays: Any) -> Any:
    """`jax.lax.map`, by `_scan`."""
    return _scan(lambda _, x: (None, f(x)), None, arrays)[1]


def _scan(f: Callable[[Any, Any], tuple[Any, Any]], init: Any, arrays: Any) -> tuple[Any, Any]:
    """`jax.lax.scan`, without a loop for a single iteration: a loop takes long to trace."""
    if jax.tree.leaves(arrays)[0].shape[0] > 1:
        return jax.lax.scan(f, init, arrays)
    carry, results = f(init, jax.tree.map(lambda x: x[0], arrays))
    return carry, jax.tree.map(lambda x: x[None], results)


def _split(arrays: Any, groups: int) -> Any:
    """(b, …) → (groups, b/groups, …)."""
    return jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), arrays)


def _join(arrays: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)


def _split_rows(arrays: Any, rows: int) -> Any:
    """(b, h, t, …) → (t/rows, b, h, rows, …)."""

    def split(x: Array) -> Array:
        b, h, t = x.shape[:3]
        return jnp.moveaxis(x.reshape(b, h, t // rows, rows, *x.shape[3:]), 2, 0)

    return jax.tree.map(split, arrays)


def _join_rows(arrays: Any) -> Any:
    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], -1, *x.shape[4:])

    return jax.tree.map(join, arrays)
