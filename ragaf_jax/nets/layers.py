"""Layers of all networks, with the parameter names of flax.linen.

They equal `nn.Dense`, `nn.Conv` and `nn.GroupNorm`, in a form that is faster on XLA's CPU backend
and not slower elsewhere. Parameters are float32, the arithmetic is in `dtype`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from flax.typing import Dtype, Initializer
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Num

from ragaf_jax.nets.kernels.pixel_blocks import block_kernel

default_init = nn.initializers.lecun_normal()
zeros_init = nn.initializers.zeros_init()

# The name of outputs of dense layers, convolutions and attention for rematerialisation
# (`blocks.REMAT`): they are costly to compute and small compared with the values in between.
PRODUCT = "product"


def widened(x: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` in at least float32, for sums."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def parameter(
    module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]
) -> Float[Array, "*shape"]:
    """`module.param` without tracing the initialiser of an existing parameter.

    Flax traces it to compare shapes, a thousand times per trace of a network.

    Raises:
      ScopeParamShapeError: the parameter has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape)
    value = jnp.asarray(module.get_variable("params", name))
    if value.shape != shape:
        raise ScopeParamShapeError(name, "/".join(module.path), value.shape, shape)
    return value


class Dense(nn.Module):
    """y = x·W + b over the last axis; `kernel` has a 1×1 convolution's shape if `pointwise`."""

    features: int
    use_bias: bool = True
    pointwise: bool = False
    kernel_init: Initializer = default_init
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch f"]:
        shape = (x.shape[-1], self.features)
        stored = (1, 1, *shape) if self.pointwise else shape
        kernel = parameter(self, "kernel", self.kernel_init, stored)
        # One 2-D dot: a 3-D dot's weight gradient takes up to five times longer on the CPU.
        rows = x.reshape(-1, shape[0]).astype(self.dtype)
        y = rows @ kernel.reshape(shape).astype(self.dtype)
        if self.use_bias:
            bias = parameter(self, "bias", zeros_init, (self.features,))
            y = y + bias.astype(self.dtype)[None]
        return checkpoint_name(y.reshape(*x.shape[:-1], self.features), PRODUCT)


