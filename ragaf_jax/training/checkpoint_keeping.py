"""Which checkpoints of a run stay on disk, and which is its best."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from ragaf_jax.training.checkpoint_files import checkpoints


def stored_scores(folder: Path, metric: str) -> dict[int, float]:
    """The checkpoints of a folder in which `metric` was measured: its value by their steps."""
    values = {}
    for directory in checkpoints(folder):
        try:
            scores = ocp.JsonCheckpointHandler().restore(directory / "scores")
        except (OSError, ValueError):  # lost or damaged: it is not worth the checkpoint
            continue
        if metric in scores:
            values[int(directory.name)] = scores[metric]
    return values


def best_of(scores: dict[int, float], n: int) -> list[int]:
    """The steps with the n greatest scores, the best first and the latest of equals."""
    return sorted(scores, key=lambda step: (scores[step], step), reverse=True)[:n]


def preservation(
    scores: dict[int, float], keep_last: int, keep_best: int, keep_every: int
) -> ocp.checkpoint_managers.AnyPreservationPolicy:
    """A checkpoint stays that is among the newest, or the best, or of every so many steps.

    Args:
      scores: by step; looked up anew whenever the policy is asked.
      keep_last, keep_best: how many of each; at least 1 and 0.
      keep_every: those whose step is a multiple of it; 0 for none.
    """
    policies: list[PreservationPolicy] = [
        ocp.checkpoint_managers.LatestN(keep_last),
        _Best(scores, keep_best),
    ]
    if keep_every:
        policies.append(ocp.checkpoint_managers.EveryNSteps(keep_every))
    return ocp.checkpoint_managers.AnyPreservationPolicy(policies)


@dataclasses.dataclass(frozen=True)
class _Best(PreservationPolicy):
    """Orbax's `BestN` ranks every checkpoint that has metrics; here some lack the one that counts.

    And a damaged file of metrics would stop its manager from opening the folder.
    """

    scores: dict[int, float]
    n: int

    def should_preserve(
        self,
        checkpoints: Sequence[Any],  # a protocol that cannot be checked at run time
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        steps = [info.step for info in checkpoints]
        left = {step: self.scores[step] for step in steps if step in self.scores}
        best = best_of(left, self.n)
        return [step in best for step in steps]
