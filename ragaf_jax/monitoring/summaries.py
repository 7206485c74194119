"""Means of logged values over the steps that changed the parameters."""

from collections.abc import Mapping, Sequence

import numpy as np

Numbers = Mapping[str, np.ndarray | np.generic]

# Columns of `by_time` after the count; only RAGAF has the last two.
_BY_TIME = ("loss_at", "fusion/sketch", "fusion/text")


def summarize(steps: Sequence[Numbers], timesteps: int) -> dict[str, float]:
    """Means over steps.

    Args:
      steps: the scalars of `train_step`, on the host.
      timesteps: T of the schedule.

    Returns:
      The mean of every scalar over the steps that were not skipped, and the number `skipped`.
      For each quarter of the timesteps that has examples: `loss_at/0-249` …, the denoising loss,
      and with RAGAF `fusion/sketch/0-249` … (α) and `fusion/text/0-249` … (β).
      Only `skipped` if every step was skipped.
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


def consecutive_skips(steps: Sequence[Numbers], before: int) -> list[int]:
    """The number of consecutive skipped steps after each step, given that before the first."""
    counts = []
    for step in steps:
        before = before + 1 if step["skipped"] else 0
        counts.append(before)
    return counts
