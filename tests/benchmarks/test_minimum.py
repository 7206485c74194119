"""The least products of a step, against what our networks' traces hold."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from benchmarks.comparison.minimum import least_flops
from benchmarks.comparison.problem import Job, config_of
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.control import ControlNet
from ragaf_jax.nets.unet import UNet, UNetConfig
from ragaf_jax.planning.plan import flops_of
from ragaf_jax.runtime.flops import matmul_flops


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, jnp.float32)


def random_networks(rng, levels, halvings):
    """A UNet and its sketch branch of random widths, depth and kinds of blocks."""
    attends = rng.random(levels) < 0.5
    config = UNetConfig(
        block_out_channels=tuple(8 * int(n) for n in rng.integers(1, 4, levels)),
        down_block_types=tuple("CrossAttnDownBlock2D" if x else "DownBlock2D" for x in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if x else "UpBlock2D" for x in ~attends),
        layers_per_block=int(rng.integers(1, 3)),
        attention_head_dim=2,
        cross_attention_dim=int(rng.integers(3, 20)),
        norm_num_groups=4,
    )
    return UNet(config), ControlNet(config, (4, 6, 9)[: halvings + 1])


def test_the_forward_passes_are_ours_exactly(rng):
    unet, control = random_networks(rng, levels=int(rng.integers(1, 4)), halvings=2)
    side, tokens = 4 * int(rng.integers(1, 5)), int(rng.integers(1, 9))
    x, t, text = (
        shape(1, side, side, 4),
        shape(1),
        shape(1, tokens, unet.config.cross_attention_dim),
    )
    sketch = shape(1, 4 * side, 4 * side, 3)
    least = least_flops(unet.config, control, side, tokens)
    for network, inputs, expected in (
        (unet, (x, t, text), least.unet_forward),
        (control, (x, t, text, sketch), least.control_forward),
    ):
        params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
        assert matmul_flops(network.apply, params, *inputs) == expected


def test_the_backward_pass_of_the_branch_is_what_its_gradient_takes(rng):
    """Of one level, as a trace counts the zeros between the pixels of strided gradients, too."""
    _, control = random_networks(rng, levels=1, halvings=0)
    side, tokens, config = 8, 5, control.config
    inputs = shape(1, side, side, 4), shape(1), shape(1, tokens, config.cross_attention_dim)
    inputs = *inputs, shape(1, side, side, 3)
    params = jax.eval_shape(control.init, jax.random.key(0), *inputs)

    def loss(params, *inputs):
        down, mid, _ = control.apply(params, *inputs)
        return sum(jnp.square(x).sum() for x in (*down, mid))

    least = least_flops(config, control, side, tokens)
    # Attention on the CPU multiplies q·kᵀ again instead of keeping it.
    attends = config.down_block_types[0] == "CrossAttnDownBlock2D"
    transformers = 1 + config.layers_per_block * attends
    width, cells = config.block_out_channels[0], side**2
    again = transformers * 2 * cells * (cells + tokens) * width
    found = matmul_flops(jax.grad(loss), params, *inputs)
    assert found == least.control_forward + least.control_backward + again


@pytest.mark.products
def test_a_step_is_near_the_least(rng):
    """At Stable Diffusion's size; and what "pointwise" computes again is no product."""
    job = Job("ours", "step", "sd15", 512, 2, "bfloat16")
    model = build_model(config_of(job))
    least = least_flops(model.unet.config, model.control, 64, 77).total
    assert least <= flops_of(config_of(job)) <= 1.1 * least
    job = Job("ours", "step", "tiny", 64, 2)
    again = dataclasses.replace(job, remat="pointwise")
    assert flops_of(config_of(again)) == flops_of(config_of(job))
