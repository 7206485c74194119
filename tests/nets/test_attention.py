"""The choice of a kernel, and what holds of each."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_reference import check, inputs
from commands import on_eight_devices
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ragaf_jax.nets.attention import attention, hide, kernel_name

COLLECTIVE = " (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?[(]"


H200, A_TPU = ("gpu", "NVIDIA H200"), ("tpu", "TPU v5 lite")
LATENTS, TEXT = (4, 4096, 8, 40), (4, 77, 8, 40)


@pytest.mark.parametrize(
    ("device", "q", "k", "dtype", "bias", "name"),
    [
        (("cpu", "cpu"), LATENTS, LATENTS, "float32", None, "cpu_tiles"),
        (H200, LATENTS, LATENTS, "bfloat16", None, "cudnn"),
        (H200, LATENTS, TEXT, "bfloat16", None, "tiles"),  # an odd length
        (H200, LATENTS, LATENTS, "float32", None, "tiles"),
        (H200, LATENTS, LATENTS, "bfloat16", (4, 1), "tiles"),
        (H200, (4, 256, 8, 160), (4, 256, 8, 160), "bfloat16", None, "tiles"),
        (H200, (1, 4096, 1, 512), (1, 4096, 1, 512), "bfloat16", None, "tiles"),
        (("gpu", "Tesla T4"), LATENTS, LATENTS, "float16", None, "tiles"),
        (("gpu", "NVIDIA B200"), LATENTS, LATENTS, "float16", None, "cudnn"),
        (("gpu", "AMD Instinct MI300X"), LATENTS, LATENTS, "bfloat16", None, "tiles"),
        (A_TPU, LATENTS, LATENTS, "bfloat16", None, "pallas"),
        (A_TPU, LATENTS, TEXT, "bfloat16", (4, 1), "pallas"),
        (A_TPU, LATENTS, LATENTS, "float32", None, "pallas"),
        (A_TPU, (4, 77, 12, 64), (4, 77, 12, 64), "bfloat16", (1, 1), "tiles"),  # of all examples
        (A_TPU, LATENTS, TEXT, "bfloat16", (4, 8), "tiles"),  # a bias of each head
    ],
)
def test_each_device_has_the_kernel_whose_rules_allow_it(device, q, k, dtype, bias, name):
    biased = None if bias is None else jnp.zeros((*bias, 1, 1))
    assert kernel_name(*device, q, k, jnp.dtype(dtype), biased) == name


def test_a_mesh_changes_nothing_and_moves_nothing(seed):
    on_eight_devices(__file__, seed)


def on_a_mesh(rng):
    """Compares with NumPy on 2 × 4 devices; of examples that can be divided, none is moved."""
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        for batch, bias_shape in ((8, None), (8, (1, 1)), (8, (8, 1)), (3, (3, 1))):
            arguments = inputs(rng, batch, 20, 11, 2, 8, bias_shape)
            check(attention, rng, *arguments)
            if batch == 3:
                continue
            divided, whole = NamedSharding(mesh, P(mesh.axis_names)), NamedSharding(mesh, P())
            arrays = [x for x in arguments if x is not None]
            places = [divided if x.shape[0] == batch else whole for x in arrays]
            arrays = jax.device_put(arrays, places)
            jitted = jax.jit(attention, out_shardings=divided)
            assert not re.search(COLLECTIVE, jitted.lower(*arrays).compile().as_text())


def test_hidden_keys_have_no_influence_and_no_gradient(rng):
    q, k, v, _ = inputs(rng, 2, 5, 8, 2, 4, None)
    visible = np.array([True] * 6 + [False] * 2)
    bias = jnp.broadcast_to(hide(jnp.asarray(visible)), (1, 1, 5, 8))
    out = attention(*map(jnp.asarray, (q, k, v)), bias)
    expected = attention(jnp.asarray(q), jnp.asarray(k[:, :6]), jnp.asarray(v[:, :6]))
    np.testing.assert_allclose(out, expected, atol=1e-6)

    def total(k, v):
        return jnp.square(attention(jnp.asarray(q), k, v, bias)).sum()

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.asarray(k), jnp.asarray(v)):
        assert not gradient[:, 6:].any()
        assert gradient[:, :6].any()


def test_large_logits_do_not_overflow(rng):
    q, k, v = (jnp.asarray(x) for x in inputs(rng, 2, 6, 5, 2, 4, None)[:3])
    raised = attention(q, k, v, jnp.full((1, 1, 6, 5), 1000.0))  # softmax ignores a common summand
    np.testing.assert_allclose(raised, attention(q, k, v), atol=1e-3)


if __name__ == "__main__":
    on_a_mesh(np.random.default_rng(int(sys.argv[1])))
