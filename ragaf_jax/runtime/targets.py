"""Devices to compile for that are not in this machine.

A text proto (OpenXLA's `GpuTargetConfigProto`) describes a GPU: a file in `gpus/` or a given path.
libtpu knows the chips of a TPU slice by its name.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from ragaf_jax.errors import UserError, nearest
from ragaf_jax.runtime.devices import TPU_MEMORIES
from ragaf_jax.runtime.gpu_memory import share

_GPUS = Path(__file__).parent / "gpus"
_GPUS_PER_HOST = 8
_MOST_GPUS = 1024  # each needs host memory: millions would exhaust it
# Autotuning needs a GPU. Without it Triton's products have no tile sizes, so all use cuBLAS.
_GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}

# Chips along each axis of a slice, by the number in its name. The number counts chips of v5e and
# v6e, but TensorCores of v4 and v5p, two per chip; a JAX device is a chip.
_GRIDS_2D = {
    1: "1x1",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
_GRIDS_3D = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4"}
SLICES = {
    f"{kind}-{n}": f"{kind}:{grid}"
    for kinds, grids in ((("v5e", "v6e"), _GRIDS_2D), (("v4", "v5p"), _GRIDS_3D))
    for kind in kinds
    for n, grid in grids.items()
}


class Target(NamedTuple):
    """Devices of one kind that programs can be compiled for.

    Attributes:
      name: as given.
      platform: "cuda" or "tpu", as in `lowering_platforms`.
      devices: all of them; they cannot hold arrays or run programs.
      usable_bytes: of one device's memory, the part that a process may use.
      bandwidth: of one device's memory, bytes/s.
      compiler_options: for `jax.jit`.
    """

    name: str
    platform: str
    devices: list[jax.Device]
    usable_bytes: int
    bandwidth: float
    compiler_options: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its `jax.Device.device_kind`."""
        return self.devices[0].device_kind


def gpu_names() -> list[str]:
    """The GPUs with a file in `gpus/`."""
    return sorted(path.stem for path in _GPUS.glob("*.txtpb"))


def open_target(name: str) -> Target:
    """The devices of a name: a GPU or its file's path, with the suffix "x8" for eight; a TPU slice.

    From then on this process uses no local device but the CPU.

    Raises:
      UserError: an unknown name, a file that describes no GPU, or a missing wheel.
    """
    if name in SLICES:
        return _tpu(name)
    path, count = _gpu_file(name)
    return _gpu(name, path, count)


def _gpu_file(name: str) -> tuple[Path, int]:
    """The file of a GPU, and the number of GPUs."""
    stem, count, known = name, 1, gpu_names()
    # The end of "rtx4090" is no count.
    whole = name in known or Path(name).expanduser().is_file()
    if not whole and (match := re.fullmatch(r"(.+)x(\d+)", name)):
        stem, count = match[1], int(match[2])
    path = _GPUS / f"{stem}.txtpb" if stem in known else Path(stem).expanduser()
    if not path.is_file():
        raise _unknown(name, stem)
    full = count <= _GPUS_PER_HOST or count % _GPUS_PER_HOST == 0
    if not (1 <= count <= _MOST_GPUS and full):
        raise UserError(
            f"--target={name} has {count} GPUs; give 1 to {_GPUS_PER_HOST}, or a multiple of "
            f"{_GPUS_PER_HOST} up to {_MOST_GPUS}."
        )
    return path, count


def _unknown(name: str, stem: str) -> UserError:
    if stem.endswith(".txtpb") or "/" in stem:
        return UserError(
            f"--target={name} does not name a file; give the path of a GPU's "
            f"description, such as {_GPUS / 'h200.txtpb'}."
        )
    known = [*gpu_names(), *(f"{gpu}x8" for gpu in gpu_names()), *SLICES]
    near = nearest(name, known)
    listed = ", ".join(near or known)
    are = "there are" if not near else "the nearest are" if near[1:] else "the nearest is"
    return UserError(
        f"There is no target {name!r}; {are} {listed}. Other GPUs are given by the path of a "
        "description."
    )


def _gpu(name: str, path: Path, count: int) -> Target:
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        text = ""
    if absent := _absent_fields(text):
        others = f" and {len(absent) - 3} others" if absent[3:] else ""
        raise UserError(
            f"{path} describes no GPU: {', '.join(absent[:3])}{others} must be present and above 0;"
            f" add them as in {_GPUS / 'h200.txtpb'}."
        )
    fraction = share()  # before JAX reads the same variables with less clear errors
    _compile_only()
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if not any(importlib.util.find_spec(plugin) for plugin in plugins):
        raise _no_wheel(name, "JAX's CUDA plugin", "plan-cuda")
    hosts, each = max(count // _GPUS_PER_HOST, 1), min(count, _GPUS_PER_HOST)
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", topology=f"1x{hosts}x{each}", target_config=text
        )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as problem:
        reason = str(problem).partition("\n")[0]
        raise UserError(
            f"{path} is no valid target ({reason}); compare it with {_GPUS / 'h200.txtpb'}."
        ) from problem
    memory, bandwidth = (
        int(_field(text, field, r"\s*(\d+)")[1])
        for field in ("device_memory_size", "memory_bandwidth")
    )
    devices: list[jax.Device] = list(topology.devices)
    return Target(name, "cuda", devices, int(memory * fraction), float(bandwidth), _GPU_OPTIONS)


def _absent_fields(text: str) -> list[str]:
    """Fields that a GPU's description lacks or has as 0, which XLA would accept."""
    complete = (_GPUS / "h200.txtpb").read_text()
    names = re.findall(r"^\s*(\w+)\s*[:{]", complete, re.M)
    return [name for name in names if not _field(text, name, r'(?!\s*(?:-|0+\s|""))')]


def _field(text: str, name: str, value: str) -> Any:
    """The match of a text proto's field and the start of its value, or None."""
    return re.search(rf"^[^#\n]*\b{name}\s*[:{{]{value}", text, re.M)


def _tpu(name: str) -> Target:
    _compile_only()
    if importlib.util.find_spec("libtpu") is None:
        raise _no_wheel(name, "libtpu", "plan-tpu")
    slice_, options = SLICES[name], dict[str, Any]()
    if slice_.endswith(":1x1"):
        options = {"chips_per_host_bounds": (1, 1, 1)}
    if slice_.startswith("v4:"):
        options = {"chip_config_name": "megacore"}  # else each of its cores is a device
    topology = topologies.get_topology_desc(platform="tpu", topology_name=slice_, **options)
    devices: list[jax.Device] = list(topology.devices)
    memory = TPU_MEMORIES[devices[0].device_kind]
    return Target(name, "tpu", devices, memory.size, memory.bandwidth, {})


def _compile_only() -> None:
    """Prevents a plan from allocating accelerators, and from waiting for busy ones."""
    jax.config.update("jax_platforms", "cpu")
    # libtpu queries no metadata server, and several processes may compile at once.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    # Without these libtpu prints errors about a missing TPU. The slice's name takes precedence.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")


def _no_wheel(name: str, wheel: str, extra: str) -> UserError:
    return UserError(
        f"--target={name} needs {wheel} to compile, which is not installed; run "
        f"pip install -e '.[{extra}]'."
    )
