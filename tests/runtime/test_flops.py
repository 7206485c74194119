"""FLOPs are those of the mathematics, whatever computes them."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from ragaf_jax.nets.attention import attention
from ragaf_jax.runtime.flops import matmul_flops


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(("kind", "platform"), [("NVIDIA H200", "gpu"), ("TPU v5 lite", "tpu")])
def test_products_inside_an_accelerators_kernels_are_counted(kind, platform, devices):
    """On a mesh of several devices, those of all of them."""
    b, t, h, d = 2, 64, 2, 8
    q = jax.ShapeDtypeStruct((b, t, h, d), jnp.bfloat16)

    def gradients(q):
        return jax.vjp(attention, q, q, q)[1](q)

    # Seven products of the score matrix with d channels: two forward, five in the backward pass, of
    # which one computes the scores again.
    expected = 7 * 2 * b * h * t * t * d
    device = AbstractDevice(device_kind=kind, num_cores=1, platform=platform)
    mesh = AbstractMesh((devices,), ("device",), (AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert matmul_flops(gradients, q) == expected
