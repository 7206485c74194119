"""The minimum FLOPs of a training step of the sketch branch, from the networks' sizes.

UNet forward, its decoder backward to the residuals of the sketch branch, and the branch forward
and backward (Zhang et al. 2023, §3.1). Derived from the architecture, independently of the code: 2
FLOPs per multiply-add of convolutions, dense layers and attention; all else is negligible.
"""

import itertools
from typing import NamedTuple

from ragaf_jax.nets.control import ControlNet
from ragaf_jax.nets.unet import UNetConfig


class Products(NamedTuple):
    """Forward FLOPs of layers for one example, by their cost in the backward pass.

    Attributes:
      layers: with parameters, on the gradient's path: the same again for the gradient of inputs,
        and for that of weights.
      first: with parameters, and inputs without gradient (text, latents, sketch): the same again
        for weights only.
      time: of the timestep's embedding, with a gradient if it is trained.
      self_attention: q·kᵀ and weights·v: two products forward, four backward.
      cross_attention: likewise; two backward if nothing before the text's k and v is trained.
    """

    layers: float = 0.0
    first: float = 0.0
    time: float = 0.0
    self_attention: float = 0.0
    cross_attention: float = 0.0

    def __add__(self, other: tuple[float, ...]) -> "Products":  # type: ignore[override]
        return Products(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def forward(self) -> float:
        """The cost of the forward pass."""
        return sum(self)

    @property
    def backward_frozen(self) -> float:
        """The cost of gradients of inputs with frozen weights."""
        return self.layers + 2 * self.self_attention + self.cross_attention

    @property
    def backward_trained(self) -> float:
        """The cost of gradients of inputs and weights."""
        return (
            2 * (self.layers + self.time)
            + self.first
            + 2 * self.self_attention
            + 2 * self.cross_attention
        )


class Minimum(NamedTuple):
    """FLOPs for one example."""

    unet_forward: float
    decoder_backward: float
    control_forward: float
    control_backward: float

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self)


def _conv(cells: int, inputs: int, outputs: int, side: int = 3) -> float:
    return 2.0 * cells * side * side * inputs * outputs


def _resnet(cells: int, inputs: int, outputs: int, time: int) -> Products:
    shortcut = _conv(cells, inputs, outputs, 1) if inputs != outputs else 0.0
    convolutions = _conv(cells, inputs, outputs) + _conv(cells, outputs, outputs)
    return Products(layers=convolutions + shortcut, time=_conv(1, time, outputs, 1))


def _transformer(cells: int, width: int, text: int, tokens: int) -> Products:
    # proj_in, proj_out; q, k, v, out of self-attention; q and out of cross-attention; GEGLU's
    # projection to 8 widths and the one back from 4.
    layers = _conv(cells, width, (2 + 4 + 2 + 8 + 4) * width, 1)
    return Products(
        layers=layers,
        first=2 * _conv(tokens, text, width, 1),
        self_attention=2 * 2.0 * cells * cells * width,
        cross_attention=2 * 2.0 * cells * tokens * width,
    )


def _encoder(config: UNetConfig, side: int, tokens: int) -> tuple[Products, list[tuple[int, int]]]:
    """conv_in, the time embedding, the down blocks and the middle; and (cells, width) of skips."""
    widths, text = config.block_out_channels, config.cross_attention_dim
    time = 4 * widths[0]
    first = _conv(side**2, config.in_channels, widths[0])
    first += _conv(1, widths[0], time, 1)
    total = Products(first=first, time=_conv(1, time, time, 1))
    skips, width = [(side**2, widths[0])], widths[0]
    for level, outputs in enumerate(widths):
        cells = side**2
        for _ in range(config.layers_per_block):
            total += _resnet(cells, width, outputs, time)
            width = outputs
            if config.down_block_types[level] == "CrossAttnDownBlock2D":
                total += _transformer(cells, width, text, tokens)
            skips.append((cells, width))
        if level < len(widths) - 1:
            side = -(-side // 2)
            total += Products(layers=_conv(side**2, width, width))
            skips.append((side**2, width))
    cells = side**2
    total += _resnet(cells, width, width, time)
    total += _transformer(cells, width, text, tokens)
    total += _resnet(cells, width, width, time)
    return total, skips


def _decoder(config: UNetConfig, skips: list[tuple[int, int]], tokens: int) -> Products:
    """The up blocks and conv_out."""
    widths, text = config.block_out_channels, config.cross_attention_dim
    total, width, left = Products(), widths[-1], list(skips)
    for index, outputs in enumerate(reversed(widths)):
        for _ in range(config.layers_per_block + 1):
            cells, skip = left.pop()
            total += _resnet(cells, width + skip, outputs, 4 * widths[0])
            width = outputs
            if config.up_block_types[index] == "CrossAttnUpBlock2D":
                total += _transformer(cells, width, text, tokens)
        if left:
            total += Products(layers=_conv(left[-1][0], width, width))
    return total + Products(layers=_conv(skips[0][0], width, config.out_channels))


def _branch_ends(control: ControlNet, side: int, skips: list[tuple[int, int]]) -> Products:
    """The sketch's convolutions and the zero convolutions."""
    config, channels = control.config, control.conditioning_channels
    side = side << (len(channels) - 1)
    first, layers = _conv(side**2, 3, channels[0]), 0.0
    for same, wider in itertools.pairwise(channels):
        layers += _conv(side**2, same, same)
        side //= 2
        layers += _conv(side**2, same, wider)
    layers += _conv(side**2, channels[-1], config.block_out_channels[0])
    for cells, width in [*skips, skips[-1]]:
        layers += _conv(cells, width, width, 1)
    return Products(layers=layers, first=first)


def least_flops(config: UNetConfig, control: ControlNet, side: int, tokens: int) -> Minimum:
    """FLOPs for one example of a step that trains the sketch branch from latents and text states.

    Args:
      config: the UNet's.
      control: the sketch branch.
      side: of the latents.
      tokens: number of text tokens.
    """
    encoder, skips = _encoder(config, side, tokens)
    decoder = _decoder(config, skips, tokens)
    branch = encoder + _branch_ends(control, side, skips)
    return Minimum(
        unet_forward=encoder.forward + decoder.forward,
        decoder_backward=decoder.backward_frozen,
        control_forward=branch.forward,
        control_backward=branch.backward_trained,
    )
