"""The least time of a program, by peak arithmetic and memory bandwidth (Williams et al. 2009)."""

from typing import NamedTuple

from ragaf_jax.runtime.devices import peak_flops
from ragaf_jax.runtime.targets import Target


class Bound(NamedTuple):
    """The least time of a program; real programs take longer.

    Attributes:
      arithmetic: seconds that the products take at peak FLOP/s; None where the peak is unknown.
      memory: seconds that the bytes take at the memory's bandwidth.
    """

    arithmetic: float | None
    memory: float

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.arithmetic or 0.0, self.memory)

    @property
    def by(self) -> str:
        """Which of the two it is."""
        if self.arithmetic is None:
            return "memory (peak FLOP/s unknown)"
        return "arithmetic" if self.arithmetic > self.memory else "memory"


def bound(flops: float, moved_bytes: float | None, target: Target, dtype: str) -> Bound | None:
    """The bound of a program on one device of `target`; None where it was refused.

    Args:
      flops: of one device.
      moved_bytes: likewise; None of a program that the compiler refused.
      target: has its bandwidth.
      dtype: of the products.
    """
    if moved_bytes is None:
        return None
    peak = peak_flops(target.kind, dtype)
    return Bound(None if peak is None else flops / peak, moved_bytes / target.bandwidth)
