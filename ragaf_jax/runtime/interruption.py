"""Handles SIGTERM, which a cluster sends before it preempts a job."""

import os
import signal
import threading
from types import FrameType
from typing import ClassVar

import jax
from jax.experimental import multihost_utils


class Interruption:
    """A context in which SIGTERM does not end the process but sets `stop_requested`.

    A single process has a handler that only sets a flag. With several (`jax.distributed`), JAX's
    service receives the signal and makes all of them agree on one step, so that they save together.
    Ctrl-C is unchanged. Outside the main thread, where Python allows no handler, the context has no
    effect.
    """

    # The current context, whose handler a forked worker must not keep.
    _entered: ClassVar["Interruption | None"] = None

    def __init__(self) -> None:
        self.stop_requested = False
        self._previous: signal._HANDLER = None
        self._installed = False
        self._outer: Interruption | None = None

    def __enter__(self) -> "Interruption":
        alone = not jax.distributed.is_initialized()
        if alone and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
            self._installed = True
            self._outer, Interruption._entered = Interruption._entered, self
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            # None: the previous handler was not set from Python and cannot be restored.
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
            self._installed = False
            Interruption._entered = self._outer

    def requested(self, step: int) -> bool:
        """Whether to stop after this step.

        Args:
          step: the completed step. Several processes must all call this at every step; it is True
            at the step that they agreed on.
        """
        if jax.distributed.is_initialized():
            self.stop_requested |= multihost_utils.reached_preemption_sync_point(step)
        return self.stop_requested

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True


class _Fork(threading.local):
    """Blocks SIGTERM while a worker is forked, and restores its default action in the worker.

    Signal masks belong to threads, so each thread has its state. Without an entered `Interruption`
    it has no effect.

    A worker must end when its pool terminates it, so it must not inherit the handler. Python drops
    signals that a child receives before it runs, so they must be blocked.
    """

    def __init__(self) -> None:
        self._mask: set[int] | None = None

    def before(self) -> None:
        if Interruption._entered is not None:
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def in_parent(self) -> None:
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            self._mask = None

    def in_child(self) -> None:
        if Interruption._entered is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            Interruption._entered = None
        self.in_parent()


_FORK = _Fork()
os.register_at_fork(
    before=_FORK.before, after_in_parent=_FORK.in_parent, after_in_child=_FORK.in_child
)
