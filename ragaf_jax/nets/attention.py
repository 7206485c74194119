"""Softmax attention, with an implementation for each device.

| device | implementation |
|---|---|
| NVIDIA, compute capability 8.0 on | cuDNN's flash attention, if it supports the shapes |
| TPU | a Pallas kernel (`kernels.flash_tpu`) |
| others | tiles of the scores (`kernels.tiled`) |

None of them stores all scores of a self-attention. `main.py --mode=plan --target=…` lists the
kernels of a step.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from ragaf_jax.nets.kernels.flash_tpu import flash_attention
from ragaf_jax.nets.kernels.tiled import ACCELERATOR, CPU, tiled_attention
from ragaf_jax.nets.layers import PRODUCT
from ragaf_jax.runtime.devices import has_cudnn_flash, traced_device

Kernel = Callable[[Array, Array, Array, Array | None], Array]
Shape = tuple[int, ...]

_HALF = (jnp.bfloat16, jnp.float16)
# Channels of a head that cuDNN's flash attention supports on all GPUs; newer ones support 256.
_CUDNN_HEAD = 128


def attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s h d"],
    v: Float[Array, "b s h d"],
    bias: Float[Array, "#b #h t s"] | None = None,
) -> Float[Array, "b t h d"]:
    """softmax(q·kᵀ/√d + bias)·v (Vaswani et al. 2017, eq. 1), differentiable in all four arguments.

    `bias` may have size 1 in place of the batch or the heads. Mask a key by a large negative finite
    bias (`hide`), not by −inf: a row of only −inf has no softmax. Reverse mode only. The result has
    the dtype of `q`; the softmax has at least float32. Examples are sharded over all axes of the
    current mesh, because XLA cannot partition the kernels.
    """
    kernel = _KERNELS[kernel_name(*traced_device(), q.shape, k.shape, q.dtype, bias)]
    return _sharded(kernel, q, k, v, bias)


def hide(visible: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Logit bias of a boolean mask: 0 where `visible`, a large negative number elsewhere."""
    return jnp.where(visible, 0.0, -1e9).astype(jnp.float32)


def kernel_name(
    platform: str, kind: str, q: Shape, k: Shape, dtype: jax.typing.DTypeLike, bias: Array | None
) -> str:
    """The kernel of an attention: "cudnn", "pallas", "tiles" or, on a CPU, "cpu_tiles".

    Args:
      platform: "cpu", "gpu" or "tpu".
      kind: `jax.Device.device_kind`, such as "NVIDIA H200".
      q, k: shapes [b, t, h, d] and [b, s, h, d].
      dtype: of both.
      bias: the logits' bias.
    """
    if platform == "cpu":
        return "cpu_tiles"
    by_heads = bias is not None and bias.shape[:2] != (q[0], 1)
    if platform == "tpu" and dtype in (*_HALF, jnp.float32) and not by_heads:
        return "pallas"
    fits = bias is None and q[3] <= _CUDNN_HEAD and not (q[1] % 2 or k[1] % 2)
    if platform == "gpu" and fits and dtype in _HALF and has_cudnn_flash(kind):
        return "cudnn"
    return "tiles"


def _cudnn(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """cuDNN's flash attention; heads are zero-padded to a multiple of 8 channels."""
    assert bias is None
    d = q.shape[-1]

    def padded(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, -d % 8))) if d % 8 else x

    out = jax.nn.dot_product_attention(
        padded(q), padded(k), padded(v), scale=d**-0.5, implementation="cudnn"
    )
    return checkpoint_name(out[..., :d], PRODUCT)


def _pallas(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """The TPU's kernel, whose last axis holds all heads."""

    def joined(x: Array) -> Array:
        return x.reshape(*x.shape[:2], -1)

    of_all = None if bias is None else bias[:, 0]
    return flash_attention(joined(q), joined(k), joined(v), of_all, q.shape[2]).reshape(q.shape)


_KERNELS: dict[str, Kernel] = {
    "cudnn": _cudnn,
    "pallas": _pallas,
    "tiles": functools.partial(tiled_attention, tiling=ACCELERATOR),
    "cpu_tiles": functools.partial(tiled_attention, tiling=CPU),
}


def _sharded(kernel: Kernel, q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """Runs `kernel` on each device's examples, or on all if the mesh does not divide them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(q, k, v, bias)
    divided = PartitionSpec(mesh.axis_names if q.shape[0] % mesh.size == 0 else None)
    shared = PartitionSpec() if bias is not None and bias.shape[0] == 1 else divided
    mapped = jax.shard_map(
        kernel, in_specs=(divided, divided, divided, shared), out_specs=divided, check_vma=False
    )
    return mapped(q, k, v, bias)
