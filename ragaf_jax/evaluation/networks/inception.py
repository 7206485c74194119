"""Inception for FID, KID and IS: TensorFlow's graph of 2015-12-05 (Szegedy et al. 2016).

It differs from torchvision's: average pools do not count padding, the last block has a max pool
instead of the paper's average pool, and there are 1,008 classes. Parameter names are those of the
state dict of pytorch-fid and torch-fidelity.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from ragaf_jax.nets.layers import Dense, parameter, zeros_init
from ragaf_jax.weights.load import Tree

# Side of the network's input; images are scaled to it.
SIDE = 299
CLASSES = 1008


class InceptionOutput(NamedTuple):
    """Inputs of the metrics.

    Attributes:
      features: the last average pool, ≥ 0, for FID and KID.
      logits: of the classes.
      unbiased_logits: the logits without bias, for the Inception score, as in the code of Salimans
        et al. 2016 and torch-fidelity.
    """

    features: Float32[Array, "b 2048"]
    logits: Float32[Array, "b 1008"]
    unbiased_logits: Float32[Array, "b 1008"]


@jax.jit
def inception(params: Tree, images: UInt8[Array, "b h w 3"]) -> InceptionOutput:
    """Features and logits of sRGB images of any size; compiles once per shape.

    params: from `weights.load_inception`.
    """
    with jax.default_matmul_precision("highest"):
        x = resize_like_tensorflow1(images.astype(jnp.float32), SIDE)
        features, logits = Inception().apply({"params": params}, (x - 128) / 128)
    return InceptionOutput(features, logits, logits - params["fc"]["bias"][None])


def resize_like_tensorflow1(
    x: Float[Array, "b h w c"], side: int
) -> Float[Array, "b {side} {side} c"]:
    """Bilinear with source coordinates i·n/side, as TensorFlow 1's `tf.image.resize_bilinear`.

    Corners are not aligned, pixel centres are at integers, and there is no antialiasing. Parmar et
    al. 2022, sec. 3, describe the effect on FID.
    """
    for axis in (2, 1):  # TensorFlow's order, for the same rounding
        size = x.shape[axis]
        source = np.arange(side, dtype=np.float32) * np.float32(size / side)
        low = source.astype(np.int32)
        weight = np.expand_dims(source - low, [i for i in range(4) if i != axis])
        near, far = (x.take(i, axis, mode="clip") for i in (low, low + 1))
        x = near + (far - near) * weight
    return x


class Inception(nn.Module):
    """From images in [−1, 1) to features and logits."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b 299 299 3"]
    ) -> tuple[Float[Array, "b 2048"], Float[Array, "b 1008"]]:
        x = Conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = Conv(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = Conv(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = _halved(x)
        x = Conv(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = Conv(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = _halved(x)
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(pooled, name=name)(x)
        x = BlockB(name="Mixed_6a")(x)
        for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = BlockC(inner, name=f"Mixed_{name}")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(False, name="Mixed_7b")(x)
        x = BlockE(True, name="Mixed_7c")(x)
        features = x.mean((1, 2))
        return features, Dense(CLASSES, name="fc")(features)


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ f"]:
        conv = nn.Conv(
            self.features,
            self.kernel,
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            name="conv",
        )
        return nn.relu(BatchNorm(name="bn")(conv(x)))


class BatchNorm(nn.Module):
    """Batch normalisation with running statistics (Ioffe & Szegedy 2015, alg. 2)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shape, ones = x.shape[-1:], nn.initializers.ones_init()
        mean = parameter(self, "running_mean", zeros_init, shape)
        variance = parameter(self, "running_var", ones, shape)
        slope = parameter(self, "scale", ones, shape) * jax.lax.rsqrt(variance + 1e-3)
        bias = parameter(self, "bias", zeros_init, shape)
        return (x - mean[None, None, None]) * slope[None, None, None] + bias[None, None, None]


class BlockA(nn.Module):
    """Figure 5 of the paper: 35×35."""

    pooled: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        return _joined(
            Conv(64, (1, 1), name="branch1x1")(x),
            _branch(x, "branch5x5", (48, (1, 1)), (64, (5, 5))),
            _branch(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
            Conv(self.pooled, (1, 1), name="branch_pool")(_averaged(x)),
        )


class BlockB(nn.Module):
    """From 35×35 to 17×17."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ f"]:
        return _joined(
            Conv(384, (3, 3), 2, "VALID", name="branch3x3")(x),
            _branch(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3), 2, "VALID")),
            _halved(x),
        )


class BlockC(nn.Module):
    """Figure 6, n = 7: 17×17."""

    inner: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        first, row, column = ((self.inner, kernel) for kernel in ((1, 1), (1, 7), (7, 1)))
        return _joined(
            Conv(192, (1, 1), name="branch1x1")(x),
            _branch(x, "branch7x7", first, row, (192, (7, 1))),
            _branch(x, "branch7x7dbl", first, column, row, column, (192, (1, 7))),
            Conv(192, (1, 1), name="branch_pool")(_averaged(x)),
        )


class BlockD(nn.Module):
    """From 17×17 to 8×8."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ f"]:
        return _joined(
            _branch(x, "branch3x3", (192, (1, 1)), (320, (3, 3), 2, "VALID")),
            _branch(
                x,
                "branch7x7x3",
                (192, (1, 1)),
                (192, (1, 7)),
                (192, (7, 1)),
                (192, (3, 3), 2, "VALID"),
            ),
            _halved(x),
        )


class BlockE(nn.Module):
    """Figure 7: 8×8. The last one has a max pool (`maximum`), not the paper's average pool."""

    maximum: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        def both(y: Array, name: str) -> Array:
            row = Conv(384, (1, 3), name=f"{name}a")(y)
            return _joined(row, Conv(384, (3, 1), name=f"{name}b")(y))

        double = _branch(x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3)))
        pooled = nn.max_pool(x, (3, 3), padding="SAME") if self.maximum else _averaged(x)
        return _joined(
            Conv(320, (1, 1), name="branch1x1")(x),
            both(Conv(384, (1, 1), name="branch3x3_1")(x), "branch3x3_2"),
            both(double, "branch3x3dbl_3"),
            Conv(192, (1, 1), name="branch_pool")(pooled),
        )


def _branch(x: Array, name: str, *convs: tuple[Any, ...]) -> Array:
    """Convolutions `name`_1, `name`_2, … in series; each has the first fields of `Conv`."""
    for i, conv in enumerate(convs, 1):
        x = Conv(*conv, name=f"{name}_{i}")(x)
    return x


def _joined(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)


def _halved(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _averaged(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
