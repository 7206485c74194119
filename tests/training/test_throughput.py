import jax
import jax.numpy as jnp
import pytest

from ragaf_jax.training.throughput import flops_of, peak_flops


@pytest.mark.parametrize(
    ("kind", "dtype", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 312e12),
        ("NVIDIA A100 80GB PCIe", "float32", 156e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "bfloat16", 459e12),
        ("Tesla T4", "bfloat16", None),  # it has none
        ("NVIDIA A10G", "bfloat16", None),  # another card than the A10
        ("NVIDIA L40", "bfloat16", None),
        ("cpu", "float32", None),
    ],
)
def test_a_device_is_known_by_its_whole_name(kind, dtype, peak):
    assert peak_flops(kind, dtype) == peak


def test_flops_of_a_product():
    m, k, n = 48, 64, 80
    compiled = jax.jit(jnp.dot).lower(jnp.ones((m, k)), jnp.ones((k, n))).compile()
    assert flops_of(compiled) == pytest.approx(2 * m * k * n, rel=0.01)


def test_a_compiler_that_does_not_say():
    class Silent:
        def cost_analysis(self):
            return None

    assert flops_of(Silent()) is None
