"""Commands and scripts that tests run."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from absl import app, flags, logging

ROOT = Path(__file__).parents[2]
OWN = ("ragaf_jax", "input_pipeline", "benchmarks", "main")
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"


def on_eight_devices(*arguments: object) -> list[str]:
    """The lines that Python prints, given these arguments, where a CPU counts as eight devices.

    A process can choose the number of devices only once, before it looks for them.
    """
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support"))),
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


def python_blocks(document: Path) -> list[str]:
    """The blocks of Python in a document, in their order."""
    text = document.read_text(encoding="utf-8")
    return [block.split("```")[0] for block in text.split("```python\n")[1:]]


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def own_flags() -> Iterator[None]:
    """The flags that a command defines and sets meanwhile are taken out at the end."""
    try:
        yield
    finally:
        names = {
            flag.name
            for module, of_module in flags.FLAGS.flags_by_module_dict().items()
            # A script is no module: absl names it by its file.
            if module.partition(".")[0] in OWN or module.endswith(".py")
            for flag in of_module
        }
        for name in names | {name for name in flags.FLAGS if "." in name}:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


def run_here(script: str, *arguments: object) -> Ended:
    """Runs a command in this process: without the seconds that its imports take in a new one.

    For command lines that end before JAX computes. It changes neither the allocator nor the
    compilation cache, and leaves no flags behind.

    Args:
      script: a file, such as "main.py", or a module, such as "ragaf_jax.sample".
      arguments: of the command.
    """
    app.define_help_flags()  # once in a process: they must outlive this call
    stdout, stderr, level, status = io.StringIO(), io.StringIO(), logging.get_verbosity(), 0
    with pytest.MonkeyPatch.context() as patch, own_flags():
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.delitem(sys.modules, script, raising=False)  # runpy warns of a module that is there
        # What runpy compiles has jaxtyping's checks here, and a process without them cannot run it.
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setattr("ragaf_jax.runtime.heap.keep_freed_memory", lambda **_: False)
        for module in ("runtime.compilation_cache", "sampling.pipeline"):
            patch.setattr(f"ragaf_jax.{module}.keep_compiled", lambda: None)
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
    return Ended(status, stdout.getvalue(), stderr.getvalue())
