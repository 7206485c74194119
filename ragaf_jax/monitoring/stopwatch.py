"""Step times, their parts, memory and device utilisation."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from ragaf_jax.framing import Size
from ragaf_jax.runtime.devices import peak_flops

# The timed waits of the loop.
WAITS = ("data", "compute", "checkpoint")


class Stopwatch:
    """Splits the time of a window of steps by what the training loop waited for.

    JAX dispatches steps asynchronously, so these are waits of the host, not work of the devices:

    - data: `next(iterator)`.
    - compute: the call of the step, and `device_get` of its scalars, which waits for all queued
      steps.
    - checkpoint: `save`, which waits for the copy to the host and not for the files.
    - other: validation, samples, logs.

    While the host waits for data, the devices may still run queued steps. If devices are the
    bottleneck, compute takes nearly all of the time; if data are, it takes almost none.

    The first step of each size of images includes compilation and is timed separately: see
    `first_step`.

    Args:
      images: per step, over all devices.
      dtype: of the computation, "float32" or "bfloat16".
      clock: seconds since any origin.
    """

    def __init__(
        self, images: int, dtype: str = "float32", clock: Callable[[], float] = time.perf_counter
    ):
        self._images = images
        self._flops: dict[Size, float] = {}
        self._before_window = 0  # steps that the next `read` reports without timing them
        peak = peak_flops(jax.local_devices()[0].device_kind, dtype)
        self._peak = None if peak is None else peak * jax.device_count()
        self._clock = clock
        self._begin(clock())

    def _begin(self, now: float) -> None:
        self._start = now
        self._spent = dict.fromkeys(WAITS, 0.0)

    @contextmanager
    def waits(self, part: str) -> Iterator[None]:
        """Adds the time inside to `part`, one of `WAITS`; contexts do not nest."""
        begin = self._clock()
        try:
            yield
        finally:
            self._spent[part] += self._clock() - begin

    def restart(self, queued: Any = None) -> None:
        """Starts a window at a step that will compile, after a wait for the `queued` steps."""
        jax.block_until_ready(queued)
        self._begin(self._clock())

    def first_step(
        self, size: Size, scalars: Any, flops: Callable[[], float], steps: int = 1
    ) -> dict[str, float]:
        """Waits for the first step of a size of images, then starts a window.

        Args:
          size: of its images.
          scalars: of the step.
          flops: counts the FLOPs of a step over all devices, without recomputation. This may take
            seconds, so it is called only if the devices' peak is known.
          steps: that the next `read` reports without timing them, this one included.

        Returns:
          time/first_step, in seconds: tracing, compilation and the step, without its batch.
        """
        with self.waits("compute"):
            jax.block_until_ready(scalars)
        seconds = self._spent["compute"]
        if self._peak is not None:
            self._flops[size] = flops()
        self._before_window = steps
        self._begin(self._clock())
        return {"time/first_step": seconds}

    def read(self, sizes: Sequence[Size]) -> dict[str, float]:
        """The window's numbers; starts the next window.

        Args:
          sizes: of the images of each step, 1 or more, including those before the window. Fetch
            their scalars before: queued steps would count as done.

        Returns:
          Nothing if no step is in the window. Else images_per_second; time/step and its parts
          time/data, time/compute, time/checkpoint and time/other, in seconds per step; the values
          of `peak_memory`; and mfu, the share of the devices' peak FLOP/s, if that is known
          (Chowdhery et al. 2022, "PaLM", app. B).
        """
        now = self._clock()
        sizes, self._before_window = sizes[self._before_window :], 0
        if not sizes:
            self._begin(now)
            return {}
        total = max(now - self._start, 1e-9)
        seconds = total / len(sizes)
        parts = {name: spent / len(sizes) for name, spent in self._spent.items()}
        parts["other"] = max(seconds - sum(parts.values()), 0.0)
        self._begin(now)
        values = {"images_per_second": self._images / seconds, "time/step": seconds}
        values |= {f"time/{name}": share for name, share in parts.items()}
        values |= peak_memory()
        if self._flops and self._peak is not None:
            values["mfu"] = sum(self._flops[size] for size in sizes) / total / self._peak
        return values


def peak_memory(devices: list[Any] | None = None) -> dict[str, float]:
    """Peak memory/device_gib of the fullest local device, else memory/process_gib of this process.

    Both are peaks since the start of the process. CPU devices report none.
    """
    stats = [device.memory_stats() or {} for device in devices or jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    if peaks:
        return {"memory/device_gib": max(peaks) / 2**30}
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): KiB on Linux, bytes on macOS
    return {"memory/process_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
