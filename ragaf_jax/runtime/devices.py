"""Peak FLOP/s and kernels of device kinds, and memories of TPUs; GPUs are in `gpus/`."""

from collections.abc import Mapping
from typing import NamedTuple

import jax


class Memory(NamedTuple):
    """The memory of one TPU device.

    Attributes:
      size: bytes that a program may use: the chip's memory less the runtime's share, from
        libtpu's out-of-memory message.
      bandwidth: bytes/s.
    """

    size: int
    bandwidth: float


# Peak dense FLOP/s of one JAX device with bfloat16 and float32. By default float32 matrix products
# run as TF32 on NVIDIA's newer cards and in bfloat16 on TPUs. Vendors' figures "with sparsity" are
# halved.
# NVIDIA: the data sheets of V100, T4, A100, A10, L4, H100 and H200; GA102 and Ada whitepapers,
# app. A (with float32 accumulation). Google: cloud.google.com/tpu/docs, "System
# architecture", a page for each version; v2's and v3's chips are two devices.
_PEAKS: dict[str, dict[str, float]] = {
    "Tesla V100": {"float32": 15.7e12},
    "Tesla T4": {"float32": 8.1e12},
    "NVIDIA A10": {"bfloat16": 125e12, "float32": 62.5e12},
    "NVIDIA A100": {"bfloat16": 312e12, "float32": 156e12},
    "NVIDIA L4": {"bfloat16": 121e12, "float32": 60e12},
    "NVIDIA H100 PCIe": {"bfloat16": 756e12, "float32": 378e12},
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "float32": 494e12},
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 494e12},
    "NVIDIA GeForce RTX 3090": {"bfloat16": 71e12, "float32": 35.6e12},
    "NVIDIA GeForce RTX 4080": {"bfloat16": 97.5e12, "float32": 48.7e12},
    "NVIDIA GeForce RTX 4090": {"bfloat16": 165.2e12, "float32": 82.6e12},
    "TPU v2": {"bfloat16": 22.5e12, "float32": 22.5e12},
    "TPU v3": {"bfloat16": 61.5e12, "float32": 61.5e12},
    "TPU v4": {"bfloat16": 275e12, "float32": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12, "float32": 197e12},
    "TPU v5": {"bfloat16": 459e12, "float32": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12, "float32": 918e12},
}

# The versions in `targets`; bandwidths are from the same pages as the peaks.
TPU_MEMORIES: Mapping[str, Memory] = {
    "TPU v4": Memory(int(30.75 * 2**30), 1228e9),
    "TPU v5 lite": Memory(int(15.75 * 2**30), 819e9),
    "TPU v5": Memory(int(95.74 * 2**30), 2765e9),
    "TPU v6 lite": Memory(int(31.25 * 2**30), 1638e9),
}


def traced_device() -> tuple[str, str]:
    """(platform, kind) of the devices of the current trace: the mesh's, or else the default.

    The platform is "cpu", "gpu" or "tpu"; the kind is JAX's name, such as "NVIDIA H200".
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    device = jax.local_devices()[0] if device is None else device
    return device.platform, device.device_kind


def peak_flops(kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device; None for CPUs and unknown devices.

    Args:
      kind: `jax.Device.device_kind`, such as "NVIDIA A100-SXM4-40GB".
      dtype: "float32" or "bfloat16".
    """
    known = _known(kind)
    return _PEAKS[known].get(dtype) if known else None


def has_cudnn_flash(kind: str) -> bool:
    """Whether a device supports cuDNN's flash attention: NVIDIA's from compute capability 8.0 on.

    These also support bfloat16. A GPU that is neither local nor in the table counts as newer.
    """
    if not kind.startswith(("NVIDIA", "Tesla")):
        return False
    for device in jax.local_devices():
        if device.device_kind == kind:
            return float(device.compute_capability) >= 8
    known = _known(kind)
    return known is None or "bfloat16" in _PEAKS[known]


def _known(kind: str) -> str | None:
    """The longest name of the table whose words start `kind`."""
    # "NVIDIA A10" must match neither "NVIDIA A100" nor "NVIDIA A10G".
    words = kind.replace("-", " ") + " "
    known = [name for name in _PEAKS if words.startswith(name + " ")]
    return max(known, key=len) if known else None
