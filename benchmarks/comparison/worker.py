"""A process that sets up one `problem.Job` and runs it on command.

    python -m benchmarks.comparison.worker '{"peer": "ours", "task": "step", …}'

It prints a line of JSON with its facts when ready, and one for each line of its standard input:
`run` measures a run, `answer PATH` writes the network's prediction on inputs that all peers share.
Each peer has its own process, so that threads and allocators do not interfere.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.comparison.problem import TOKENS, Job


class Ready(NamedTuple):
    """A job after set-up.

    Attributes:
      run: runs it once and waits for the result.
      answer: returns the networks' prediction on `inputs_of` the job.
      about: facts for the report.
      device_peak: returns the peak of allocated bytes on the device; None on a CPU.
    """

    run: Callable[[], None]
    answer: Callable[[], Float[np.ndarray, "b h w c"]]
    about: dict[str, Any]
    device_peak: Callable[[], int | None]


def inputs_of(job: Job, width: int) -> dict[str, np.ndarray]:
    """Noisy latents, timesteps, text states and sketches, equal for all peers; NHWC."""
    rng, side = np.random.default_rng(job.image_size + job.batch), job.image_size // 8
    ink = rng.random((job.batch, job.image_size, job.image_size, 1)) < 0.1
    return {
        "latents": rng.standard_normal((job.batch, side, side, 4)).astype(np.float32),
        "timesteps": rng.integers(0, 1000, job.batch).astype(np.float32),
        "text": rng.standard_normal((job.batch, TOKENS, width)).astype(np.float32),
        "sketch": np.repeat(ink, 3, -1).astype(np.float32),
    }


def set_up(job: Job) -> Ready:
    """Sets up the job with its peer's code."""
    if job.peer == "torch":
        from benchmarks.comparison import torch_peer

        return torch_peer.set_up(job)
    from benchmarks.comparison import ours

    return ours.set_up(job)


def main() -> None:
    """Runs commands until the input ends."""
    # Standard output is for responses; output of libraries goes to standard error.
    responses = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def respond(**values: Any) -> None:
        print(json.dumps(values), file=responses, flush=True)

    ready = set_up(Job.from_json(sys.argv[1]))
    respond(**ready.about)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        begin = time.perf_counter()
        if command == "answer":
            np.save(Path(argument), ready.answer())
        else:
            ready.run()
        seconds = time.perf_counter() - begin
        resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        respond(seconds=seconds, resident_peak=resident, device_peak=ready.device_peak())


if __name__ == "__main__":
    main()
