"""The least time of a program, by peak arithmetic and memory bandwidth (Williams et al. 2009)."""

from typing import NamedTuple

from ragaf_jax.runtime.devices import peak_flops
from ragaf_jax.runtime.targets import Target


class Bound(NamedTuple):
    """The least time of a program; real programs take longer.

    Attributes:
      arithmetic: seconds of the products at peak FLOP/s; None if the peak is unknown.
      memory: seconds of the transfers at the memory's bandwidth.
    """

    arithmetic: float | None
    memory: float

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.arithmetic or 0.0, self.memory)

    @property
    def by(self) -> str:
        """The name of the longer one."""
        if self.arithmetic is None:
            return "memory (peak FLOP/s unknown)"
        return "arithmetic" if self.arithmetic > self.memory else "memory"


def bound(flops: float, moved_bytes: float | None, target: Target, dtype: str) -> Bound | None:
    """The bound of a program on one device of `target`; None if the compiler refused it.

    `flops` and `moved_bytes` are those of one device; `dtype` is that of the products.
    """
    if moved_bytes is None:
        return None
    peak = peak_flops(target.kind, dtype)
    return Bound(None if peak is None else flops / peak, moved_bytes / target.bandwidth)
