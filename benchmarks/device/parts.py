"""The parts of the device benchmark: each is one process with a time limit.

Parts are in order of importance: the last are skipped if time runs out.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from benchmarks.report import Row

Kind = Literal["ceiling", "attention", "step", "sample", "torch-step", "torch-sample"]


class SkippedError(Exception):
    """A part cannot be measured here; the message is the reason."""


class Budget(NamedTuple):
    """Seconds for a kind of part.

    Attributes:
      expected: the part is skipped if less time is left; an estimate until one is measured.
      limit: the part is killed after this time.
    """

    expected: float
    limit: float


BUDGETS: dict[Kind, Budget] = {
    "ceiling": Budget(15, 60),
    "attention": Budget(45, 150),
    "step": Budget(45, 240),  # XLA compiles it in 75 s on two cores, plus autotuning
    "sample": Budget(40, 180),
    "torch-step": Budget(60, 240),
    "torch-sample": Budget(40, 180),
}


class Part(NamedTuple):
    """The measurement of one process.

    Attributes:
      kind: see `rows`.
      stage: 1 or 2; 0 if not applicable.
      batch: examples per step, or images; 0 if not applicable.
    """

    kind: Kind
    stage: int = 0
    batch: int = 0

    @property
    def name(self) -> str:
        """Its name on the command line: "step-2-8" is Stage 2's step at batch 8."""
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
    """Measures a part; a yielded row may gain columns until the next one.

    Args:
      part: the part.
      tiny: use a miniature network on the CPU.

    Raises:
      SkippedError: PyTorch or diffusers is missing, or has no device.
    """
    # Lazy imports, because PyTorch and JAX would share the device.
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
