"""Keeps compiled programs on disk, so that the next start does not compile again."""

import logging
import os
import tempfile
from pathlib import Path

import jax

logger = logging.getLogger(__name__)

MAX_BYTES = 2 << 30  # of our own folder; then what was not used for longest goes


def keep_compiled() -> None:
    """Lets what this process compiles from now on be read from disk and kept there.

    The place is the folder in JAX_COMPILATION_CACHE_DIR, or else ragaf-jax/xla in the user's folder
    for caches. Several commands may use it at once. Of processes that train one model together JAX
    has the first one write, and XLA's autotuning has each wait for the others: all must find the
    same, so they share a folder that is given to all, or have none. Where the folder cannot be
    written, a warning says so. No device is asked for.
    """
    given = jax.config.values["jax_compilation_cache_dir"]
    if not given and jax.distributed.is_initialized():
        return
    # A start compiles dozens of small functions as well, and each is read faster than compiled.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if given and "://" in given:  # a bucket: JAX itself says what is wrong with it
        return
    folder = Path(given or user_caches() / "ragaf-jax" / "xla")
    if given and folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
        return  # what was put there can be read, whoever may write
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        logger.warning(
            "%s cannot keep what is compiled (%s), so every start compiles anew: "
            "set JAX_COMPILATION_CACHE_DIR to a folder that can be written",
            *(folder, problem.strerror),
        )
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not given:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # JAX cannot limit a folder that programs without a limit write, too: not a given one, then.
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)


def user_caches() -> Path:
    """As the XDG base directory specification has it: empty and relative values do not count.

    For users without a home, as in many containers, it is the folder for temporary files.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return Path(tempfile.gettempdir())
