"""Shared by all tests: a fixed seed, the CPU, quick compilation, strict rank promotion."""

# ruff: noqa: E402 (JAX reads its environment variables when it is imported)
import contextlib
import ctypes
import gc
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

# XLA's CPU backend compiles a training step three times as fast with these, at the same accuracy.
_QUICK_XLA = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_opt_preset=FAST_COMPILE "
    "--xla_cpu_parallel_codegen_split_count=1"
)


def _accepts_xla_flags(flags: str) -> bool:
    """Whether this version of XLA knows the flags: it aborts the process on unknown ones."""
    command = [sys.executable, "-c", "import jax; jax.devices('cpu')"]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


# Environment variables, so that workers and the commands under test have the same settings.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = _QUICK_XLA if _accepts_xla_flags(_QUICK_XLA) else ""

import hypothesis
import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# The gate must not depend on luck or on how busy the machine is; `make fuzz` draws new examples.
hypothesis.settings.register_profile(
    "fuzz",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    database=None,
    max_examples=100,
)
hypothesis.settings.register_profile(
    "gate", hypothesis.settings.get_profile("fuzz"), derandomize=True, max_examples=25
)

_SEED = pytest.StashKey[int]()
_CACHE_DAYS = 14


def pytest_configure(config: pytest.Config) -> None:
    """Sets the seed and the compilation cache, once for all xdist workers."""
    cache = config.rootpath / ".pytest_cache" / "xla"
    if not hasattr(config, "workerinput"):
        os.environ.setdefault("RAGAF_TEST_SEED", "0")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
        _remove_unused(cache)
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    config.stash[_SEED] = int(os.environ["RAGAF_TEST_SEED"])
    hypothesis.settings.load_profile("gate" if config.stash[_SEED] == 0 else "fuzz")


def _remove_unused(cache: Path) -> None:
    """Deletes compiled programs that no run has written for some days."""
    if cache.exists():
        oldest = time.time() - _CACHE_DAYS * 24 * 3600
        for file in cache.iterdir():
            if file.stat().st_mtime < oldest:
                file.unlink(missing_ok=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first, so that no worker begins one when others have finished."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_report_header(config: pytest.Config) -> str:
    """Prints how to repeat this run's random inputs."""
    return f"random inputs: RAGAF_TEST_SEED={config.stash[_SEED]}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Adds the command that repeats a failure with its random inputs."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        seed = item.config.stash[_SEED]
        command = f"RAGAF_TEST_SEED={seed} python -m pytest -n0 -m '' '{item.nodeid}'"
        report.sections.append(("repeat with", command))


@pytest.fixture(scope="module", autouse=True)
def _free_compiled_programs():
    """Drops compiled programs after a file where they fill memory: a worker would keep 6 GB."""
    yield
    if _resident_gib() > 2.5:
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # where the C library is not glibc
            ctypes.CDLL(None).malloc_trim(0)


def _resident_gib() -> float:
    """The memory of this process; infinite where the system does not tell it as Linux does."""
    file = Path("/proc/self/statm")
    pages = int(file.read_text().split()[1]) if file.exists() else math.inf
    return pages * resource.getpagesize() / 2**30


def pytest_collection_finish() -> None:
    """Spares the garbage collector what lives as long as the process: modules and tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def small_pipeline():
    """Two random stages of the fewest layers: the files of a worker share what it compiles."""
    from fakes import SMALLEST, random_stage

    from ragaf_jax.sampling.pipeline import Pipeline

    return Pipeline(*(random_stage(number, **SMALLEST) for number in (1, 2)))


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed, for fixtures wider than one test; `rng` is for all others."""
    return request.config.stash[_SEED]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random inputs: of the run's seed, and the same for one test, alone or in the suite."""
    test = list(request.node.nodeid.encode())
    return np.random.default_rng([request.config.stash[_SEED], *test])
