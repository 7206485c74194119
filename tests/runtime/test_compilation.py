"""The order of operations spares memory where it is asked for, and changes no number."""

import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import tiny_config

from ragaf_jax.nets.blocks import ResnetBlock, rematerialized
from ragaf_jax.runtime import compilation
from ragaf_jax.runtime.compilation import compiler_options

# What XLA does unless told otherwise: the emitters that compile the tests quickly (conftest.py)
# round by the order of operations. An option of one compilation goes before XLA_FLAGS.
QUICK = "xla_cpu_use_fusion_emitters=false" in os.environ["XLA_FLAGS"]
USUAL_EMITTERS = {"xla_cpu_use_fusion_emitters": True} if QUICK else {}


class Chain(nn.Module):
    """Some of the UNet's blocks, one after the other."""

    remat: str

    @nn.compact
    def __call__(self, x):
        kind = rematerialized(ResnetBlock, self.remat)
        for i in range(4):
            x = kind(32, name=f"resnets_{i}")(x)
        return x


def test_memory_is_spared_where_it_is_asked_for():
    config = tiny_config(1)
    assert compiler_options(config) == {}
    config.memory_budget_gib = 1.0
    by_budget = compiler_options(config)
    config.memory_budget_gib, config.model.remat = 0.0, "blocks"
    assert compiler_options(config) == by_budget != {}


@pytest.mark.parametrize(
    ("libtpu", "expected"),
    [("0.0.42.1", {"xla_vf_vmem_max_outstanding_prefetches": "0"}), ("0.0.43", {}), ("", {})],
)
def test_a_v5e_prefetches_nothing(monkeypatch, libtpu, expected):
    """Unless its compiler may not know the option."""
    monkeypatch.setattr(compilation, "_libtpu", lambda: libtpu)
    config = tiny_config(1)
    config.model.remat = "blocks"

    found = [
        compiler_options(config, device)
        for device in (("tpu", "TPU v5 lite"), ("tpu", "TPU v6 lite"), ("gpu", "NVIDIA H200"))
    ]
    assert found == [expected, {}, {}]


def test_what_is_computed_again_is_not_kept(rng):
    """In the usual order it spares next to nothing; in ours much, to the same bits."""
    x = jnp.asarray(rng.standard_normal((4, 32, 32, 32)), jnp.float32)
    params = jax.jit(Chain("none").init)(jax.random.key(int(rng.integers(2**31))), x)
    config = tiny_config(1)
    config.model.remat = "blocks"

    def compiled(remat, options):
        chain = Chain(remat)
        gradient = jax.jit(jax.grad(lambda params, x: jnp.square(chain.apply(params, x)).mean()))
        return gradient.lower(params, x).compile(USUAL_EMITTERS | options)

    kept, usual = compiled("none", {}), compiled("blocks", {})
    sparing = compiled("blocks", compiler_options(config))
    needs = [f.memory_analysis().temp_size_in_bytes for f in (kept, usual, sparing)]
    assert needs[2] < 0.6 * needs[0]
    assert needs[2] < 0.7 * needs[1]
    for one, other in zip(*(jax.tree.leaves(f(params, x)) for f in (usual, sparing)), strict=True):
        np.testing.assert_array_equal(one, other)
