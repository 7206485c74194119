"""The same network by PyTorch's diffusers, compiled by `torch.compile` on a GPU."""

import importlib.util
from collections.abc import Iterator
from typing import Literal

from benchmarks.device.parts import SkippedError
from benchmarks.device.problem import GIB, job_of
from benchmarks.device.repeat import timed
from benchmarks.report import Row


def torch_rows(task: Literal["step", "sample"], batch: int, tiny: bool) -> Iterator[Row]:
    """One row: Stage 1's job with random weights, in PyTorch.

    Raises:
      SkippedError: PyTorch, diffusers or transformers is missing, or PyTorch has no GPU.
    """
    absent = [x for x in ("torch", "diffusers", "transformers") if not importlib.util.find_spec(x)]
    if absent:
        raise SkippedError(f"not installed: {', '.join(absent)}")
    import torch

    if not tiny and not torch.cuda.is_available():
        raise SkippedError("PyTorch has no GPU here")
    from benchmarks.comparison import torch_peer

    job = job_of(task, 1, batch, tiny, peer="torch")
    ready = torch_peer.set_up(job)
    if torch.cuda.is_available():  # new networks are in float32 initially
        torch.cuda.reset_peak_memory_stats()
    measured = timed(ready.run)
    peak = ready.device_peak()
    yield {
        "task": task,
        "px": job.image_size,
        "batch": batch,
        "torch, s": round(measured.median, 5),
        "torch, ± %": round(100 * measured.spread, 1),
        "images/s": round(batch / measured.median, 3),
        "peak, GiB": None if peak is None else round(peak / GIB, 2),
        "first run, s": round(measured.first, 1),
        "runs": len(measured.seconds),
        "torch": torch.__version__,
    }
