"""Being asked to stop: SIGTERM, as a cluster sends it before it takes the machine away."""

import os
import signal
import threading
from types import FrameType

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

    def __init__(self) -> None:
        self._came = False
        self._process = os.getpid()
        self._previous: signal._HANDLER = None
        self._installed = False

    def __enter__(self) -> "Interruption":
        alone = not jax.distributed.is_initialized()
        if alone and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            # None: the handler before was not set from Python, and cannot be put back from it.
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
            self._installed = False

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
        if os.getpid() == self._process:
            self._came = True
            return
        # A forked worker inherits the handler, and must end when its pool terminates it.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