class Conv3x3(nn.Module):
    """A 3×3 convolution with `padding` zeros before and after each side.

    With the default a side n becomes ⌈n / stride⌉. With `block` > 1, input and output consist of
    blocks of pixels (`kernels.pixel_blocks`) with sides `block` and `block` / `stride`; padding is
    (1, 1).
    """

    features: int
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    use_bias: bool = True
    kernel_init: Initializer = default_init
    dtype: Dtype = jnp.float32
    block: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ f"]:
        shape = (3, 3, x.shape[-1] // self.block**2, self.features)
        kernel = parameter(self, "kernel", self.kernel_init, shape)
        stride = self.stride
        if self.block > 1:
            kernel, stride = block_kernel(kernel, self.block, self.stride), 1
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (stride, stride),
            (self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = checkpoint_name(y, PRODUCT)
        if self.use_bias:
            bias = parameter(self, "bias", zeros_init, (self.features,))
            if self.block > 1:
                bias = jnp.tile(bias, (self.block // self.stride) ** 2)
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


# Number of pixels in the mean that `GroupNorm` subtracts before it sums squares.
_SHIFT_PIXELS = 16


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018, eq. 1–2), then SiLU if `silu`; sums in ≥ float32.

    The variance is computed from shifted data in one pass over x (Chan, Golub & LeVeque 1983,
    eq. 1.6): mean((x − k)²) − mean(x − k)². The shift k, the mean of 16 pixels of the group, is
    within √(pixels / 16) standard deviations of the mean, so that a large mean cancels no digits.
    For bfloat16, k is 0: the cancellation in float32 is below a tenth of the rounding error of x,
    and XLA would write x − k to a GPU's memory (docs/performance.md).
    """

    groups: int = 32
    epsilon: float = 1e-5
    silu: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        b, c = x.shape[0], x.shape[-1]
        scale = parameter(self, "scale", nn.initializers.ones_init(), (c,))
        bias = parameter(self, "bias", zeros_init, (c,))
        # Sums per channel, then groups on the small (b, c): one pass over x, and one for a·x + s.
        pixels = widened(x.reshape(b, -1, c))
        size = c // self.groups

        def group_mean(y: Array) -> Array:
            return y.sum(1).reshape(b, self.groups, -1).sum(-1) / (y.shape[1] * size)

        def by_channel(y: Array) -> Array:
            return jnp.repeat(y, size, axis=-1)

        shift: Array = jnp.zeros((b, self.groups), pixels.dtype)
        shifted = pixels
        if x.dtype != jnp.bfloat16:
            some = pixels[:, :: max(1, pixels.shape[1] // _SHIFT_PIXELS)]
            shift = jax.lax.stop_gradient(group_mean(some))
            shifted = pixels - by_channel(shift)[:, None]
        mean = group_mean(shifted)
        variance = jnp.maximum(group_mean(jnp.square(shifted)) - jnp.square(mean), 0.0)
        slope = by_channel(jax.lax.rsqrt(variance + self.epsilon)) * scale[None]
        # With `shifted` instead of `pixels` the backward pass would take 1.5 times as long.
        y = pixels * slope[:, None] + (bias[None] - by_channel(shift + mean) * slope)[:, None]
        y = nn.silu(y) if self.silu else y
        return y.reshape(x.shape).astype(self.dtype)


def upsample(
    x: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b {size[0]} {size[1]} c"]:
    """Nearest-neighbour upsampling by two, cut to `size` (2h or 2h−1, 2w or 2w−1).

    For an odd n, ⌊i·⌈n/2⌉/n⌋ = ⌊i/2⌋: the cut is exactly the nearest resize to n.
    """
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
    return x[:, : size[0], : size[1]]


def timestep_embedding(
    timesteps: Num[Array, " b"], channels: int, flip_sin_to_cos: bool = True, freq_shift: int = 0
) -> Float[Array, "b {channels}"]:
    """Sinusoids of wavelengths 2π … 2π·10⁴ (Ho et al. 2020, app. B); cosines first if flipped."""
    half = channels // 2
    # In float64 on the host: XLA folds an exp of constants in some programs and computes it in
    # others. Their last bits, times 1,000, would make two runs of a step differ.
    frequencies = (1e4 ** (-np.arange(half) / (half - freq_shift))).astype(np.float32)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(waves[::-1] if flip_sin_to_cos else waves, axis=-1)


def guidance_embedding(guidance: Float[Array, " b"], channels: int) -> Float[Array, "b {channels}"]:
    """Sinusoids of 1,000 times the guidance scale − 1 (Luo et al. 2023, sec. 4.2), as in diffusers.

    The angles are so large that the frequencies need diffusers' roundings, those of float32.
    """
    half = channels // 2
    decay = np.float32(np.log(np.float32(1e4))) / np.float32(half - 1)
    exponents = np.arange(half, dtype=np.float32) * -decay
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = (guidance.astype(jnp.float32) * 1000)[:, None] * frequencies[None]
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(waves, ((0, 0), (0, channels % 2)))


class TimestepEmbedding(nn.Module):
    """The two-layer network of the sinusoids, and of a condition's where there is one."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, waves: Float[Array, "b c"], condition: Float[Array, "b d"] | None = None
    ) -> Float[Array, "b f"]:
        if condition is not None:
            projection = Dense(waves.shape[-1], use_bias=False, dtype=self.dtype, name="cond_proj")
            waves = waves.astype(self.dtype) + projection(condition)
        hidden = nn.silu(Dense(self.features, dtype=self.dtype, name="linear_1")(waves))
        return Dense(self.features, dtype=self.dtype, name="linear_2")(hidden)
