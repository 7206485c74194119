import pytest

from ragaf_jax.runtime.devices import peak_flops


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
