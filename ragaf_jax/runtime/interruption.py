"""Handles SIGTERM, which a cluster sends before it takes the machine away."""

import os
import signal
import threading
from types import FrameType
from typing import ClassVar

import jax
from jax.experimental import multihost_utils


class Interruption:
    """While it is entered, SIGTERM does not end the process: `requested` says that it came.

    One process has a handler that only sets a flag. With several (`jax.distributed`), JAX's own
    service hears the signal and has all of them agree on one step, so that they save together.
    Ctrl-C stays as it is. Outside the main thread, where Python allows no handler, nothing is
    changed and nothing is ever requested.

    Example:
      with Interruption() as interruption:
          for step in …:
              …
              if interruption.requested(step):
                  save; break
    """

    # The handler of whoever is entered, which a forked worker must not keep.
    _entered: ClassVar["Interruption | None"] = None

    def __init__(self) -> None:
        self._came = False
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
            # None: the handler before was not set from Python, and cannot be put back from it.
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
            self._installed = False
            Interruption._entered = self._outer

    def requested(self, step: int) -> bool:
        """Whether the run is to stop after this step.

        Args:
          step: the step just made. With several processes all must ask at every step, and it is
            True at the one step that they agreed on.
        """
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._came

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True


class _Fork(threading.local):
    """Keeps SIGTERM back while a worker is forked, and gives it back its own meaning there.

    Of each thread by itself, as masks of signals are; nothing unless an `Interruption` is entered.

    A worker must end when its pool terminates it. Left alone it would inherit the handler; and as
    Python forgets in a child what came before it ran, a signal sent at once would be lost.
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
