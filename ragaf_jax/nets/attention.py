"""Softmax attention, with the backend chosen in one place.

Accelerators take `jax.nn.dot_product_attention`. On XLA's CPU backend its derived gradient
multiplies by transposed score matrices, which is several times slower than the same product with
the small operand transposed. So the CPU has a forward and backward pass of its own, in tiles.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from ragaf_jax.nets.layers import PRODUCT, widened

# Scores of one tile, small enough to stay in a core's cache between the dots that use them.
_TILE_BYTES = 4 << 20
# Fewer query rows than this make the tile's dots inefficient, whatever the cache says.
_MIN_TILE_ROWS = 256


def attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    bias: Float[Array, "#b #h t s"] | None = None,
) -> Float[Array, "b t h d"]:
    """softmax(q·kᵀ/√d + bias)·v (Vaswani et al. 2017, eq. 1), differentiable in all four arguments.

    `bias` may have size 1 in place of the batch or the heads. A key is hidden by a large negative
    finite bias (`hide`), not by −inf: a row of −inf alone has no softmax. Forward and reverse mode
    only. The result has the dtype of `q`; the softmax is taken in no less than float32.
    """
    if jax.default_backend() == "cpu":
        return _cpu_attention(q, k, v, bias)
    return checkpoint_name(jax.nn.dot_product_attention(q, k, v, bias=bias), PRODUCT)


def hide(visible: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Logit bias of a boolean mask: 0 where `visible`, a large negative number elsewhere."""
    return jnp.where(visible, 0.0, -1e9).astype(jnp.float32)


def _cpu_attention(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """The tiled computation: heads before tokens, queries padded to whole tiles, and back."""
    b, t, h, d = q.shape
    arrays: Any = (q, k, v)
    arrays = (*(widened(x.swapaxes(1, 2)) for x in arrays), None)
    if bias is not None:
        arrays = (*arrays[:3], widened(jnp.broadcast_to(bias, (b, *bias.shape[1:]))))
    if bias is None or bias.shape[1] == h:  # Then heads are as independent as examples are.
        arrays = jax.tree.map(lambda x: x.reshape(b * h, 1, *x.shape[2:]), arrays)
    queries, keys, values, biases = arrays
    groups, rows = _tiling((*queries.shape[:3], keys.shape[2]))

    def pad(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, -t % rows), (0, 0)))

    biases = None if biases is None else pad(biases)
    out = _tiled(pad(queries * d**-0.5), keys, values, biases, groups, rows)[:, :, :t]
    return out.reshape(b, h, t, d).swapaxes(1, 2).astype(q.dtype)


def _tiling(scores: tuple[int, int, int, int]) -> tuple[int, int]:
    """(groups of examples, query rows of a tile); a tile is whole examples or a part of one."""
    b, h, t, s = scores
    row_bytes = 4 * h * s
    blocks = -(-t // max(_MIN_TILE_ROWS, _TILE_BYTES // row_bytes))
    if blocks > 1:
        return b, -(-t // blocks)
    examples = max(1, _TILE_BYTES // (row_bytes * t))
    return b // max(n for n in range(1, b + 1) if b % n == 0 and n <= examples), t


def _tiled(q: Array, k: Array, v: Array, bias: Array | None, groups: int, rows: int) -> Array:
    return _tiled_forward(q, k, v, bias, groups, rows)[0]


def _tiled_forward(
    q: Array, k: Array, v: Array, bias: Array | None, groups: int, rows: int
) -> tuple[Array, tuple[Any, ...]]:
    def group(args: Any) -> Any:
        q, k, v, bias = args
        blocks = _split_rows((q, bias), rows)
        return _join_rows(_map(lambda x: _tile_forward(x[0], k, v, x[1]), blocks))

    out, log_sum = _join(_map(group, _split((q, k, v, bias), groups)))
    out, log_sum = checkpoint_name((out, log_sum), PRODUCT)
    return out, (q, k, v, bias, out, log_sum)


def _tiled_backward(groups: int, rows: int, saved: tuple[Any, ...], g: Array) -> tuple[Any, ...]:
    def group(args: Any) -> Any:
        q, k, v, bias, out, log_sum, g = args

        def block(total: Any, args: Any) -> Any:
            dq, dk, dv, dbias = _tile_backward(args, k, v)
            return (total[0] + dk, total[1] + dv), (dq, dbias)

        blocks = _split_rows((q, bias, out, log_sum, g), rows)
        none = jnp.zeros_like(k), jnp.zeros_like(v)
        (dk, dv), blocks = _scan(block, none, blocks)
        dq, dbias = _join_rows(blocks)
        return dq, dk, dv, dbias

    return _join(_map(group, _split((*saved, g), groups)))


_tiled = jax.custom_vjp(_tiled, nondiff_argnums=(4, 5))
_tiled.defvjp(_tiled_forward, _tiled_backward)


def _tile_forward(q: Array, k: Array, v: Array, bias: Array | None) -> tuple[Array, Array]:
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k)
    scores = scores if bias is None else scores + bias
    peak = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    total = weights.sum(-1, keepdims=True)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, v) / total, peak + jnp.log(total)


def _tile_backward(
    queries: tuple[Array, Array | None, Array, Array, Array], k: Array, v: Array
) -> tuple[Array, Array, Array, Array | None]:
    """FlashAttention's backward pass (Dao et al. 2022, algorithm 4) of one tile."""
    q, bias, out, log_sum, g = queries
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k)
    weights = jnp.exp((scores if bias is None else scores + bias) - log_sum)
    delta = (g * out).sum(-1, keepdims=True)
    dscores = weights * (jnp.einsum("bhqd,bhkd->bhqk", g, v) - delta)
    # The small operand is transposed, never the scores; without the barrier XLA folds the final
    # swapaxes into the dot and transposes the scores after all.
    dk = jnp.einsum("bhqd,bhqk->bhdk", q, dscores)
    dv = jnp.einsum("bhqd,bhqk->bhdk", g, weights)
    dk, dv = jax.lax.optimization_barrier((dk, dv))
    dbias = None
    if bias is not None:
        dbias = dscores.sum(1, keepdims=True) if bias.shape[1] == 1 else dscores
    return jnp.einsum("bhqk,bhkd->bhqd", dscores, k), dk.swapaxes(2, 3), dv.swapaxes(2, 3), dbias


def _map(f: Callable[[Any], Any], arrays: Any) -> Any:
    """`jax.lax.map`, by `_scan`."""
    return _scan(lambda _, x: (None, f(x)), None, arrays)[1]


def _scan(f: Callable[[Any, Any], tuple[Any, Any]], init: Any, arrays: Any) -> tuple[Any, Any]:
    """`jax.lax.scan`, without a loop where it has one round: a loop takes long to trace."""
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
