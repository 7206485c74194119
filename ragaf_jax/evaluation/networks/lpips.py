"""LPIPS v0.1, the learned perceptual distance (Zhang et al. 2018), on AlexNet and VGG16."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.nets.layers import Dense
from ragaf_jax.weights.load import Tree

# ImageNet's mean and standard deviation for images in [−1, 1], as rounded by the authors.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Conv(NamedTuple):
    """A convolution with bias before a ReLU; `number` is its index in torchvision's `features`."""

    number: int
    features: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


class Backbone(NamedTuple):
    """A classifier's convolutions in stages, whose outputs LPIPS compares.

    Attributes:
      stages: the convolutions of each stage.
      pools: number of stages after the first that begin with a max pool of stride 2.
      window: of those pools.
      least: smallest side of an image for which the last stage has a pixel.
    """

    stages: tuple[tuple[Conv, ...], ...]
    pools: int
    window: int
    least: int


BACKBONES = {
    # Krizhevsky 2014 ("One weird trick"), not the AlexNet of 2012.
    "alex": Backbone(
        stages=(
            (Conv(0, 64, 11, 4, 2),),
            (Conv(3, 192, 5, 1, 2),),
            (Conv(6, 384),),
            (Conv(8, 256),),
            (Conv(10, 256),),
        ),
        pools=2,
        window=3,
        least=31,
    ),
    # Simonyan & Zisserman 2015, table 1, D.
    "vgg": Backbone(
        stages=(
            (Conv(0, 64), Conv(2, 64)),
            (Conv(5, 128), Conv(7, 128)),
            (Conv(10, 256), Conv(12, 256), Conv(14, 256)),
            (Conv(17, 512), Conv(19, 512), Conv(21, 512)),
            (Conv(24, 512), Conv(26, 512), Conv(28, 512)),
        ),
        pools=4,
        window=2,
        least=16,
    ),
}


@jax.jit
def lpips(
    params: Tree, a: UInt8[Array, "b h w 3"], b: UInt8[Array, "b h w 3"]
) -> Float32[Array, " b"]:
    """The distance of each pair of sRGB images, ≥ 0; compiles once per shape.

    params: from `weights.load_lpips`; they determine the backbone.

    Raises:
      UserError: the images are too small for the backbone.
    """
    net = _net_of(params)
    least = BACKBONES[net].least
    if min(a.shape[1:3]) < least:
        raise UserError(
            f"The images are {a.shape[2]}×{a.shape[1]} pixels, expected sides of at least {least}"
            f" for LPIPS with {net!r}; use larger images."
        )
    with jax.default_matmul_precision("highest"):
        scaled = (x.astype(jnp.float32) / 127.5 - 1 for x in (a, b))
        return Lpips(net).apply({"params": params}, *scaled)


class Lpips(nn.Module):
    """Equation 1 of the paper for the backbone `net`."""

    net: str

    @nn.compact
    def __call__(
        self, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
    ) -> Float[Array, " b"]:
        shift, scale = (jnp.array([[[x]]], a.dtype) for x in (_SHIFT, _SCALE))
        both = (jnp.concatenate([a, b]) - shift) / scale
        distances = []
        for i, y in enumerate(Features(BACKBONES[self.net], name="features")(both)):
            # The original code adds ε outside the root, for outputs that are all zero.
            y = y / (jnp.sqrt(jnp.square(y).sum(-1, keepdims=True)) + 1e-10)
            squares = jnp.square(y[: len(a)] - y[len(a) :])
            head = Dense(1, use_bias=False, pointwise=True, name=f"lin{i}")
            distances.append(head(squares).mean((1, 2, 3)))
        return jnp.stack(distances).sum(0)


class Features(nn.Module):
    """The convolutions of a backbone; returns the output of each stage."""

    backbone: Backbone

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        size = (self.backbone.window, self.backbone.window)
        outputs = []
        for i, stage in enumerate(self.backbone.stages):
            if 0 < i <= self.backbone.pools:
                x = nn.max_pool(x, size, (2, 2))
            for number, features, kernel, stride, padding in stage:
                conv = nn.Conv(features, (kernel, kernel), stride, padding, name=str(number))
                x = nn.relu(conv(x))
            outputs.append(x)
        return tuple(outputs)


def _net_of(params: Tree) -> str:
    """The name of the backbone of `params`."""
    return next(
        net
        for net, backbone in BACKBONES.items()
        if {str(x.number) for stage in backbone.stages for x in stage} == set(params["features"])
    )
