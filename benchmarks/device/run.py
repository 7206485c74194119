"""Measures one accelerator: `bash benchmarks/device.sh --json=device.json`; see that script.

Without --tiny it needs a GPU or TPU. Each part has its own process and time limit. The file is
written after each part. The exit status is 0 if anything was measured.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.device.parts import FULL, TINY, Part
from benchmarks.device.processes import Outcome, run_parts
from benchmarks.device.report import summary, with_ratios
from benchmarks.device.requirements import PACKAGES, complaint, missing
from benchmarks.machine import cpu_model, versions
from benchmarks.report import write_json

DEADLINE = 480.0  # seconds


def fail(sentence: str) -> int:
    """Prints an error and returns exit status 1."""
    print(f"error: {sentence}", file=sys.stderr)
    return 1


def accelerator() -> str:
    """JAX's platform, from a separate process, which frees the device."""
    ask = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def gpu_facts() -> str | None:
    """Name, driver, memory, power limit and clock from nvidia-smi; None without it."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm"
    done = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True
    )
    return done.stdout.strip() or None


def chosen_parts(names: list[str], tiny: bool) -> list[Part] | str:
    """The parts of these names, by default all; or the error for an unknown name."""
    known = {part.name: part for part in (TINY if tiny else FULL)}
    for name in names:
        if name not in known:
            return f"There is no part {name!r}; choose of {', '.join(known)}."
    return [known[name] for name in names] or list(known.values())


def writable(path: Path) -> str | None:
    """The error for a file that cannot be written; None if it can."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("a").close()
        if new:
            path.unlink()
    except OSError as error:
        return f"--json={path} cannot be written: {error.strerror}; choose another file."
    return None


def main(argv: list[str] | None = None) -> int:
    """Measures, prints tables, writes the file."""
    parser = argparse.ArgumentParser(
        prog="bash benchmarks/device.sh", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "parts", nargs="*", help="Only these parts, such as step-1-8; default: all."
    )
    parser.add_argument("--json", type=Path, help="Output file.")
    parser.add_argument("--tiny", action="store_true", help="A dry run on the CPU.")
    parser.add_argument(
        "--deadline", type=float, default=DEADLINE, help="Seconds for all parts (default: 480)."
    )
    args = parser.parse_args(argv)
    parts = chosen_parts(args.parts, args.tiny)
    if isinstance(parts, str):
        return fail(parts)
    if not 0 < args.deadline < float("inf"):
        return fail(f"--deadline is {args.deadline:g}; give seconds above 0, such as 480.")
    if absent := missing(PACKAGES):
        return fail(complaint(absent))
    begin = time.monotonic()
    if not args.tiny and accelerator() not in ("gpu", "tpu"):
        return fail(
            "JAX finds no GPU or TPU here; install jax[cuda12] or add --tiny for a dry run."
        )
    if args.json and (problem := writable(args.json)):
        return fail(problem)  # before the measurements
    results: dict[str, Any] = {
        "machine": cpu_model(),
        "gpu": None if args.tiny else gpu_facts(),
        "versions": versions("jax", "jaxlib", "flax"),
        "tiny": args.tiny,
        "deadline, s": args.deadline,
    }

    def ended(done: dict[Part, Outcome]) -> None:
        part, outcome = list(done.items())[-1]
        why = f": {outcome.reason}" if outcome.reason else ""
        print(f"{part.name} {outcome.status} after {outcome.seconds:.0f} s{why}", flush=True)
        results["seconds"] = round(time.monotonic() - begin, 1)
        outcomes = {part.name: outcome._asdict() for part, outcome in done.items()}
        results["parts"] = with_ratios(outcomes)
        if args.json:
            write_json(args.json, results)

    left = args.deadline - (time.monotonic() - begin)
    done = run_parts(parts, args.tiny, left, ended)
    print("\n" + summary(results), flush=True)
    if not any(outcome.rows for outcome in done.values()):
        return fail("No part could be measured; the reasons are above.")
    return 0


if __name__ == "__main__":
    # On SIGTERM, for example by `timeout`, the part's process ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
