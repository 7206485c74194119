"""ControlNet: diffusers' parameter tree, silent at the start, heard by every skip afterwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_unet import SD21, TINY, close, differ, inputs, normal, skip_shapes
from trees import count, digest, parameter_shapes

from ragaf_jax.nets.control import ControlNet
from ragaf_jax.nets.unet import UNetConfig


# Fingerprints of the names and shapes of diffusers 0.35.2's FlaxControlNetModel.
@pytest.mark.parametrize(
    "config, parameters, fingerprint",
    [(UNetConfig(), 361_279_120, "803428b751e4f7f8"), (SD21, 364_228_240, "29a15c917684ae52")],
    ids=["sd15", "sd21"],
)
def test_parameter_tree_is_that_of_diffusers(config, parameters, fingerprint):
    shapes = parameter_shapes(
        ControlNet(config),
        ((1, 8, 8, 4), jnp.float32),
        ((1,), jnp.int32),
        ((1, 77, config.cross_attention_dim), jnp.float32),
        ((1, 64, 64, 3), jnp.float32),
    )
    assert count(shapes) == parameters
    assert digest(shapes) == fingerprint


CONTROL = ControlNet(TINY, conditioning_channels=(4, 4, 8))
apply = jax.jit(CONTROL.apply)


@pytest.fixture
def given(rng):
    """Latents of 5² with their timesteps, text and sketch."""
    return (*inputs(rng), jnp.asarray(rng.uniform(0, 1, (2, 20, 20, 3)), jnp.float32))


@pytest.fixture(scope="module")
def variables():
    """Parameters as they are at the start of training."""
    latents, text, sketch = (jnp.zeros(s) for s in ((1, 5, 5, 3), (1, 7, 6), (1, 20, 20, 3)))
    return jax.jit(CONTROL.init)(jax.random.key(0), latents, jnp.zeros(1), text, sketch)


@pytest.fixture
def trained(rng, variables):
    """Parameters in which nothing is zero."""
    return jax.tree.map(lambda x: x + 0.1 * normal(rng, *x.shape), variables)


def test_silent_at_the_start(given, variables):
    down, mid, _ = apply(variables, *given)
    assert [x.shape for x in down] == skip_shapes(5)
    assert mid.shape == (2, 3, 3, 16)
    assert not any(x.any() for x in (*down, mid))


def test_learns_from_the_first_step(given, variables):
    def loss(variables):
        down, mid, _ = CONTROL.apply(variables, *given)
        return sum((x - 1).mean() for x in (*down, mid))

    gradients = jax.jit(jax.grad(loss))(variables)["params"]
    for i in range(4):
        assert gradients[f"controlnet_down_blocks_{i}"]["kernel"].any()
    assert gradients["controlnet_mid_block"]["kernel"].any()


def test_features_are_what_the_residuals_are_made_of(given, trained):
    down, mid, features = apply(trained, *given)
    params = trained["params"]
    names = [f"controlnet_down_blocks_{i}" for i in range(4)] + ["controlnet_mid_block"]
    for name, feature, residual in zip(names, features, (*down, mid), strict=True):
        kernel, bias = params[name]["kernel"][0, 0], params[name]["bias"]
        close(residual, np.asarray(feature) @ np.asarray(kernel) + np.asarray(bias))


def test_scale(given, trained):
    down, mid, features = apply(trained, *given)
    half_down, half_mid, same_features = apply(trained, *given, jnp.asarray(0.5))
    for a, b in zip((*half_down, half_mid), (*down, mid), strict=True):
        close(a, 0.5 * b)
    for a, b in zip(same_features, features, strict=True):
        close(a, b)


def test_the_sketch_reaches_every_residual(given, trained):
    before, after = apply(trained, *given), apply(trained, *given[:3], 1 - given[3])
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert differ(a, b)


@pytest.mark.parametrize("sketch", [(2, 10, 10, 3), (2, 20, 24, 3)])
def test_a_sketch_of_another_size(given, variables, sketch):
    with pytest.raises(ValueError, match=r"expected \(20, 20\)"):
        apply(variables, *given[:3], jnp.zeros(sketch))
