"""Commands and scripts that tests run in processes of their own."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from absl import app, flags, logging

ROOT = Path(__file__).parents[1]
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"


def on_eight_devices(*arguments: object) -> list[str]:
    """The lines that Python prints, given these arguments, where a CPU counts as eight devices.

    A process can choose the number of devices only once, before it looks for them.
    """
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {EIGHT_DEVICES}",
    }
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def run_here(script: str, *arguments: object) -> Ended:
    """Runs a command in this process: without the seconds that its imports take in a new one.

    For command lines that end before JAX computes. The flags that the script defines are removed
    afterwards, and it neither changes the allocator nor the compilation cache.

    Args:
      script: a file, such as "main.py", or a module, such as "ragaf_jax.sample".
      arguments: of the command.
    """
    app.define_help_flags()  # once in a process: they must outlive this call
    stdout, stderr, level, status = io.StringIO(), io.StringIO(), logging.get_verbosity(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.setattr("ragaf_jax.training.heap.keep_freed_memory", lambda: False)
        patch.setattr("ragaf_jax.compilation_cache.keep_compiled", lambda: None)
        try:
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                if script.endswith(".py"):
                    runpy.run_path(script, run_name="__main__")
                else:
                    runpy.run_module(script, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            logging.set_verbosity(level)
            own = {flag.name for flag in flags.FLAGS.flags_by_module_dict().get(script, ())}
            for name in [x for x in flags.FLAGS if x in own or x.startswith("config.")]:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
    return Ended(status, stdout.getvalue(), stderr.getvalue())
