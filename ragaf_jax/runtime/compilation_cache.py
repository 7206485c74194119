"""The cache of compiled programs on disk, which spares the next start their compilation."""

import logging
import os
import tempfile
from pathlib import Path

import jax

logger = logging.getLogger(__name__)

MAX_BYTES = 2 << 30  # of the default folder; then least recently used programs are deleted


def keep_compiled() -> None:
    """Makes this process cache its compiled programs on disk.

    The folder is JAX_COMPILATION_CACHE_DIR, or else ragaf-jax/xla in the user's folder for caches.
    Several commands may use it at once. Processes that train one model together need identical
    caches: JAX lets only the first one write, and XLA's autotuning makes each wait for the others.
    So they use only a given folder. A folder that cannot be written causes a warning. No device is
    initialised.
    """
    given = jax.config.values["jax_compilation_cache_dir"]
    if not given and jax.distributed.is_initialized():
        return
    # A start also compiles dozens of small functions, which load faster than they compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if given and "://" in given:  # a bucket: JAX reports its errors
        return
    folder = Path(given or user_caches() / "ragaf-jax" / "xla")
    if given and folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
        return  # a folder that is only readable is useful too
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        logger.warning(
            "%s cannot store compiled programs (%s), so every start compiles them again: "
            "set JAX_COMPILATION_CACHE_DIR to a writable folder",
            *(folder, problem.strerror),
        )
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not given:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # JAX cannot limit a folder that programs without a limit also write, such as a given one.
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)


def user_caches() -> Path:
    """The folder of the XDG base directory specification, which ignores empty and relative values.

    For users without a home, as in many containers, the folder for temporary files.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return Path(tempfile.gettempdir())
