import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import ctypes, sys
from ragaf_jax.runtime.heap import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]

kept = sys.argv[1] == "keep" and keep_freed_memory()
ends = [libc.sbrk(0)]
for _ in range(2):
    block = libc.malloc(64 << 20)
    ends.append(libc.sbrk(0))
    libc.free(block)
    ends.append(libc.sbrk(0))
print(kept, *(end - ends[0] for end in ends[1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize("how", ["keep", "default"])
def test_freed_memory_stays_in_the_process_for_the_next_step(how):
    """Where the heap ends after 64 MiB were allocated, freed, allocated again and freed again."""
    command = [sys.executable, "-c", SCRIPT, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    kept, *ends = done.stdout.split()
    assert kept == str(how == "keep")
    if how == "keep":  # on the heap, which neither shrinks nor grows again
        assert len(set(ends)) == 1 and int(ends[0]) >= 64 << 20
    else:  # mapped outside of the heap, and given back
        assert set(ends) == {"0"}


RETIRING = """
import ctypes, sys
import jax
import numpy as np
from ragaf_jax.runtime import heap

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.mallinfo2.restype = [ctypes.c_void_p], heap._MallInfo2

def listed():
    now = libc.mallinfo2()
    return now.fordblks - now.keepcost

kept = heap.keep_freed_memory(retires=True) if sys.argv[1] == "keep" else False
rng = np.random.default_rng(0)
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
before = listed()
for event, seconds in ((heap._COMPILED, 0.01), ("/jax/core/compile/other", 9.0)):
    jax.monitoring.record_event_duration_secs(event, seconds)
unchanged = listed()
jax.monitoring.record_event_duration_secs(heap._COMPILED, 9.0)
print(before, unchanged, listed())
if kept:
    assert 0 < libc.malloc(64 << 20) < wall, "large blocks are still to be had"
for block, size in blocks[1::2]:
    assert ctypes.string_at(block, size) == bytes([size % 251]) * size
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc since 2.33 has it")
@pytest.mark.parametrize("how", ["keep", "default"])
def test_what_lies_between_live_blocks_is_taken_out_of_the_lists(how):
    done = subprocess.run(
        [sys.executable, "-c", RETIRING, how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, unchanged, after = map(int, done.stdout.split())
    assert abs(unchanged - before) < 1e6
    if how == "default":
        assert abs(after - before) < 1e6
    else:  # 2,000 blocks of 0.1 MB on average, nearly all of them.
        assert after < before - 150e6
