"""The parts of the device benchmark: each is one process with a time limit.

Parts are in the order of their worth: those at the end are skipped where time runs out.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from benchmarks.report import Row

Kind = Literal["ceiling", "attention", "step", "sample", "torch-step", "torch-sample"]


class SkippedError(Exception):
    """A part cannot be measured here for the reason given, and that is no failure."""


class Budget(NamedTuple):
    """Seconds for a part of some kind.

    Attributes:
      expected: less than this is left: the part is not begun. A guess until one was measured.
      limit: after this the part is ended.
    """

    expected: float
    limit: float


BUDGETS: dict[Kind, Budget] = {
    "ceiling": Budget(15, 60),
    "attention": Budget(45, 150),
    "step": Budget(45, 240),  # on two cores XLA compiles it in 75 s, beside what it tries out
    "sample": Budget(40, 180),
    "torch-step": Budget(60, 240),
    "torch-sample": Budget(40, 180),
}


class Part(NamedTuple):
    """What one process measures.

    Attributes:
      kind: see `rows`.
      stage: 1 or 2; 0 where there is none.
      batch: examples of a step, or images; 0 where there is none.
    """

    kind: Kind
    stage: int = 0
    batch: int = 0

    @property
    def name(self) -> str:
        """As it is given on the command line: "step-2-8" is Stage 2's step at batch 8."""
        return "-".join(map(str, (self.kind, *filter(None, (self.stage, self.batch)))))


FULL = (
    Part("ceiling"),
    Part("step", 1, 4),
    Part("attention"),
    Part("sample", 1, 1),
    Part("step", 2, 4),
    Part("step", 1, 8),
    Part("sample", 2, 1),
    Part("torch-step", 1, 8),
    Part("step", 1, 16),
    Part("step", 2, 8),
    Part("torch-sample", 1, 1),
    Part("step", 1, 32),
    Part("sample", 1, 4),
    Part("sample", 2, 4),
    Part("step", 2, 16),
    Part("step", 2, 32),
)
# Each kind once, and each stage.
TINY = (
    Part("ceiling"),
    Part("attention"),
    Part("step", 2, 2),
    Part("sample", 1, 1),
    Part("torch-step", 1, 2),
    Part("torch-sample", 1, 1),
)


def rows(part: Part, tiny: bool) -> Iterator[Row]:
    """Measures a part; rows come as they are measured, and may gain columns until the next one.

    Args:
      part: what is measured.
      tiny: with a miniature network, on the CPU.

    Raises:
      SkippedError: PyTorch or diffusers is missing, or has no device.
    """
    # A process imports only what its part needs: PyTorch and JAX would share the device.
    if part.kind == "ceiling":
        from benchmarks.device.ceiling import ceiling_rows

        return ceiling_rows(tiny)
    if part.kind == "attention":
        from benchmarks.device.attention import attention_rows

        return attention_rows(tiny)
    if part.kind == "step":
        from benchmarks.device.steps import step_rows

        return step_rows(part.stage, part.batch, tiny)
    if part.kind == "sample":
        from benchmarks.device.sampling import sample_rows

        return sample_rows(part.stage, part.batch, tiny)
    from benchmarks.device.torch_peers import torch_rows

    return torch_rows("step" if part.kind == "torch-step" else "sample", part.batch, tiny)
