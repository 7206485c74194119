"""Runs all benchmarks by one command.

    python -m benchmarks.run                              # all: hours on 2 CPU cores
    python -m benchmarks.run step sampling                # some
    python -m benchmarks.run step --networks=small        # without Stable Diffusion's size
    python -m benchmarks.run step --json=results.json     # also writes JSON

Prints Markdown. On an NVIDIA GPU the same names measure bfloat16 at Stable Diffusion's size.
Without PyTorch and diffusers, only this project is measured. The machine should be otherwise idle.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# JAX would reserve three quarters of a GPU, too much for the child processes.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from absl import flags

from benchmarks.comparison import memory, peers, ragaf_cost, scaling
from benchmarks.comparison.problem import UNETS, Job
from benchmarks.machine import cpu_model, versions
from benchmarks.report import Row, table, write_json
from benchmarks.timing import ROOT
from ragaf_jax.errors import UserError, nearest, run_cli

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_list(
        "networks",
        ["small", "sd15"],
        f"Networks for steps and samples, of {', '.join(UNETS)}.",
    )
    flags.DEFINE_integer("repeats", 0, "Timed runs of each; 0: the default of each case.")
    flags.DEFINE_string("json", None, "Output file.")


def _cases(on_cpu: Sequence[peers.Case], on_gpu: Sequence[peers.Case]) -> list[peers.Case]:
    cases = [x for x in (on_gpu if peers.on_gpu() else on_cpu) if x.network in FLAGS.networks]
    return [case._replace(repeats=FLAGS.repeats or case.repeats) for case in cases]


def _own_step() -> Job | None:
    """The reference step of this project's own benchmarks; None if its network is not selected."""
    steps = [
        Job("ours", "step", "small", 256, 8),
        Job("ours", "step", "tiny", 64, 2),
    ]
    if peers.on_gpu():
        steps = [Job("ours", "step", "sd15", 512, 8, "bfloat16")]
    return next((job for job in steps if job.network in FLAGS.networks), None)


def _ragaf() -> list[Row]:
    job = _own_step()
    return ragaf_cost.time_rows(FLAGS.repeats or 10, job) if job else []


def _scaling() -> list[Row]:
    job = _own_step()
    return scaling.scaling_rows(FLAGS.repeats or 6, job, not peers.on_gpu()) if job else []


def _command(module: str, key: str) -> Callable[[], list[Row]]:
    """The rows of a benchmark with its own process, because it pins cores or starts commands."""

    def rows() -> list[Row]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.json"
            command = [sys.executable, "-m", f"benchmarks.{module}", f"--json={path}"]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            if done.returncode:
                raise UserError(
                    f"benchmarks.{module} ended with status {done.returncode}; see above"
                )
            results = json.loads(path.read_text())
        return results[key]

    return rows


BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "step": lambda: peers.step_rows(_cases(peers.STEPS_CPU, peers.STEPS_GPU)),
    "sampling": lambda: peers.sample_rows(_cases(peers.SAMPLES_CPU, peers.SAMPLES_GPU)),
    "first_image": lambda: peers.first_image_rows(_cases(peers.SAMPLES_CPU, peers.SAMPLES_GPU)),
    "ragaf": _ragaf,
    "ragaf_flops": ragaf_cost.flops_rows,
    "memory": memory.memory_rows,
    "scaling": _scaling,
    "startup": _command("startup", "startup"),
    "regions": _command("regions", "rows"),
    "loader": _command("input_pipeline", "loader"),
}


def main(argv: list[str]) -> None:
    """Runs the named benchmarks, prints tables, writes the file."""
    names = argv[1:] or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            near = nearest(name, BENCHMARKS) or list(BENCHMARKS)
            raise UserError(f"There is no benchmark {name!r}; choose of {', '.join(near)}.")
    for network in FLAGS.networks:
        if network not in UNETS:
            raise UserError(f"--networks has {network!r}; choose of {', '.join(UNETS)}.")
    machine, installed = cpu_model(), versions("jax", "flax")
    print(f"{machine}; {', '.join(f'{name} {version}' for name, version in installed.items())}")
    results: dict[str, Any] = {"machine": machine, "versions": installed}
    with tempfile.TemporaryDirectory() as cache:
        # The processes share compiled programs, above all the initialisation of parameters.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        for name in names:
            rows = BENCHMARKS[name]()
            results[name] = rows
            shown = table(rows) if rows else "(nothing of these networks)"
            print(f"\n{name}\n\n{shown}", flush=True)
            if FLAGS.json:  # after each benchmark
                write_json(Path(FLAGS.json), results)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
