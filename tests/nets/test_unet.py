"""The UNet: diffusers' parameter tree, any size of latent, and the places where RAGAF enters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import count, digest, parameter_shapes

from ragaf_jax.nets.blocks import RegionSignal
from ragaf_jax.nets.unet import UNet, UNetConfig, injection_sites

SD21 = UNetConfig(
    sample_size=96,
    attention_head_dim=(5, 10, 20, 20),
    cross_attention_dim=1024,
    use_linear_projection=True,
)
TINY = UNetConfig(
    in_channels=3,
    out_channels=5,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    attention_head_dim=(2, 4),
    cross_attention_dim=6,
    norm_num_groups=4,
)


@functools.cache
def shapes_of(config):
    text = (1, 77, config.cross_attention_dim)
    return parameter_shapes(
        UNet(config), ((1, 16, 16, 4), jnp.float32), ((1,), jnp.int32), (text, jnp.float32)
    )


# Fingerprints of the names and shapes of diffusers 0.35.2's FlaxUNet2DConditionModel.
@pytest.mark.parametrize(
    "config, parameters, fingerprint",
    [(UNetConfig(), 859_520_964, "f8fb6fd06336dc87"), (SD21, 865_910_724, "840cef160bf98d44")],
    ids=["sd15", "sd21"],
)
def test_parameter_tree_is_that_of_diffusers(config, parameters, fingerprint):
    shapes = shapes_of(config)
    assert count(shapes) == parameters
    assert digest(shapes) == fingerprint


def test_names():
    shapes = shapes_of(UNetConfig())
    block = "up_blocks_1/attentions_2/transformer_blocks_0"
    assert shapes[f"{block}/attn2/to_k/kernel"] == (768, 1280)
    assert shapes[f"{block}/ff/net_0/proj/kernel"] == (1280, 10240)
    assert shapes["down_blocks_1/resnets_0/conv_shortcut/kernel"] == (1, 1, 320, 640)
    assert shapes["time_embedding/linear_1/kernel"] == (320, 1280)


def test_injection_sites():
    assert injection_sites(UNetConfig()) == {
        "mid_block/attentions_0": (3, 1280),
        **{f"up_blocks_1/attentions_{i}": (2, 1280) for i in range(3)},
        **{f"up_blocks_2/attentions_{i}": (1, 640) for i in range(3)},
        **{f"up_blocks_3/attentions_{i}": (0, 320) for i in range(3)},
    }


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def signals(rng, side, examples=2, regions=4, tokens=7):
    """A random signal for every site."""
    return {
        site: RegionSignal(
            jax.nn.softmax(normal(rng, examples, (-(-side // 2**level)) ** 2, regions)),
            normal(rng, examples, regions, channels),
            normal(rng, examples, regions, tokens),
        )
        for site, (level, channels) in injection_sites(TINY).items()
    }


apply = jax.jit(UNet(TINY).apply)


@functools.cache
def variable_shapes():
    given = jnp.zeros((1, 4, 4, 3)), jnp.zeros(1), jnp.zeros((1, 7, 6))
    return jax.eval_shape(UNet(TINY).init, jax.random.key(0), *given)


def random_variables(rng):
    """Parameters of the tiny UNet in which nothing is zero."""
    return jax.tree.map(lambda leaf: 0.3 * normal(rng, *leaf.shape), variable_shapes())


@pytest.fixture
def unet(rng):
    """The tiny UNet with random parameters, as a function of its inputs."""
    return functools.partial(apply, random_variables(rng))


def inputs(rng, height=5, width=5, examples=2):
    return (
        normal(rng, examples, height, width, 3),
        jnp.asarray(rng.uniform(0, 999, examples), jnp.float32),
        normal(rng, examples, 7, 6),
    )


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(np.abs(b).max()))


def differ(a, b):
    return float(jnp.abs(a - b).max()) > 1e-3 * float(jnp.abs(b).max())


def test_cells_attend_to_the_text_of_their_share_at_every_level(rng, unet):
    """Cells that attend to one of two texts: as if it were the only one, at odd sizes as well."""
    latents, timesteps, text = inputs(rng)
    both = jnp.concatenate([text, normal(rng, *text.shape)], 1)
    levels = [(-(-5 // 2**level)) ** 2 for level in range(len(TINY.block_out_channels))]

    def alone(which):
        one_hot = jnp.eye(2)[which]
        return tuple(jnp.broadcast_to(one_hot, (2, cells, 2)) for cells in levels)

    for which, states in enumerate((text, both[:, 7:])):
        found = unet(latents, timesteps, both, text_shares=alone(which))
        close(found, unet(latents, timesteps, states))
    halves = unet(latents, timesteps, both, text_shares=tuple(x * 0 + 0.5 for x in alone(0)))
    assert differ(halves, unet(latents, timesteps, text))


@pytest.mark.parametrize(
    "size",
    [(1, 7), *(pytest.param(x, marks=pytest.mark.products) for x in [(4, 4), (5, 3), (1, 8)])],
)
def test_any_size(rng, unet, size):
    out = unet(*inputs(rng, *size))
    assert out.shape == (2, *size, 5)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("copies", [2, pytest.param(1, marks=pytest.mark.products)])
def test_a_batch_is_its_examples(rng, unet, copies):
    """Each with a copy of itself (a batch as large needs no other program), or all alone."""
    batch = (*inputs(rng), None, None, signals(rng, 5))
    together = unet(*batch)
    for i in range(2):
        for alone in unet(*jax.tree.map(lambda x, i=i: x[np.full(copies, i)], batch)):
            close(alone, together[i])


def test_everything_has_influence(rng, unet):
    latents, timesteps, text = inputs(rng)
    out = unet(latents, timesteps, text)
    assert differ(unet(latents + 0.1, timesteps, text), out)
    assert differ(unet(latents, timesteps + 100, text), out)
    assert differ(unet(latents, timesteps, text + 0.5), out)


def skip_shapes(side):
    half = -(-side // 2)
    return [(2, side, side, 8)] * 2 + [(2, half, half, 8), (2, half, half, 16)]


def test_residuals(rng, unet):
    given = inputs(rng)
    zeros = tuple(jnp.zeros(shape) for shape in skip_shapes(5))
    none = jnp.zeros((2, 3, 3, 16))
    close(unet(*given, zeros, none), unet(*given))
    for i, zero in enumerate(zeros):
        changed = (*zeros[:i], zero + normal(rng, *zero.shape), *zeros[i + 1 :])
        assert differ(unet(*given, changed, none), unet(*given)), i
    middle = normal(rng, 2, 3, 3, 16)
    assert differ(unet(*given, zeros, middle), unet(*given))
    with pytest.raises(ValueError, match="zip"):
        unet(*given, zeros[:-1])


def test_every_signal_has_influence_and_zero_has_none(rng, unet):
    given, sent = inputs(rng), signals(rng, 5)
    silent = {
        site: RegionSignal(s.share, 0 * s.feature, 0 * s.logit_bias) for site, s in sent.items()
    }
    plain = unet(*given)
    close(unet(*given, None, None, silent), plain)
    for site, signal in sent.items():
        for part in ("feature", "logit_bias"):
            one = silent[site]._replace(**{part: 3 * getattr(signal, part)})
            assert differ(unet(*given, None, None, silent | {site: one}), plain), (site, part)


def test_order_of_regions_does_not_matter(rng, unet):
    given, sent = inputs(rng), signals(rng, 5)
    order = rng.permutation(4)
    shuffled = {
        site: RegionSignal(s.share[..., order], s.feature[:, order], s.logit_bias[:, order])
        for site, s in sent.items()
    }
    close(unet(*given, None, None, shuffled), unet(*given, None, None, sent))


def test_unknown_site(rng, unet):
    signal = next(iter(signals(rng, 5).values()))
    with pytest.raises(ValueError, match="down_blocks_0/attentions_0"):
        unet(*inputs(rng), None, None, {"down_blocks_0/attentions_0": signal})


def test_bfloat16_computes_float32_out(rng):
    half = UNet(TINY, dtype=jnp.bfloat16)
    variables, given = random_variables(rng), inputs(rng)
    shapes = jax.eval_shape(half.init, jax.random.key(0), *given)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    out = jax.jit(half.apply)(variables, *given)
    assert out.dtype == jnp.float32
    expected = apply(variables, *given)
    assert float(jnp.abs(out - expected).max()) < 0.1 * float(jnp.abs(expected).max())


@pytest.mark.parametrize(
    "field, value",
    [
        ("down_block_types", ("DownBlock2D",)),
        ("up_block_types", ("UpBlock2D", "UpBlock3D")),
        ("attention_head_dim", (2, 2, 2)),
        ("attention_head_dim", 3),
        ("norm_num_groups", 32),
    ],
)
def test_sizes_that_do_not_fit(field, value):
    with pytest.raises(ValueError, match=field if field != "attention_head_dim" else "head"):
        dataclasses.replace(TINY, **{field: value})
