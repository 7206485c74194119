"""FlashAttention in Pallas for TPUs, on tokens whose heads lie side by side.

A TPU's memory holds the last axis of an array in multiples of 128 numbers. Heads of 40 channels as
[b, h, t, 40] take three times their size there, and so does all that is read and written. These
kernels read [b, t, h·d], as the projections write it, and separate the heads on the chip. Scores
exist only on the chip, as tiles (Dao et al. 2022, algorithms 1 and 4).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from ragaf_jax.nets.layers import PRODUCT

# One block of tokens that is copied to the chip, at most: 1024 of 384 channels in bfloat16.
_BLOCK_TOKENS, _BLOCK_BYTES = 1024, 1024 * 384 * 2
# Queries and keys of a tile of scores, at most. A kernel's code grows with its tile, and with it
# the time to compile: a few seconds with these.
_TILE = 256, 512
_LANES = 128
_HIDDEN = -1e30  # logit of a padding key

_NT = (((1,), (1,)), ((), ()))  # x·yᵀ
_NN = (((1,), (0,)), ((), ()))  # x·y
_TN = (((0,), (0,)), ((), ()))  # xᵀ·y


class Sizes(NamedTuple):
    """How a call is divided.

    Attributes:
      heads: side by side in the channels.
      rows, columns: queries and keys of a block.
      keys: those that are not padding.
      interpret: by Pallas' interpreter, without a TPU.
    """

    heads: int
    rows: int
    columns: int
    keys: int
    interpret: bool


def flash_attention(
    q: Float[Array, "b t c"],
    k: Float[Array, "b s c"],
    v: Float[Array, "b s c"],
    bias: Float[Array, "b t s"] | None,
    heads: int,
    interpret: bool = False,
) -> Float[Array, "b t c"]:
    """softmax(q·kᵀ/√d + bias)·v of each head of d = c / heads channels.

    `bias` is added in all heads. Differentiable in reverse mode in all four arrays. Products have
    the dtype of `q`, sums are float32. Lengths that blocks do not divide are padded.
    """
    (t, c), s = q.shape[1:], k.shape[1]
    rows, columns = _block(t, c * q.dtype.itemsize), _block(s, c * q.dtype.itemsize)
    sizes = Sizes(heads, rows, columns, s, interpret)
    if bias is not None:
        bias = _padded(_padded(bias.astype(jnp.float32), 1, rows), 2, columns)
    q, k, v = _padded(q, 1, rows), _padded(k, 1, columns), _padded(v, 1, columns)
    return _flash(q, k, v, bias, sizes)[:, :t]


def _block(length: int, token_bytes: int) -> int:
    """Tokens of a block: a multiple of 128 that needs little padding, or all of a few."""
    if length <= min(_TILE):
        return length
    most = max(_LANES, min(_BLOCK_TOKENS, _BLOCK_BYTES // token_bytes) // _LANES * _LANES)
    return -(-length // -(-length // most) // _LANES) * _LANES


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


def _flash_backward(sizes: Sizes, saved: tuple[Any, ...], g: Array) -> tuple[Any, ...]:
    return _backward(*saved, g, sizes)


_flash = jax.custom_vjp(_flash, nondiff_argnums=(4,))
_flash.defvjp(_flash_forward, _flash_backward)


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
    out, sums = _call(_forward_kernel, sizes, grid, inputs, outputs, scratch)
    return out, sums


def _backward(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    out: Array,
    log_sum: Array,
    g: Array,
    sizes: Sizes,
) -> tuple[Array, Array, Array, Array | None]:
    """Gradients of the first four arguments, where the output's is `g`."""
    (b, t, c), rows, columns = q.shape, sizes.rows, sizes.columns
    product = (out.astype(jnp.float32) * g.astype(jnp.float32)).reshape(b, t, sizes.heads, -1)
    delta = product.sum(-1).swapaxes(1, 2)

    def inputs(block: dict[str, pl.BlockSpec]) -> list[tuple[Any, pl.BlockSpec]]:
        arrays = {"query": [q, g], "key": [k, v], "row": [log_sum, delta], "bias": [bias]}
        return [(x, block[name]) for name, xs in arrays.items() for x in xs if x is not None]

    grid = b, t // rows, k.shape[1] // columns
    block = _blocks(sizes, c, lambda b, i, j: (b, i, j))
    outputs = [(q, block["query"])] + ([] if bias is None else [(bias, block["bias"])])
    dq, *dbias = _call(_dq_kernel, sizes, grid, inputs(block), outputs, [(rows, c)])

    grid = b, k.shape[1] // columns, t // rows
    block = _blocks(sizes, c, lambda b, j, i: (b, i, j))
    outputs = [(k, block["key"]), (v, block["key"])]
    dk, dv = _call(_dkv_kernel, sizes, grid, inputs(block), outputs, [(columns, c)] * 2)
    return dq, dk, dv, dbias[0] if dbias else None


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
) -> tuple[Array, ...]:
    """Runs `kernel` at each point of `grid`; the last axis runs in order and adds up in `scratch`.

    Outputs are given as arrays, or shapes, like them.
    """
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
        interpret=sizes.interpret,
        name=kernel.__name__.strip("_"),
    )
    return tuple(call(*(x for x, _ in inputs)))


