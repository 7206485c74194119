"""How a command ends: what it says and its status."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        ("UserError('The thing is 3; make it 4.')", 1, "error: The thing is 3; make it 4.\n"),
        (
            "OSError(28, 'No space left on device', 'a/b')",
            1,
            "error: a/b cannot be used: No space left on device; choose another place.\n",
        ),
        (
            "PermissionError(13, 'Permission denied', '/data')",
            1,
            "error: /data cannot be used: Permission denied; choose another place.\n",
        ),
        ("KeyboardInterrupt", 130, "interrupted\n"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(raised, status, said):
    script = f"""if True:
        from ragaf_jax.errors import UserError, run_cli
        def main(argv):
            raise {raised}
        run_cli(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, said)


def test_a_mistake_of_ours_keeps_its_traceback():
    script = "from ragaf_jax.errors import run_cli\nrun_cli(lambda argv: 1 / 0)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr
