"""Runs parts sequentially in separate processes within one deadline."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.device.parts import BUDGETS, Part

ROOT = Path(__file__).resolve().parents[2]
# The flags of the tests and `make quickstart-quick`, which compile several times faster.
_QUICK_XLA = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_opt_preset=FAST_COMPILE "
    "--xla_cpu_parallel_codegen_split_count=1"
)


class Outcome(NamedTuple):
    """The result of a part.

    Attributes:
      status: "measured", "out of memory", "failed", "timed out" or "skipped".
      reason: one sentence; None if measured.
      rows: the measurements, possibly incomplete.
      seconds: duration of the process; 0 without one.
    """

    status: str
    reason: str | None
    rows: list[dict[str, Any]]
    seconds: float = 0.0


def environment(tiny: bool, cache: str, given: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a part's process, which select one device.

    Args:
      tiny: on the CPU, with fast compilation.
      cache: folder of the shared compilation cache.
      given: the user's variables.
    """
    shared = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torch",
    }
    if tiny:
        default = {"XLA_FLAGS": _QUICK_XLA, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        chosen = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return default | dict(given) | chosen | shared
    # The first of a machine's TPU chips.
    default = {
        "TPU_VISIBLE_CHIPS": "0",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
    }
    gpu = given.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return default | dict(given) | {"CUDA_VISIBLE_DEVICES": gpu} | shared


def command_of(part: Part, tiny: bool, path: Path) -> list[str]:
    """The command line that measures a part and writes its outcome to a file."""
    command = [sys.executable, "-m", "benchmarks.device.part", part.name, str(path)]
    return command + ["--tiny"] * tiny


def run_process(
    command: Sequence[str], path: Path, env: Mapping[str, str], limit: float
) -> Outcome:
    """Runs one part.

    Args:
      command: from `command_of`.
      path: its output file.
      env: its environment variables.
      limit: seconds after which it and its child processes are killed.
    """
    begin = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=dict(env), start_new_session=True)
    code = None
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(limit)
    finally:
        with contextlib.suppress(ProcessLookupError):  # also kills child processes
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds = time.monotonic() - begin
    found = {"rows": [], "status": "failed", "reason": "its process wrote no result"}
    if path.exists():
        found = json.loads(path.read_text())
    if code is None:
        return Outcome("timed out", f"it took more than {limit:.0f} s", found["rows"], seconds)
    if code:
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        return Outcome("failed", f"its process ended {how}; see above", found["rows"], seconds)
    return Outcome(found["status"], found["reason"], found["rows"], seconds)


def reason_to_skip(part: Part, done: Mapping[Part, Outcome], left: float) -> Outcome | None:
    """The outcome of a part that is skipped; None if it should run.

    Args:
      part: the next part.
      done: the outcomes of previous parts.
      left: seconds until the deadline.
    """
    same_kind = {x: outcome for x, outcome in done.items() if x.kind == part.kind}
    for other, outcome in same_kind.items():
        smaller = other.stage == part.stage and other.batch < part.batch
        if outcome.status == "out of memory" and smaller:
            return Outcome("out of memory", f"batch {other.batch} did not fit", [])
    times = [x.seconds for x in same_kind.values() if x.status in ("measured", "timed out")]
    expected = max(times, default=BUDGETS[part.kind].expected)
    if left < expected:
        return Outcome("skipped", f"{left:.0f} s are left and it takes about {expected:.0f} s", [])
    return None


def run_parts(
    parts: Sequence[Part],
    tiny: bool,
    deadline: float,
    ended: Callable[[dict[Part, Outcome]], None],
) -> dict[Part, Outcome]:
    """The outcome of every part.

    Args:
      parts: in order.
      tiny: see `parts.rows`.
      deadline: seconds for all parts.
      ended: called with all outcomes after each part.
    """
    begin = time.monotonic()
    done: dict[Part, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        env = environment(tiny, f"{folder}/cache", os.environ)
        for part in parts:
            left = deadline - (time.monotonic() - begin)
            outcome = reason_to_skip(part, done, left)
            if outcome is None:
                path = Path(folder) / f"{part.name}.json"
                limit = left if tiny else min(left, BUDGETS[part.kind].limit)
                outcome = run_process(command_of(part, tiny, path), path, env, limit)
            done[part] = outcome
            ended(done)
    return done