def _first_and_last() -> tuple[Array, Array]:
    """Whether this grid point is the first, and the last, of those that add up."""
    step = pl.program_id(2)
    return step == 0, step == pl.num_programs(2) - 1


def _each_tile(sizes: Sizes, body: Callable[[Any, Any, Any], None]) -> None:
    """Calls `body(rows, columns, first column)` for each tile of a block of scores."""
    tile = [_tile(n, most) for n, most in zip((sizes.rows, sizes.columns), _TILE, strict=True)]
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
    """The longest side of a tile: the block's, or a multiple of 128 that divides it."""
    if block <= most:
        return block
    return max(n for n in range(_LANES, most + 1, _LANES) if block % n == 0)


def _dot(x: Array, y: Array, axes: Any) -> Array:
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)


def _heads(sizes: Sizes, channels: int) -> list[tuple[slice, slice]]:
    """(its place among the heads, its channels) of each head."""
    d = channels // sizes.heads
    return [(slice(h, h + 1), slice(h * d, (h + 1) * d)) for h in range(sizes.heads)]


def _scores(
    sizes: Sizes, q: Array, k: Array, bias: Array | None, column: Any
) -> Float[Array, "r c"]:
    """Logits of one head's tile, whose first key is `column`; those of padding keys are hidden."""
    scores = _dot(q, k, _NT) * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    if sizes.keys % sizes.columns == 0:
        return scores
    keys = column + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    return jnp.where(keys < sizes.keys, scores, _HIDDEN)


def _forward_kernel(sizes: Sizes, counts: Sequence[int], *refs: Any) -> None:
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


def _dq_kernel(sizes: Sizes, counts: Sequence[int], *refs: Any) -> None:
    """Algorithm 4, of one block of queries and their bias."""
    inputs, (dq, *dbias), (total,) = _parts(counts, refs)
    first, last = _first_and_last()
    k, begin = inputs[2], pl.program_id(2) * sizes.columns

    @pl.when(first)
    def _() -> None:
        total[...] = jnp.zeros(total.shape)

    def tile(rows: Any, columns: Any, column: Any) -> None:
        of_all = 0.0
        for head, lanes in _heads(sizes, k.shape[-1]):
            _, dscores = _gradients(sizes, inputs, rows, columns, head, lanes, begin + column)
            total[rows, lanes] += _dot(dscores.astype(k.dtype), k[0, columns, lanes], _NN)
            of_all += dscores
        if dbias:
            dbias[0][0, rows, columns] = of_all

    _each_tile(sizes, tile)

    @pl.when(last)
    def _() -> None:
        dq[0] = (total[...] * (k.shape[-1] // sizes.heads) ** -0.5).astype(dq.dtype)


def _dkv_kernel(sizes: Sizes, counts: Sequence[int], *refs: Any) -> None:
    """Algorithm 4, of one block of keys and values."""
    inputs, (dk, dv), (keys, values) = _parts(counts, refs)
    first, last = _first_and_last()
    (q, g), begin = inputs[:2], pl.program_id(1) * sizes.columns

    @pl.when(first)
    def _() -> None:
        keys[...] = jnp.zeros(keys.shape)
        values[...] = jnp.zeros(values.shape)

    def tile(rows: Any, columns: Any, column: Any) -> None:
        for head, lanes in _heads(sizes, q.shape[-1]):
            weights, dscores = _gradients(sizes, inputs, rows, columns, head, lanes, begin + column)
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
    sizes: Sizes, inputs: Any, rows: Any, columns: Any, head: slice, lanes: slice, column: Any
) -> tuple[Float[Array, "r c"], Float[Array, "r c"]]:
    """Softmax weights of one head's tile, and the gradients of its scores."""
    q, g, k, v, log_sum, delta, *bias = inputs
    added = bias[0][0, rows, columns] if bias else None
    scores = _scores(sizes, q[0, rows, lanes], k[0, columns, lanes], added, column)
    weights = jnp.exp(scores - log_sum[0, head, rows].T)
    dweights = _dot(g[0, rows, lanes], v[0, columns, lanes], _NT)
    return weights, weights * (dweights - delta[0, head, rows].T)
