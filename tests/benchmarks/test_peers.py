"""The benchmarks of steps and samples: their workers' protocol, and both peers side by side."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from commands import run_here

from benchmarks import timing
from benchmarks.comparison import ours, peers
from benchmarks.comparison.problem import Job
from benchmarks.report import table
from benchmarks.timing import Timed, Worker, beside, interleaved, timed_columns
from ragaf_jax.errors import UserError

ROOT = Path(__file__).parents[2]
TORCH = importlib.util.find_spec("torch") and importlib.util.find_spec("diffusers")


class Fake:
    """A worker of which every run takes as many seconds as it has run, and its job's batch."""

    log: typing.ClassVar[list[str]] = []

    def __init__(self, job, environment=None):
        self.job, self.runs, self.began, self.about = job, 0, 0.0, {"batch": job.batch}
        Fake.log.append(f"start {job.batch}")

    def send(self, command):
        self.runs += 1
        Fake.log.append(str(self.job.batch))
        seconds = self.job.batch + self.runs
        return {"seconds": seconds, "resident_peak": 10 * self.runs, "device_peak": None}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        Fake.log.append(f"end {self.job.batch}")


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(timing, "Worker", Fake)
    monkeypatch.setattr(Fake, "log", [])
    return {name: Job("ours", "step", "tiny", 64, batch) for name, batch in (("a", 1), ("b", 2))}


def test_peers_take_turns(fakes):
    measured = interleaved(fakes, 3)
    starts = ["start 1", "1", "1", "start 2", "2", "2"]
    assert Fake.log == [*starts, *["1", "2"] * 3, "end 2", "end 1"]
    # The first run compiles and the second warms up; neither is timed.
    assert measured["a"].seconds == [4, 5, 6] and measured["b"].seconds == [5, 6, 7]
    assert measured["b"].about == {"batch": 2} and measured["b"].resident_peak == 50


def test_peers_that_do_not_fit_together_take_turns_as_processes(fakes):
    measured = interleaved(fakes, 4, together=False)
    once = [f"{x}" for n in "12" for x in (f"start {n}", *[n] * 4, f"end {n}")]
    assert Fake.log == once * 2
    assert measured["a"].seconds == [4, 5] * 2


def test_jobs_take_turns_with_one_reference(fakes):
    reference = dataclasses.replace(fakes["a"], batch=7)
    measured = beside(reference, fakes, 2)
    turns = [x for n in "12" for x in (f"start {n}", n, n, *["7", n] * 2, f"end {n}")]
    assert Fake.log == ["start 7", "7", "7", *turns, "end 7"]
    # Each is compared with what the reference took in turns with it, not before.
    (a, with_a), (b, with_b) = measured["a"], measured["b"]
    assert a.seconds == [4, 5] and with_a.seconds == [10, 11]
    assert b.seconds == [5, 6] and with_b.seconds == [12, 13]


def test_medians_and_spreads(rng):
    seconds = rng.gamma(3, size=31).tolist()
    timed = Timed(seconds, first=9.0, resident_peak=3 << 30, device_peak=None, about={})
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    row = timed_columns("ours", timed)
    assert row["ours, s"] == pytest.approx(middle, abs=1e-4)
    assert row["ours, ± %"] == pytest.approx(50 * (high - low) / middle, abs=0.06)
    assert row["ours, peak GiB"] == 3.0
    on_device = timed._replace(device_peak=1 << 30)
    assert timed_columns("ours", on_device)["ours, peak GiB"] == 1.0
    lines = table([row, timed_columns("ours", None)]).splitlines()
    assert len(lines) == 4 and lines[3] == "| – | – | – |"


def test_a_worker_that_cannot_begin_is_an_error(capfd):
    job = dataclasses.replace(Job("ours", "step", "tiny", 64, 2), image_size=63)
    with pytest.raises(UserError, match="A worker process ended with status 1"):
        Worker(job)
    assert "config.data.image_size is 63" in capfd.readouterr().err


needs_torch = pytest.mark.skipif(not TORCH, reason="PyTorch and diffusers are not installed")


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


class Here:
    """A worker of ours in this process, which spares the imports of another."""

    def __init__(self, job):
        self.ready, self.began = ours.set_up(job), 0.0
        self.about = self.ready.about

    def send(self, command):
        name, _, path = command.partition(" ")
        if name == "answer":
            np.save(path, self.ready.answer())
        else:
            self.ready.run()
        return {"seconds": 1.0, "resident_peak": 1 << 30, "device_peak": None}


@needs_torch
@pytest.mark.products
def test_a_step_is_measured_beside_pytorch_on_the_same_weights(monkeypatch):
    monkeypatch.setattr(peers, "on_gpu", lambda: False)
    monkeypatch.setattr(ours, "keep_freed_memory", lambda **_: False)
    monkeypatch.setattr(ours, "matmul_ceiling", lambda dtype: 1e12)
    with contextlib.ExitStack() as living:

        @functools.cache  # one of each peer gives its answer and is measured
        def started(job):
            if job.peer == "ours":
                return Here(job)
            # Threads that wait for a busy core would make PyTorch's tiny steps take seconds.
            return living.enter_context(Worker(job, {"OMP_NUM_THREADS": "1"}))

        asked = []

        def worker(job, environment=None):
            asked.append((job.peer, job.task))
            return contextlib.nullcontext(started(job))

        monkeypatch.setattr(timing, "Worker", worker)
        (row,) = peers.step_rows([peers.STEPS_CPU[0]._replace(repeats=1)])
    assert asked == [("ours", "step"), ("torch", "step")] * 2
    assert row["network"] == "tiny" and row["predictions apart"] < 1e-5
    ratio = row["ours, s"] / row["torch, s"]
    assert row["ours / torch"] == pytest.approx(ratio, rel=0.01, abs=1e-3)
    assert row["ours, images/s"] == 2 and row["ceiling, TFLOP/s"] == 1


@needs_torch
@pytest.mark.products
def test_both_peers_compute_the_same(tmp_path):
    path = tmp_path / "new" / "results.json"
    done = run("step", "sampling", "--networks=tiny", "--repeats=2", f"--json={path}")
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    for (row,) in (results["step"], results["sampling"]):
        assert row["predictions apart"] < 1e-5
        ratio = row["ours, s"] / row["torch, s"]
        assert row["ours / torch"] == pytest.approx(ratio, rel=0.01, abs=1e-3)
        assert f"| {row['network']} |" in done.stdout
    assert results["machine"] in done.stdout


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["stepp"], "There is no benchmark 'stepp'; choose of step"),
        (["step", "--networks=sd16"], "--networks has 'sd16'; choose of tiny, small, sd15"),
    ],
)
def test_what_is_not_there_is_named(arguments, words):
    done = run_here("benchmarks.run", *arguments)
    assert done.status == 1 and words in done.stderr and "Traceback" not in done.stderr
