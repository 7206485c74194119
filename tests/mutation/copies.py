"""Temporary copies of the checkout, in which mutations are made and tests run."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LOCATE = """
import configs, input_pipeline, main, ragaf_jax
print(*(module.__file__ for module in (ragaf_jax, input_pipeline, configs, main)), sep="\\n")
"""


def copied(target: Path, suite: Path) -> Path:
    """A copy of the files that git does not ignore, with the tests of the checkout `suite`.

    Raises:
        ValueError: Python imports modules from elsewhere, such as an editable installation.
    """
    for source, chosen in ((ROOT, (".", ":!tests")), (suite, ("tests",))):
        command = ["git", "-C", str(source), "ls-files", "-coz", "--exclude-standard", "--"]
        listed = subprocess.run([*command, *chosen], check=True, capture_output=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (source / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, target / name)
    code, output = run_python(target, ["-c", _LOCATE], limit=300)
    if code != 0 or any(target not in Path(line).parents for line in output.splitlines()):
        raise ValueError(f"the modules of {target} are not imported, but:\n{output}")
    return target


def run_python(root: Path, arguments: Sequence[str], limit: float) -> tuple[int | None, str]:
    """Python in a copy: its return code, None after `limit` seconds, and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]
