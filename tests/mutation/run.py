"""Mutation testing: which of the faults in `mutations.py` do the tests notice?

    python tests/mutation/run.py --check
    python tests/mutation/run.py --only ragaf_jax/graph --jobs 2 --output results.json

Each job works in its own temporary copy of the checkout. For each mutation the nearest tests run
first: those named after the module or importing it, then those one import further away. A test
that kills must pass without the mutation. A timeout counts as a kill and the table names it.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import queue
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from copies import ROOT, copied, run_python
from mutations import MUTATIONS, Mutation
from selection import nearest_tests

GATE_LIMIT = 6 * 3600  # seconds
PYTEST = ("-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider")
FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", re.MULTILINE)
# Of each test that has failed, whether it passes without a mutation.
PASSES: dict[str, bool] = {}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one mutation.

    Attributes:
        verdict: "killed", "killed (import)", "timeout" or "survived".
        test: the node id of the first failing test; "" if there is none.
        seconds: the time that its tests took.
    """

    mutation: Mutation
    verdict: str
    test: str
    seconds: float


def verdict_of(code: int | None, output: str) -> tuple[str, str]:
    """The verdict on a run of pytest, and the test that failed."""
    test = next(iter(FAILED.findall(output)), "")
    if code in (0, 5):  # 5: no test was selected
        return "survived", ""
    if code is None:
        return "timeout", test
    return ("killed" if code == 1 and "::" in test else "killed (import)"), test


def try_mutation(root: Path, mutation: Mutation, options: argparse.Namespace) -> Outcome:
    """Runs the tests against one mutation in a copy, and restores the file."""
    file, began = root / mutation.path, time.monotonic()
    original = file.read_text()
    distances = [options.tests] if options.tests else [*nearest_tests(root, mutation.path)]
    limits = [options.timeout] * len(distances)
    if options.full:
        run = {test for tests in distances for test in tests}
        gate = (str(x.relative_to(root)) for x in sorted(root.glob("tests/**/test_*.py")))
        distances, limits = [*distances, [x for x in gate if x not in run]], [*limits, GATE_LIMIT]
    changed, verdict, test = mutation.applied(original), "survived", ""
    for tests, limit in zip(distances, limits, strict=True):
        while tests and verdict == "survived":
            ignored = [f"--deselect={test}" for test, passes in PASSES.items() if not passes]
            file.write_text(changed)
            try:
                ran = run_python(root, [*PYTEST, *ignored, *tests], limit)
            finally:
                file.write_text(original)
            verdict, test = verdict_of(*ran)
            if verdict != "killed" or passes_unmutated(root, test, limit):
                break
            verdict, test = "survived", ""
    return Outcome(mutation, verdict, test, time.monotonic() - began)


def passes_unmutated(root: Path, test: str, limit: float) -> bool:
    """Whether a test passes on the program as it is; others are deselected from then on."""
    if test not in PASSES:
        PASSES[test] = run_python(root, [*PYTEST, test], limit)[0] == 0
        if not PASSES[test]:
            print(f"{test} fails without any mutation and is ignored.", flush=True)
    return PASSES[test]


def check_baseline(root: Path, mutations: Sequence[Mutation], tests: list[str] | None) -> None:
    """Runs all the tests of these mutations on the unmutated copy.

    Raises:
        ValueError: one fails.
    """
    paths = dict.fromkeys(mutation.path for mutation in mutations)
    lists = [tests] if tests else [near for path in paths for near in nearest_tests(root, path)]
    every = dict.fromkeys(test for near in lists for test in near)
    code, output = run_python(root, [*PYTEST, *every], GATE_LIMIT)
    if code != 0:
        raise ValueError(f"the tests fail without any mutation:\n{output[-3000:]}")


def described(outcome: Outcome) -> str:
    """One line about an outcome."""
    by = f" by {outcome.test}" if outcome.test else ""
    where = f"{outcome.mutation.path}: {outcome.mutation.why}"
    return f"{outcome.verdict}{by} in {outcome.seconds:.0f} s: {where}"


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table by package."""
    packages: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        package = re.sub(r"^(ragaf_jax/\w+|\w+)/.*", r"\1", outcome.mutation.path)
        packages.setdefault(package, []).append(outcome)
    lines = ["| package | mutations | killed | survivors and timeouts |", "|---|---|---|---|"]
    for package, found in packages.items():
        left = [x for x in found if x.verdict in ("survived", "timeout")]
        killed = sum(x.verdict != "survived" for x in found)
        named = "; ".join(f"{x.mutation.path}: {x.mutation.why} ({x.verdict})" for x in left)
        lines.append(f"| {package} | {len(found)} | {killed} | {named} |")
    return "\n".join(lines)


def main() -> None:
    """Checks the table, or tries its mutations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="mutations of paths that hold this text")
    parser.add_argument("--jobs", type=int, default=1, help="mutations tried at the same time")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each distance")
    parser.add_argument("--tests", nargs="+", help="these tests instead of the nearest ones")
    parser.add_argument("--full", action="store_true", help="all other tests for survivors")
    parser.add_argument("--output", type=Path, help="a JSON file for the outcomes")
    parser.add_argument("--suite", type=Path, default=ROOT, help="the checkout with the tests")
    parser.add_argument("--check", action="store_true", help="only check the table")
    parser.add_argument("--baseline", action="store_true", help="first run the tests unmutated")
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.only in mutation.path]
    try:
        for mutation in chosen:
            mutation.applied((ROOT / mutation.path).read_text())
    except ValueError as error:
        parser.error(str(error))
    print(f"{len(chosen)} mutations: each is found once and parses.")
    if options.check:
        return
    with tempfile.TemporaryDirectory(prefix="mutation-") as temporary:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{temporary}/cache")
        os.environ.setdefault("RAGAF_TEST_SEED", "0")
        places = [Path(temporary).resolve() / f"job{job}" for job in range(options.jobs)]
        copies: queue.Queue[Path] = queue.Queue()
        try:
            for place in places:
                copies.put(copied(place, options.suite.resolve()))
            if options.baseline:
                check_baseline(places[0], chosen, options.tests)
        except ValueError as error:
            parser.error(str(error))

        def attempt(mutation: Mutation) -> Outcome:
            root = copies.get()
            try:
                return try_mutation(root, mutation, options)
            finally:
                copies.put(root)

        outcomes = []
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for number, outcome in enumerate(pool.map(attempt, chosen), 1):
                outcomes.append(outcome)
                print(f"[{number}/{len(chosen)}] {described(outcome)}", flush=True)
                if options.output:
                    found = [dataclasses.asdict(x) for x in outcomes]
                    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{table(outcomes)}")


if __name__ == "__main__":
    main()
