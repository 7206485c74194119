"""The allocator settings of a process that computes on the CPU."""

import ctypes
import gc
import mmap
import platform
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

import jax

# mallopt's parameters (malloc.h) that keep every freed page in the process.
_KEEP = (
    (-8, 1),  # M_ARENA_MAX: one arena
    (-4, 0),  # M_MMAP_MAX: no large block is mapped separately
    (-1, -1),  # M_TRIM_THRESHOLD: nothing is returned to the system
    (-2, 64 << 20),  # M_TOP_PAD: grow by 64 MiB at a time
)
# glibc searches its lists of free blocks of these sizes for the best fit.
_SMALLEST, _LARGEST = 1040, 1 << 20
_MADV_DONTNEED = 4
# The event of a compilation or of loading a cached program; shorter ones leave few fragments.
_COMPILED, _SHORT = "/jax/core/compile/backend_compile_duration", 0.1


class _MallInfo2(ctypes.Structure):
    """Of malloc.h."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def keep_freed_memory(retires: bool = False) -> bool:
    """Makes glibc keep a step's freed memory for the next step; no effect with an accelerator.

    Otherwise each step maps and unmaps its buffers: 60,000 page faults and 0.13 s of the 0.6
    CPU-seconds of a quickstart step. The peak is unchanged, but the process keeps it.

    Call it before JAX initialises devices, because existing threads have separate arenas. A machine
    therefore counts as one without an accelerator if JAX has no plugin for any, or if JAX_PLATFORMS
    is cpu.

    Args:
      retires: also call `retire_fragments` after each compilation, for processes that compile a few
        programs and run them often: retired memory is not used again. The small network's step
        takes 1.20 s with it instead of 1.47.

    Returns:
      Whether the settings were applied; other systems are left unchanged.
    """
    plugins = entry_points(group="jax_plugins") or find_spec("libtpu")
    if plugins and jax.config.values["jax_platforms"] != "cpu":
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    for parameter, value in _KEEP:
        libc.mallopt(parameter, value)
    if retires and hasattr(libc, "mallinfo2"):  # since glibc 2.33
        jax.monitoring.register_event_duration_secs_listener(retire_fragments)
    return True


def retire_fragments(event: str, seconds: float, **_: object) -> None:
    """Removes the free blocks of a compilation from the heap's lists.

    XLA leaves about 100,000 free blocks of different sizes. Every allocation of a step searches
    them under the lock of the only arena: a fifth of a small network's step on the CPU. All free
    blocks below 1 MiB are allocated and never used again; their pages return to the system. Larger
    ones, such as a step's buffers, stay available.

    Args:
      event, seconds: of `jax.monitoring`; other events and short compilations are ignored.
    """
    if event != _COMPILED or seconds < _SHORT:
        return
    gc.collect()  # otherwise tracing's garbage would reach the lists later
    libc: Any = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallinfo2.restype, libc.sbrk.restype = _MallInfo2, ctypes.c_void_p
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    now = libc.mallinfo2()
    # Blocks beyond `end` are new ones, not from the lists.
    free, end = now.fordblks - now.keepcost, libc.sbrk(0) - now.keepcost

    def listed(size: int) -> int | None:
        """A free block from the lists, or None."""
        block = libc.malloc(size)
        if block and block < end:
            return block
        libc.free(block)
        return None

    large, size = [], 1 << max(free.bit_length() - 1, 0)
    while size >= _LARGEST:
        if block := listed(size):
            large.append(block)
        else:
            size //= 2
    retired = 0
    while size >= _SMALLEST and retired + size <= free:
        if not (block := listed(size)):
            size = int(size / 1.15)
            continue
        retired += size
        first = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = (block + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
        if pages > 0:
            libc.madvise(first, pages, _MADV_DONTNEED)
    for block in large:
        libc.free(block)
