"""Which checkpoints of a run are kept, and which is the best."""

from collections.abc import Collection
from pathlib import Path

import orbax.checkpoint as ocp

from ragaf_jax.checkpoints.files import checkpoints


def stored_scores(folder: Path, metric: str) -> dict[int, float]:
    """The value of `metric` by step, for the checkpoints that have it."""
    values = {}
    for directory in checkpoints(folder):
        try:
            scores = ocp.JsonCheckpointHandler().restore(directory / "scores")
        except (OSError, ValueError):  # lost or damaged scores do not invalidate a checkpoint
            continue
        if metric in scores:
            values[int(directory.name)] = scores[metric]
    return values


def best_of(scores: dict[int, float], n: int) -> list[int]:
    """The steps with the n greatest scores, best first; of equal scores the latest first."""
    return sorted(scores, key=lambda step: (scores[step], step), reverse=True)[:n]


def outdated(
    steps: Collection[int],
    scores: dict[int, float],
    keep_last: int,
    keep_best: int,
    keep_every: int,
) -> list[int]:
    """The steps whose checkpoints are deleted: neither newest, nor best, nor every n-th.

    Args:
      steps: of all checkpoints.
      scores: by step; some steps may have none.
      keep_last, keep_best: numbers of checkpoints to keep; at least 1 and 0.
      keep_every: checkpoints at multiples of it are kept; 0 for none.
    """
    best = best_of({step: scores[step] for step in steps if step in scores}, keep_best)
    kept = {*sorted(steps)[-keep_last:], *best}
    return sorted(x for x in steps if x not in kept and (not keep_every or x % keep_every))
