"""Times repeated runs of a function."""

import time
from collections.abc import Callable

import jax

from benchmarks.timing import Timed

# Further runs start while the total time is below this.
_SECONDS, _LEAST, _MOST = 5.0, 3, 20


def timed(run: Callable[[], object], compiled: float = 0.0) -> Timed:
    """Seconds of each run after two warm-up runs.

    Args:
      run: runs once and waits for the result.
      compiled: seconds of a previous compilation, which count to the first run.
    """
    begin = time.perf_counter()
    run()
    first = compiled + time.perf_counter() - begin
    run()
    seconds: list[float] = []
    while len(seconds) < _LEAST or (sum(seconds) < _SECONDS and len(seconds) < _MOST):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return Timed(seconds, first, 0, None, {})


def device_peak() -> int | None:
    """Most bytes that this process had of the first device; None on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
