"""Runs the gate's tests on new random inputs, several times, and lists what failed.

python tests/fuzz.py 3            # three seeds
python tests/fuzz.py 1 -k graph   # further arguments are pytest's
"""

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def failures(seed: int, options: list[str]) -> list[str] | None:
    """The tests that fail with this seed; None where pytest itself does."""
    command = [sys.executable, "-m", "pytest", "-n", "auto", f"--hypothesis-seed={seed}", *options]
    environment = os.environ | {"RAGAF_TEST_SEED": str(seed)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if match := re.match(r"(?:FAILED|ERROR) (\S+::.*?)(?: - |$)", line):
            found.append(match[1])
    # 1: some tests failed. Others: interrupted, wrong usage, nothing collected.
    return found if process.wait() in (0, 1) else None


def main(runs: int, options: list[str]) -> int:
    """Exit status: 0 where no test failed in any run."""
    broken, again = False, []
    for run in range(1, runs + 1):
        seed = secrets.randbits(31) + 1  # 0 is the gate's
        print(f"=== run {run} of {runs}: RAGAF_TEST_SEED={seed}", flush=True)
        found = failures(seed, options)
        broken |= found is None
        again += [
            f"RAGAF_TEST_SEED={seed} python -m pytest -n0 --hypothesis-seed={seed} '{test}'"
            for test in found or []
        ]
    print(f"=== {len(again)} failures in {runs} runs", *again, sep="\n")
    if broken:
        print("=== pytest did not run to its end, see above")
    return int(broken or bool(again))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
