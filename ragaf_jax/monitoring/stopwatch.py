"""Times the parts of training steps, and the use of the device."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from ragaf_jax.runtime.devices import peak_flops

# What the loop may wait for.
PARTS = ("data", "compute", "checkpoint")


class Stopwatch:
    """Splits the time since the last reading into what the training loop waited for.

    JAX only queues a step and goes on, so these are the host's waits, not the devices' work:

    - data: in `next(iterator)`, for a batch on the devices.
    - compute: in the call of the step, and in `device_get` of its scalars, which waits until all
      queued steps are done.
    - checkpoint: in `save`, which waits for the copy to the host and not for the files.
    - other: the rest: validation, samples, logs.

    While the host waits for data the devices may still work on what is queued. So where devices are
    the bottleneck, compute is nearly all of the time, and where data is, compute is next to none.

    The first step compiles, so it is timed by itself: see `first_step`.

    Args:
      images: in a step, over all devices.
      dtype: of the computation, "float32" or "bfloat16".
      clock: seconds since whenever.
    """

    def __init__(
        self,
        images: int,
        dtype: str = "float32",
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._images = images
        self._flops: float | None = None
        self._before_window = 0  # steps that are reported, and not timed, in the next window
        peak = peak_flops(jax.local_devices()[0].device_kind, dtype)
        self._peak = None if peak is None else peak * jax.device_count()
        self._clock = clock
        self._begin(clock())

    def _begin(self, now: float) -> None:
        self._start = now
        self._spent = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def waits(self, part: str) -> Iterator[None]:
        """Counts what happens inside towards `part`, one of `PARTS`; they do not nest."""
        begin = self._clock()
        try:
            yield
        finally:
            self._spent[part] += self._clock() - begin

    def first_step(self, scalars: Any, flops: Callable[[], float]) -> dict[str, float]:
        """Waits for the first step, and only then begins the first window.

        Args:
          scalars: what the step gave.
          flops: tells the FLOPs of a step, over all devices and without what is only computed again
            to save memory. As that may take seconds, it is asked only where the devices' peak is
            known.

        Returns:
          time/first_step, in seconds: tracing, compiling and making it, not its batch.
        """
        with self.waits("compute"):
            jax.block_until_ready(scalars)
        seconds = self._spent["compute"]
        if self._peak is not None:
            self._flops = flops()
        self._before_window = 1
        self._begin(self._clock())
        return {"time/first_step": seconds}

    def read(self, steps: int) -> dict[str, float]:
        """The window's numbers; the next window begins.

        Args:
          steps: that were taken since the last reading, 1 or more, the first one counted. Their
            scalars have been fetched: steps that are only queued would count as done.

        Returns:
          Nothing where that was the first step alone, else images_per_second; time/step and what it
          is made of, time/data, time/compute, time/checkpoint and time/other, in seconds a step;
          the greatest memory so far, memory/device_gib or, where devices do not tell,
          memory/process_gib; and mfu, the share of the devices' peak FLOP/s, where it is known
          (Chowdhery et al. 2022, "PaLM", app. B).
        """
        now = self._clock()
        steps, self._before_window = steps - self._before_window, 0
        if steps == 0:
            self._begin(now)
            return {}
        seconds = max(now - self._start, 1e-9) / steps
        parts = {name: spent / steps for name, spent in self._spent.items()}
        parts["other"] = max(seconds - sum(parts.values()), 0.0)
        self._begin(now)
        values = {"images_per_second": self._images / seconds, "time/step": seconds}
        values |= {f"time/{name}": share for name, share in parts.items()}
        values |= peak_memory()
        if self._flops is not None and self._peak is not None:
            values["mfu"] = self._flops / seconds / self._peak
        return values


def peak_memory(devices: list[Any] | None = None) -> dict[str, float]:
    """memory/device_gib, of the fullest device here; else memory/process_gib, of this process.

    Both are the greatest that there was since the process began. CPU devices do not tell theirs.
    """
    stats = [device.memory_stats() or {} for device in devices or jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    if peaks:
        return {"memory/device_gib": max(peaks) / 2**30}
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): KiB on Linux, bytes on macOS
    return {"memory/process_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
