"""A process that sets up one `problem.Job` and then does it whenever it is told to.

    python -m benchmarks.worker '{"peer": "ours", "task": "step", …}'

Answers every line of its standard input with a line of JSON: `run` with the seconds that it took,
`answer PATH` after writing the network's prediction on inputs that are the same for every peer. Its
first line, once it is ready, says what it is. Each peer has a process of its own, so that neither
its threads nor its allocator are in the other's way.
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

from benchmarks.problem import TOKENS, Job


class Ready(NamedTuple):
    """A job that is set up.

    Attributes:
      run: does it once, and waits for the result.
      answer: the networks' prediction on `inputs_of` the job.
      about: facts that are printed beside its figures.
      device_peak: most bytes that were allocated on the device; None on a CPU.
    """

    run: Callable[[], None]
    answer: Callable[[], Float[np.ndarray, "b h w c"]]
    about: dict[str, Any]
    device_peak: Callable[[], int | None]


def inputs_of(job: Job, width: int) -> dict[str, np.ndarray]:
    """Noisy latents, timesteps, text states and sketches, the same for every peer; NHWC."""
    rng, side = np.random.default_rng(job.image_size + job.batch), job.image_size // 8
    ink = rng.random((job.batch, job.image_size, job.image_size, 1)) < 0.1
    return {
        "latents": rng.standard_normal((job.batch, side, side, 4)).astype(np.float32),
        "timesteps": rng.integers(0, 1000, job.batch).astype(np.float32),
        "text": rng.standard_normal((job.batch, TOKENS, width)).astype(np.float32),
        "sketch": np.repeat(ink, 3, -1).astype(np.float32),
    }


def set_up(job: Job) -> Ready:
    """The job, by the code of its peer."""
    if job.peer == "torch":
        from benchmarks import torch_peer

        return torch_peer.set_up(job)
    from benchmarks import ours

    return ours.set_up(job)


def main() -> None:
    """Serves until its input ends."""
    # What libraries print goes where errors go; the answers have what was standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    ready = set_up(Job.from_json(sys.argv[1]))
    say(**ready.about)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        begin = time.perf_counter()
        if command == "answer":
            np.save(Path(argument), ready.answer())
        else:
            ready.run()
        seconds = time.perf_counter() - begin
        resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        say(seconds=seconds, resident_peak=resident, device_peak=ready.device_peak())


if __name__ == "__main__":
    main()
