import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from ragaf_jax.training.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 23)  # 64 MiB: 16,384 pages, or fewer that are larger
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_not_faulted_in_again():
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", SCRIPT, how],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for how in ("keep", "default")
    }
    # Where the kernel gives huge pages, the 64 MiB are 32 of them.
    assert faults["keep"] < 16 < faults["default"]
