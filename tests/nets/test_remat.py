"""Computing again instead of keeping: the same numbers and names, and less is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import (
    in_float64,
    random_batch,
    random_params,
    smallest_config,
    tiny_config,
    tiny_tokenizer,
)
from jax.flatten_util import ravel_pytree

from ragaf_jax.errors import UserError
from ragaf_jax.losses.objective import objective_of, step_inputs
from ragaf_jax.losses.terms import step_loss
from ragaf_jax.nets.blocks import REMAT, RegionSignal
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.lora import LoraConfig, adapted, init_lora
from ragaf_jax.nets.unet import UNet, UNetConfig, injection_sites


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


@functools.cache
def shapes_of(policy, *kind):
    return jax.eval_shape(unet(policy, *kind).init, jax.random.key(0), *INPUTS)["params"]


def test_each_policy_has_the_same_parameters():
    assert all(shapes_of(policy) == shapes_of("none") for policy in REMAT)


def normal(rng, tree):
    return jax.tree.map(lambda x: rng.standard_normal(x.shape), tree)


@functools.partial(jax.jit, static_argnums=0)
def gradients_of_unet(network, params, inputs, signals, adapters, key):
    """Of its parameters, of its inputs, of RAGAF's signals and of LoRA's adapters."""

    def loss(params, inputs, signals, adapters):
        with adapted(adapters, 0.2, key):
            out = network.apply({"params": params}, *inputs, None, None, signals)
        return jnp.square(out).mean()

    found = jax.grad(loss, argnums=(0, 1, 2, 3))(params, inputs, signals, adapters)
    return ravel_pytree(found)[0]


SMALLEST = UNetConfig(
    block_out_channels=(8,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=6,
    norm_num_groups=4,
)


@pytest.fixture(scope="module")
def unet_and_gradients(seed):
    """Random arguments of `gradients_of_unet`, and what it gives where everything is kept."""
    rng, network = np.random.default_rng(seed), UNet(SMALLEST, jnp.float64)
    config = LoraConfig(("unet/mid_block/.*/to_[qv]", "unet/.*/conv1"), rank=2)
    with jax.enable_x64(True):
        params = jax.eval_shape(network.init, jax.random.key(0), *INPUTS[:3])["params"]
        params = normal(rng, params)
        make = functools.partial(init_lora, config, {"unet": params})
        adapters = normal(rng, jax.eval_shape(make, jax.random.key(0)))["unet"]
        signals = {
            site: RegionSignal(
                *(rng.standard_normal(s) for s in ((1, 16 >> 2 * level, 2), (1, 2, c), (1, 2, 3)))
            )
            for site, (level, c) in injection_sites(SMALLEST).items()
        }
        given = params, normal(rng, INPUTS[:3]), signals, adapters, jax.random.key(seed)
        return given, np.asarray(gradients_of_unet(network, *given))


# "pointwise" and "full" wrap every kind of module between them, with a choice of what is kept and
# without.
GATE = ("pointwise", "full")


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(x, marks=[] if x in GATE else [pytest.mark.products])
        for x in REMAT
        if x != "none"
    ],
)
def test_each_policy_gives_the_same_gradients_of_the_unet(unet_and_gradients, policy):
    """With RAGAF, whose signals enter what is wrapped, and with LoRA, whose adapters and dropout
    are added from without to modules inside of it.

    In float64: what is computed again must differ by its rounding alone.
    """
    given, expected = unet_and_gradients
    with jax.enable_x64(True):
        found = np.asarray(gradients_of_unet(UNet(SMALLEST, jnp.float64, policy), *given))
    assert found.dtype == expected.dtype == np.float64
    assert np.linalg.norm(found - expected) <= 1e-9 * np.linalg.norm(expected)


@pytest.mark.products
def test_each_policy_gives_the_same_gradients(rng):
    """Of all that a step minimises, with RAGAF and with LoRA."""
    config = smallest_config(2)
    config.update_from_flattened_dict(
        {
            "model.dtype": "float64",
            "model.unet.up_block_types": ("CrossAttnUpBlock2D",),
            "train.read_examples": 0,
            "model.lora.patterns": ("(unet|control)/mid_block/.*/to_[qv]", "unet/.*/conv1"),
            "model.lora.rank": 2,
            "model.lora.dropout": 0.2,
        }
    )
    key = jax.random.key(int(rng.integers(2**31)))
    objective = objective_of(config, tiny_tokenizer())
    with jax.enable_x64(True):
        params = random_params(build_model(config), rng)
        params, batch = in_float64((params, random_batch(rng, config)))

        def value_and_gradients(policy):
            config.model.remat = policy
            model = build_model(config)

            def loss(params, batch):
                return step_loss(model, objective, params, *step_inputs(objective, key, batch))

            (loss, _), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch)
            return loss, np.asarray(ravel_pytree(gradients)[0])

        expected, gradients = value_and_gradients("none")
        for policy in (policy for policy in REMAT if policy != "none"):
            found, others = value_and_gradients(policy)
            assert abs(found - expected) <= 1e-9 * abs(expected)
            assert np.linalg.norm(others - gradients) <= 1e-9 * np.linalg.norm(gradients)


@functools.cache
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
    assert list(REMAT) == ["none", "attention", "pointwise", "blocks", "full"]
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 5


@pytest.mark.parametrize(
    "policy",
    ["none", "pointwise"]
    + [pytest.param(x, marks=pytest.mark.products) for x in ("attention", "blocks", "full")],
)
def test_the_frozen_encoder_keeps_nothing(policy):
    """Where only the sketch branch trains, the UNet keeps the same whatever its encoder does."""
    plain = kept_bytes(policy, "DownBlock2D", everything=False)
    assert kept_bytes(policy, "CrossAttnDownBlock2D", everything=False) == plain
    plain = kept_bytes(policy, "DownBlock2D", everything=True)
    assert kept_bytes(policy, "CrossAttnDownBlock2D", everything=True) > plain


def test_an_unknown_policy_is_named():
    config = tiny_config(1)
    config.model.remat = "some"
    with pytest.raises(
        UserError, match="remat is 'some'; choose one of none, attention, pointwise"
    ):
        build_model(config)
