from types import SimpleNamespace

import jax
import pytest

from ragaf_jax.runtime.devices import has_cudnn_flash, peak_flops


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


@pytest.mark.parametrize(("capability", "runs"), [("7.5", False), ("8.0", True), ("12.0", True)])
def test_attention_of_an_unknown_gpu_goes_by_its_compute_capability(capability, runs, monkeypatch):
    """cuDNN refuses its flash attention on older GPUs, such as a GeForce RTX 2080."""
    gpu = SimpleNamespace(device_kind="NVIDIA A Card", compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    assert has_cudnn_flash("NVIDIA A Card") is runs
    assert has_cudnn_flash("NVIDIA Another") and not has_cudnn_flash("Tesla T4")
