"""Means of logged values over the steps that changed the parameters."""

from collections.abc import Mapping, Sequence

import numpy as np

Numbers = Mapping[str, np.ndarray | np.generic]

# Names of the columns of `by_time` behind the count; the last two are there with RAGAF.
_BY_TIME = ("loss_at", "fusion/sketch", "fusion/text")


def summarize(steps: Sequence[Numbers], timesteps: int) -> dict[str, float]:
    """Means over steps.

    Args:
      steps: what `train_step` gave, on the host.
      timesteps: T of the schedule.

    Returns:
      The mean of every scalar over the steps that were not skipped, and `skipped`, how many were.
      Of the quarters of the timesteps, where any example fell there: `loss_at/0-249` …, the
      denoising loss, and with RAGAF `fusion/sketch/0-249` … (α) and `fusion/text/0-249` … (β).
      Where every step was skipped, `skipped` alone.
    """
    done = [step for step in steps if not step["skipped"]]
    result = {"skipped": float(len(steps) - len(done))}
    if not done:
        return result
    for name in done[0]:
        if name not in ("skipped", "by_time"):
            result[name] = float(np.mean([step[name] for step in done]))
    by_time = np.sum([step["by_time"] for step in done], axis=0)
    bounds = np.arange(len(by_time) + 1) * timesteps // len(by_time)
    for begin, end, (count, *sums) in zip(bounds, bounds[1:], by_time, strict=False):
        for name, total in zip(_BY_TIME, sums, strict=False):
            if count > 0:
                result[f"{name}/{begin}-{end - 1}"] = float(total / count)
    return result


def skipped_in_a_row(steps: Sequence[Numbers], before: int) -> list[int]:
    """After each step, how many in a row have been skipped by then; `before`, ahead of the first.

    So `before` of the next call is the last number.
    """
    counts = []
    for step in steps:
        before = before + 1 if step["skipped"] else 0
        counts.append(before)
    return counts
