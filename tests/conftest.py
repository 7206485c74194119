"""What every test shares: a fresh seed per run, the CPU, and strict rank promotion."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import secrets
import shutil
import tempfile

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is what most of the suite's time goes to: do it fast rather than well, and once.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

_SEED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Draws the run's seed and makes its compilation cache, once for all xdist workers."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = tempfile.mkdtemp(prefix="ragaf-tests-")
        config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    seed = os.environ.setdefault("RAGAF_TEST_SEED", str(secrets.randbits(32)))
    config.stash[_SEED] = int(seed)


def pytest_report_header(config: pytest.Config) -> str:
    """Prints how to repeat this run's random inputs."""
    return f"random inputs: RAGAF_TEST_SEED={config.stash[_SEED]}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Repeats the seed beside every failure that drew random inputs."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and "rng" in getattr(item, "fixturenames", ()):
        report.sections.append(("random inputs", f"RAGAF_TEST_SEED={item.config.stash[_SEED]}"))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random inputs that are new in every run and the same for one test, alone or in the suite."""
    test = list(request.node.nodeid.encode())
    return np.random.default_rng([request.config.stash[_SEED], *test])
