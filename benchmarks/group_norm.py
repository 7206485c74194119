"""What forms of group normalisation read and write on accelerators, compiled without one.

    python -m benchmarks.group_norm tpu     # with libtpu==0.0.42.* installed
    python -m benchmarks.group_norm cuda    # with jax-cuda12-plugin and -pjrt of JAX's version, and
                                            # nvidia's nvcc, cudnn, cublas, nvrtc, cuda-runtime

Two minutes each. Bytes are those of XLA's cost analysis. Of CUDA it has none: they are the operands
and results of all instructions of the compiled program.
"""

import argparse
import functools
import math
import os
import re
from collections.abc import Callable

os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jaxtyping import Array

from ragaf_jax.nets.layers import GroupNorm

GROUPS, EPSILON = 32, 1e-5
SHAPES = ((4, 32, 32, 320), (4, 64, 64, 320))
# An H200: the facts from which XLA estimates what it fuses.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 151397597184 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } device_description_str: "NVIDIA H200"
"""
# Without a device nothing can be autotuned.
OPTIONS = {"cuda": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}, "tpu": {}}
SIZES = {"bf16": 2, "f32": 4, "pred": 1, "s32": 4, "u32": 4}
_INSTRUCTION = re.compile(r"%?([\w.-]+) = (\([^=]*?\)|\S+) ([\w-]+)\(([^)]*)")
_FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant")


def statistics(form: str) -> Callable[..., Array]:
    """GroupNorm with SiLU; the variance is "plain" E[x²] − E[x]², "shifted" or in "two passes"."""

    def norm(x: Array, scale: Array, bias: Array) -> Array:
        b, c = x.shape[0], x.shape[-1]
        pixels = x.reshape(b, -1, c).astype(jnp.float32)

        def mean(y: Array) -> Array:
            y = y.sum(1).reshape(b, GROUPS, -1).sum(-1) / (y.shape[1] * (c // GROUPS))
            return jnp.repeat(y, c // GROUPS, axis=-1)

        shift = jnp.zeros((b, c))
        if form == "shifted":
            shift = jax.lax.stop_gradient(mean(pixels[:, :: max(1, pixels.shape[1] // 16)]))
        centre = mean(pixels - shift[:, None])
        if form == "two passes":
            variance = mean(jnp.square(pixels - centre[:, None]))
        else:
            variance = mean(jnp.square(pixels - shift[:, None])) - jnp.square(centre)
        slope = jax.lax.rsqrt(jnp.maximum(variance, 0) + EPSILON) * scale[None]
        y = pixels * slope[:, None] + (bias[None] - (shift + centre) * slope)[:, None]
        return jax.nn.silu(y).reshape(x.shape).astype(x.dtype)

    return norm


def ours(x: Array, scale: Array, bias: Array) -> Array:
    """`GroupNorm` as the networks have it."""
    norm = GroupNorm(GROUPS, EPSILON, silu=True, dtype=x.dtype)
    out = norm.apply({"params": {"scale": scale, "bias": bias}}, x)
    assert isinstance(out, jax.Array)
    return out


def gradients(
    form: Callable[..., Array], x: Array, scale: Array, bias: Array, g: Array
) -> tuple[Array, ...]:
    """Those of x, scale and bias, where the output's is `g`."""
    return jax.vjp(form, x, scale, bias)[1](g)


def traffic(hlo: str) -> tuple[float, int]:
    """(bytes that the instructions of the entry computation read and write, their number)."""
    found = _INSTRUCTION.findall(hlo[hlo.index("ENTRY") :])
    types = {name: kind for name, kind, _, _ in found}

    def size(kind: str) -> int:
        arrays = re.findall(rf"({'|'.join(SIZES)})\[([\d,]*)\]", kind)
        return sum(SIZES[d] * math.prod(map(int, filter(None, s.split(",")))) for d, s in arrays)

    run = [(kind, operands) for _, kind, name, operands in found if name not in _FREE]
    read = [types.get(x.split()[-1].lstrip("%"), "") for _, xs in run for x in xs.split(",") if x]
    return sum(size(kind) for kind, _ in run) + sum(map(size, read)), len(run)


def main() -> None:
    """Prints a row for each shape, dtype and form."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("platform", choices=tuple(OPTIONS))
    platform = parser.parse_args().platform
    described = {"topology": "1x1x1", "target_config": H200}
    if platform == "tpu":
        described = {"topology_name": "v5e:2x2"}
    device = topologies.get_topology_desc(platform=platform, **described).devices[0]
    place = jax.sharding.SingleDeviceSharding(device)
    forms = {form: statistics(form) for form in ("plain", "shifted", "two passes")}
    forms["ours"] = ours
    print("| shape | dtype | form | forward, MB | instructions | gradient, MB | instructions |")
    print("|---|---|---|--:|--:|--:|--:|")
    for shape in SHAPES:
        for dtype in ("bfloat16", "float32"):
            x = jax.ShapeDtypeStruct(shape, dtype, sharding=place)
            row = jax.ShapeDtypeStruct(shape[-1:], jnp.float32, sharding=place)
            for name, form in forms.items():
                cells = []
                backward = functools.partial(gradients, form)
                for function, args in ((form, (x, row, row)), (backward, (x, row, row, x))):
                    jitted = jax.jit(function, compiler_options=OPTIONS[platform])
                    lowered = jitted.trace(*args).lower(lowering_platforms=(platform,))
                    compiled = lowered.compile()
                    moved, count = traffic(compiled.as_text())
                    moved = (compiled.cost_analysis() or {}).get("bytes accessed", moved)
                    cells += [f"{moved / 1e6:.1f}", str(count)]
                print(f"| {shape} | {dtype} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
