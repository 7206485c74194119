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
def _without_flags_of_commands() -> Iterator[None]:
    """Takes out the flags that modules of this project have defined, and puts them back.

    The modules themselves are taken out too, so that a command that imports them defines them anew.
    """

    def take_out() -> list[tuple[str, flags.Flag]]:
        found = [
            (module, flag)
            for module, of_module in flags.FLAGS.flags_by_module_dict().items()
            # A script is no module: absl names it by its file.
            if module.partition(".")[0] in OWN or module.endswith(".py")
            for flag in of_module
        ]
        for name in {flag.name for _, flag in found} | {x for x in flags.FLAGS if "." in x}:
            if name in flags.FLAGS:
                delattr(flags.FLAGS, name)
        return found

    before = take_out()
    modules = {name: sys.modules.pop(name) for name, _ in before if name in sys.modules}
    try:
        yield
    finally:
        new = {name for name, _ in take_out()}
        for name in new:
            sys.modules.pop(name, None)
        for name, module in modules.items():
            sys.modules[name] = module
            parent, _, last = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], last, module)
        for name, flag in before:
            if flag.name not in flags.FLAGS:
                flags.FLAGS[flag.name] = flag
            flags.FLAGS.register_flag_by_module(name, flag)
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
    with pytest.MonkeyPatch.context() as patch, _without_flags_of_commands():
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.setattr("ragaf_jax.runtime.heap.keep_freed_memory", lambda: False)
        for module in ("compilation_cache", "sampling.pipeline"):
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
