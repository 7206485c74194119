"""Times workers alternately, A B A B …, so that disturbances affect all equally."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.comparison.problem import Job
from benchmarks.report import Row
from ragaf_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


class Timed(NamedTuple):
    """The measurements of one job.

    Attributes:
      seconds: of each run after the first.
      first: seconds from the process's start to the end of its first run, including compilation or
        loading from a shared cache.
      resident_peak: peak memory of the process, bytes.
      device_peak: peak memory of the device, bytes; None on a CPU.
      about: the worker's facts.
    """

    seconds: list[float]
    first: float
    resident_peak: int
    device_peak: int | None
    about: dict[str, Any]

    @property
    def median(self) -> float:
        """Median seconds."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Half the interquartile range relative to the median."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float((high - low) / 2 / self.median)


# The settings of `runtime.heap.keep_freed_memory`, for all peers.
_KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 62),  # glibc ignores negative values
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class Worker:
    """A process of `benchmarks.comparison.worker`; a context manager that kills it at the end."""

    def __init__(self, job: Job, environment: Mapping[str, str] | None = None):
        self.began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.comparison.worker", job.to_json()]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | _KEEP_FREED_MEMORY | _forced(job.devices) | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._response()

    def send(self, command: str) -> dict[str, Any]:
        """Sends a command and waits for the response.

        Raises:
          UserError: the process has ended.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_response` raises the error
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        return self._response()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _response(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise UserError(f"A worker process ended with status {status}; its error is above.")
        return json.loads(line)


def interleaved(
    jobs: Mapping[str, Job],
    repeats: int,
    together: bool = True,
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Timed]:
    """Alternating times of each job.

    Args:
      jobs: by name.
      repeats: timed runs of each, after one that compiles and one warm-up run.
      together: all processes at once; otherwise one at a time, in two rounds of half the runs, for
        networks that do not fit into memory together.
      environments: environment variables of some processes.
    """
    rounds = 1 if together else 2
    found: dict[str, list[Any]] = {name: [] for name in jobs}
    each = -(-repeats // rounds)
    total = len(jobs) * rounds * (each + 2)
    with tqdm(total=total, unit=" run", leave=False) as bar, contextlib.ExitStack() as living:

        def started(name: str) -> Worker:
            bar.set_description(f"{name}: first run")
            worker = living.enter_context(Worker(jobs[name], (environments or {}).get(name)))
            found[name].append(_first_run(worker))
            found[name].append(worker.send("run") | {"seconds": None})
            bar.update(2)
            return worker

        def turn(workers: Mapping[str, Worker]) -> None:
            for _ in range(each):
                for name, worker in workers.items():
                    bar.set_description(name)
                    found[name].append(worker.send("run"))
                    bar.update()

        if together:
            turn({name: started(name) for name in jobs})
        else:
            for _ in range(rounds):
                for name in jobs:
                    turn({name: started(name)})
                    living.close()
    return {name: _timed(answers) for name, answers in found.items()}


def beside(reference: Job, jobs: Mapping[str, Job], repeats: int) -> dict[str, tuple[Timed, Timed]]:
    """Alternating times of each job and `reference`, with at most two processes.

    Args:
      reference: the job for comparison; one process serves all comparisons.
      jobs: by name.
      repeats: timed runs of each, after one that compiles and one warm-up run.
    """
    found = {}
    total = 2 + len(jobs) * (2 + 2 * repeats)
    with tqdm(total=total, unit=" run", leave=False) as bar, Worker(reference) as base:
        bar.set_description("reference: first run")
        first = _first_run(base)
        base.send("run")
        bar.update(2)
        for name, job in jobs.items():
            bar.set_description(f"{name}: first run")
            with Worker(job) as worker:
                pair = [first], [_first_run(worker)]
                worker.send("run")
                bar.update(2)
                bar.set_description(name)
                for _ in range(repeats):
                    for answers, process in zip(pair, (base, worker), strict=True):
                        answers.append(process.send("run"))
                        bar.update()
            found[name] = (_timed(pair[1]), _timed(pair[0]))
    return found


def disagreement(jobs: Sequence[Job], folder: Path) -> float:
    """‖a − b‖ / ‖b‖ of the predictions of two jobs; the second is the reference."""
    answers = []
    for number, job in enumerate(jobs):
        path = folder / f"answer{number}.npy"
        with Worker(job) as worker:
            worker.send(f"answer {path}")
        answers.append(np.load(path).astype(np.float64))
    a, b = answers
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def timed_columns(name: str, timed: Timed | None) -> Row:
    """The columns of one peer: median seconds, half the interquartile range, peak memory."""
    if timed is None:
        return {f"{name}, s": None, f"{name}, ± %": None, f"{name}, peak GiB": None}
    peak = timed.resident_peak if timed.device_peak is None else timed.device_peak
    return {
        f"{name}, s": round(timed.median, 4),
        f"{name}, ± %": round(100 * timed.spread, 1),
        f"{name}, peak GiB": round(peak / 2**30, 2),
    }


def _forced(devices: int) -> dict[str, str]:
    """The variable that splits one CPU into several devices."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    return {} if devices == 1 else {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}"}


def _first_run(worker: Worker) -> dict[str, Any]:
    """A worker's response to its first run; it includes compilation, so `seconds` is None."""
    answer = worker.send("run")
    first = time.perf_counter() - worker.began
    return answer | {"seconds": None, "first": first, "about": worker.about}


def _timed(answers: Sequence[dict[str, Any]]) -> Timed:
    last = answers[-1]
    return Timed(
        [answer["seconds"] for answer in answers if answer["seconds"] is not None],
        min(answer["first"] for answer in answers if "first" in answer),
        max(answer["resident_peak"] for answer in answers),
        last["device_peak"],
        answers[0]["about"],
    )
