"""Traces of training steps for TensorBoard's profiler or Perfetto."""

import re
from pathlib import Path
from typing import Any

import jax

from ragaf_jax.errors import UserError


def parse_window(text: str) -> range:
    """The steps of a window: 100 … 109 for "100:110", none for "".

    Raises:
      UserError: the text has another form, or the window has no step.
    """
    if not text:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    window = range(*map(int, match.groups())) if match else range(0)
    if not window or window.start < 1:
        raise UserError(
            f"--profile is {text!r}; give the first step, 1 or more, and the one after the last, "
            "such as 100:110."
        )
    return window


class Profile:
    """Traces the steps of a window into a folder.

    `with Profile(window, folder) as profile:` around the loop, and `profile.at(step, state)` before
    each step.

    Args:
      window: steps to trace.
      folder: gets plugins/profile/<time>/…, which TensorBoard reads.
    """

    def __init__(self, window: range, folder: Path):
        self._window = window
        self._folder = folder
        self._traces = False

    def __enter__(self) -> "Profile":
        return self

    def at(self, step: int, state: Any = None) -> None:
        """Starts the trace at the first step inside the window, and ends it after the last.

        Args:
          step: the next step.
          state: of the previous step. Both ends of the window wait for it, so that the trace holds
            only the window's work on the devices.
        """
        inside = step in self._window
        if inside == self._traces:
            return
        jax.block_until_ready(state)
        if inside:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._folder))
            self._traces = True
        else:
            self._stop()

    def _stop(self) -> None:
        self._traces = False
        jax.profiler.stop_trace()

    def __exit__(self, *_: object) -> None:
        # The run may stop or fail inside the window.
        if self._traces:
            self._stop()
