"""The speed of the fastest matrix product: an upper bound for any step."""

from collections.abc import Iterator

import jax

from benchmarks.comparison.ours import matmul_ceiling
from benchmarks.device.problem import GIB
from benchmarks.report import Row
from ragaf_jax.runtime.devices import peak_flops

SIDES, TINY_SIDES = (4096, 8192, 16384), (256, 512)


def ceiling_rows(tiny: bool) -> Iterator[Row]:
    """A row per matrix size in bfloat16, with the data sheet's peak."""
    device = jax.devices()[0]
    peak = peak_flops(device.device_kind, "bfloat16")
    limit = (device.memory_stats() or {}).get("bytes_limit")
    for side in TINY_SIDES if tiny else SIDES:
        yield {
            "device": device.device_kind,
            "memory for this process, GiB": None if limit is None else round(limit / GIB, 2),
            "side": side,
            "TFLOP/s": matmul_ceiling("bfloat16", side) / 1e12,
            "data sheet, TFLOP/s": None if peak is None else peak / 1e12,
        }
