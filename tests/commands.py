"""Commands and scripts that tests run in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

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
