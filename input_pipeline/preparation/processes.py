"""Runs many tasks over the cores of one machine, in order, with little memory."""

import collections
import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2
import numpy as np

from ragaf_jax.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
Map = Callable[[Callable[[Task], Result], Iterable[Task]], Iterator[Result]]

# Tasks that travel together, and how many such parcels each process has ahead of it: what has been
# made and not yet been written is bounded, however many tasks there are.
_PARCEL, _AHEAD = 4, 3


@contextlib.contextmanager
def mapping(workers: int, modules: Sequence[str] = ()) -> Iterator[Map]:
    """Gives a `map` over so many processes; one is this process itself.

    The functions must be of a module, and tasks and results picklable. `modules` are imported once,
    in the process that all others are copies of.
    """
    if workers == 1:
        keep_freed_arrays()
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)  # processes are the unit of work here too
        try:
            yield map
        finally:
            cv2.setNumThreads(before)
        return
    # Not copies of this process: it may have threads of JAX.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        with _without_command():
            for _ in range(workers):
                pool.submit(int)  # starts a process while this one sees what there is to do
        try:
            yield functools.partial(_bounded_map, pool, workers * _AHEAD)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _without_command() -> Iterator[None]:
    """Processes that start meanwhile do not import the command, whose networks they do not use."""
    command = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = command


def _bounded_map(
    pool: Executor, ahead: int, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[Result]:
    iterator = iter(tasks)
    parcels = iter(lambda: tuple(itertools.islice(iterator, _PARCEL)), ())
    pending: collections.deque = collections.deque()
    try:
        for parcel in parcels:
            pending.append(pool.submit(_apply, function, parcel))
            if len(pending) > ahead:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "A process that prepares data was killed, most often because memory ran out; try again "
            "with fewer --workers."
        ) from None


def _apply(function: Callable[[Task], Result], parcel: Sequence[Task]) -> list[Result]:
    return [function(task) for task in parcel]


def keep_freed_arrays() -> None:
    """Makes glibc keep freed arrays of up to 16 MiB for the next ones, in this process.

    Otherwise their pages go back to the system after each page of regions, and come anew: 2.8
    instead of 1.9 ms of CPU time for a page of 512 px, 7 instead of 3.5 ms for one of 1024 px.
    """
    # Mapped on its own and freed at once, it raises glibc's dynamic M_MMAP_THRESHOLD to its size.
    np.empty(1 << 24, np.uint8)


def _start_worker() -> None:
    keep_freed_arrays()
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A network that draws sketches (HED) shares no accelerator with as many others as there are.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["NPROC"] = "1"  # the threads of XLA's pool


def _end_with_parent() -> None:
    """A main process that is killed ends no pool: its processes would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
