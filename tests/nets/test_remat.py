"""Computing again instead of keeping: the same numbers and names, and less is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import tiny_config

from ragaf_jax.errors import UserError
from ragaf_jax.nets.blocks import REMAT
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.lora import LoraConfig, adapted, init_lora
from ragaf_jax.nets.unet import UNet, UNetConfig


def unet(policy, down_block_type="CrossAttnDownBlock2D"):
    config = UNetConfig(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", down_block_type),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=6,
        norm_num_groups=4,
    )
    return UNet(config, remat=policy)


SHAPES = ((1, 4, 4, 4), (1,), (1, 3, 6), ((1, 4, 4, 8), (1, 4, 4, 8), (1, 2, 2, 8), (1, 2, 2, 8)))
INPUTS = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    (*SHAPES, (1, 2, 2, 8)),
    is_leaf=lambda x: isinstance(x, tuple) and isinstance(x[0], int),
)


def shapes_of(policy, *kind):
    return jax.eval_shape(unet(policy, *kind).init, jax.random.key(0), *INPUTS)["params"]


def normal(rng, shapes):
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 3, jnp.float32), shapes)


def test_each_policy_has_the_same_parameters_outputs_and_gradients(rng):
    """With LoRA, whose adapters are added from without to modules inside of what is wrapped."""
    shapes, inputs = shapes_of("none"), normal(rng, INPUTS)
    lora = LoraConfig(("unet/.*/to_[qv]", "unet/.*/conv1"), rank=2)
    adapters = init_lora(lora, {"unet": shapes}, jax.random.key(0))["unet"]
    params = normal(rng, (shapes, adapters))

    def value_and_gradients(policy):
        def loss(params):
            with adapted(params[1]):
                out = unet(policy).apply({"params": params[0]}, *inputs)
            return jnp.square(out).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    expected, gradients = value_and_gradients("none")
    norm = np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(gradients)))
    for policy in ("attention", "blocks", "full"):
        assert shapes_of(policy) == shapes
        found, others = value_and_gradients(policy)
        assert float(found) == pytest.approx(float(expected), rel=1e-6)
        difference = jax.tree.map(jnp.subtract, others, gradients)
        assert max(np.abs(x).max() for x in jax.tree.leaves(difference)) <= 1e-6 * norm


def kept_bytes(policy, down_block_type, *, everything):
    """Of what the forward pass hands to the backward pass, of all or of the residuals alone."""
    network = unet(policy, down_block_type)

    def backward(params, *inputs):
        def of_residuals(residuals):
            return network.apply({"params": params}, *inputs[:3], *residuals)

        def of_params(params):
            return network.apply({"params": params}, *inputs)

        return jax.vjp(of_params, params)[1] if everything else jax.vjp(of_residuals, inputs[3:])[1]

    kept = jax.eval_shape(backward, shapes_of(policy, down_block_type), *INPUTS)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))


def test_less_is_kept_from_policy_to_policy():
    kept = [kept_bytes(policy, "CrossAttnDownBlock2D", everything=True) for policy in REMAT]
    assert list(REMAT) == ["none", "attention", "blocks", "full"]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 4


@pytest.mark.parametrize("policy", REMAT)
def test_the_frozen_encoder_keeps_nothing(policy):
    """Where only the sketch branch trains, the UNet keeps the same whatever its encoder does."""
    plain = kept_bytes(policy, "DownBlock2D", everything=False)
    assert kept_bytes(policy, "CrossAttnDownBlock2D", everything=False) == plain
    plain = kept_bytes(policy, "DownBlock2D", everything=True)
    assert kept_bytes(policy, "CrossAttnDownBlock2D", everything=True) > plain


def test_an_unknown_policy_is_named():
    config = tiny_config(1)
    config.model.remat = "some"
    with pytest.raises(UserError, match="remat is 'some'; choose one of none, attention, blocks"):
        build_model(config)
