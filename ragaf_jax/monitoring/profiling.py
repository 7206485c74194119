"""A trace of some training steps, for TensorBoard's profiler or Perfetto."""

import re
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from ragaf_jax.errors import UserError


def parse_window(text: str) -> range:
    """The steps of "100:110", which are 100 … 109; none of "".

    Raises:
      UserError: anything else, or a window without a step.
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
    """Traces the steps of a window into a folder; a trace that is begun ends with the context.

    `with Profile(window, folder) as profile:` around the loop, and `profile.at(step, state)` before
    each step.

    Args:
      window: steps; an empty one is never traced.
      folder: gets plugins/profile/<time>/…, where TensorBoard looks for it.
    """

    def __init__(self, window: range, folder: Path):
        self._window = window
        self._folder = folder
        self._traces = False

    def __enter__(self) -> "Profile":
        """Nothing is traced yet."""
        return self

    def at(self, step: int, state: Any = None) -> None:
        """Begins with the window's first step, or where a run resumes inside, and ends after it.

        Args:
          step: that comes next.
          state: what the step before gave. It is waited for at both ends of the window, so that
            the trace holds the window's work on the devices and no other's.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends a trace whose window the run did not reach the end of, or failed in."""
        if self._traces:
            self._stop()
