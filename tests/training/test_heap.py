import ctypes
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


RETIRING = """
import ctypes, sys
import jax
import jax.numpy as jnp
import numpy as np
from ragaf_jax.training.heap import Fragments, _MallInfo2, keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.mallinfo2.restype = [ctypes.c_void_p], _MallInfo2

def listed():
    now = libc.mallinfo2()
    return now.fordblks - now.keepcost

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
rng = np.random.default_rng()
with Fragments(kept) as fragments:
    assert fragments.retire() == 0, "nothing was compiled"
    jax.jit(lambda x: x + 1)(jnp.zeros(3))
    sizes = rng.integers(2_000, 200_000, 4_000).tolist()
    blocks = [(libc.malloc(size), size) for size in sizes]
    for block, size in blocks:
        ctypes.memset(block, size % 251, size)
    buffer = libc.malloc(64 << 20)
    # Those that lie in a gap are not between the buffer and the heap's growing end. By default the
    # buffer is not on the heap.
    while (wall := libc.malloc(5_000)) < buffer and kept:
        pass
    for block, _ in blocks[::2]:
        libc.free(block)
    libc.free(buffer)
    before, pages = listed(), resident()
    retired = fragments.retire()
    print(retired, before, listed(), pages - resident())
    assert fragments.retire() == 0, "nothing was compiled since"
    if kept:
        assert 0 < libc.malloc(64 << 20) < wall, "large blocks are still to be had"
    for block, size in blocks[1::2]:
        assert ctypes.string_at(block, size) == bytes([size % 251]) * size
    jax.jit(lambda x: x + 2)(jnp.zeros(3))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc since 2.33 has it")
@pytest.mark.parametrize("how", ["keep", "default"])
def test_what_lies_between_live_blocks_is_taken_out_of_the_lists(how):
    done = subprocess.run(
        [sys.executable, "-c", RETIRING, how],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    retired, before, after, given_back = map(int, done.stdout.split())
    if how == "default":
        assert retired == 0 and abs(after - before) < 1e6
    else:
        # 2,000 blocks of 0.1 MB on average; nearly all, pages and all.
        assert 150e6 < retired <= before
        assert after < before - 150e6
        assert given_back > 100e6
