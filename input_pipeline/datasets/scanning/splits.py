"""Assigns examples to splits; variants of one drawing stay together.

Everything here depends on names and pixels alone, so that every process and every machine makes
the same splits.
"""

import collections
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8

from ragaf_jax.errors import UserError

TEST_SHARE, VALIDATION_SHARE = 0.1, 0.05
# Where the hashes of a split lie in [0, 1).
_INTERVALS = {
    "test": (0.0, TEST_SHARE),
    "validation": (TEST_SHARE, TEST_SHARE + VALIDATION_SHARE),
    "train": (TEST_SHARE + VALIDATION_SHARE, 1.0),
}
# Fewer groups than that tell nothing about a model.
_LEAST_HELD_OUT = 2
# Larger groups (people, faces, hearts) are always trained on: a split that is to tell how a model
# does on new drawings must not be half hearts.
MOST_HELD_OUT = 8
# Cosine of two line drawings above which they are one drawing with other details: the medals and
# the snowmen lie above it, the coloured hearts are at 1.
SAME_DRAWING = 0.83


def stable_hash(text: str) -> int:
    """64 bits that depend on the text alone (Python's own `hash` differs between processes)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def split_of(group: str, drawings: int) -> str:
    """The split of a group of so many drawings: "test", "validation" or "train"."""
    return "train" if drawings > MOST_HELD_OUT else _split_at(_position(group), tuple(_INTERVALS))


def _position(group: str) -> float:
    """Where a group lies in [0, 1): on its own name alone, so that new groups move no other."""
    return stable_hash(f"split/{group}") / 2**64


def least_groups(held: Iterable[str]) -> dict[str, int]:
    """The least number of groups of "train" and of each split that is held out of it."""
    return {**dict.fromkeys(held, _LEAST_HELD_OUT), "train": 1}


def split_groups(
    groups: Iterable[str], held: Sequence[str] = ("validation", "test"), problem: str = ""
) -> dict[str, str]:
    """The split of each group by the hash of its name, whatever else there is.

    Only where a split would have too few groups (two of each held-out split, one of "train") do
    those move to it whose hash is nearest, from splits that can spare them: data of more than some
    hundred groups never sees that.

    Args:
      groups: names; one that comes several times counts once.
      held: the splits to make besides "train"; the share of another stays in "train".
      problem: what there may be to say of why there are so few; see `first_problem`.

    Raises:
      UserError: there are too few groups for these splits.
    """
    positions = {group: _position(group) for group in sorted(set(groups))}
    least = least_groups(held)
    if len(positions) < sum(least.values()):
        wanted = " and ".join(f"{count} for {split}" for split, count in least.items())
        raise UserError(
            f"Usable pictures to split: {len(positions)}; {sum(least.values())} or more are needed "
            f"({wanted}): add some{problem}."
        )

    splits = {group: _split_at(position, held) for group, position in positions.items()}
    for split in least:
        low, high = _INTERVALS[split]
        while (counts := collections.Counter(splits.values()))[split] < least[split]:
            spare = (group for group in splits if counts[splits[group]] > least[splits[group]])
            nearest = min(spare, key=lambda g: max(low - positions[g], positions[g] - high))
            splits[nearest] = split
    return splits


def _split_at(position: float, held: Sequence[str]) -> str:
    """The split of `held` whose interval contains `position`; "train" if none does."""
    within = (split for split in held if _INTERVALS[split][0] <= position < _INTERVALS[split][1])
    return next(within, "train")


def group_drawings(
    keys: Sequence[str], bases: Sequence[str], lines: UInt8[np.ndarray, "n s s"]
) -> list[str]:
    """The group of each drawing: the least key among all that it is connected with.

    Two drawings are connected when they share a base or when their line drawings nearly coincide,
    as they are or one of them in a mirror: training shows every drawing in a mirror, too.

    Args:
      keys: one unique name a drawing.
      bases: what a drawing is a variant of.
      lines: the line drawings, ink bright.
    """
    # Integers in float64 below 2^53: exact, so that no rounding differs between machines.
    pixels = lines.reshape(len(keys), -1).astype(np.float64)
    mirrored = lines[:, :, ::-1].reshape(len(keys), -1).astype(np.float64)
    ink = np.square(pixels).sum(1)
    overlap = np.maximum(pixels @ pixels.T, pixels @ mirrored.T)
    alike = overlap**2 > SAME_DRAWING**2 * ink[:, None] * ink[None, :]

    parent = list(range(len(keys)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_of_base: dict[str, int] = {}
    for i, base in enumerate(bases):
        parent[find(i)] = find(first_of_base.setdefault(base, i))
    for i, j in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
        parent[find(int(i))] = find(int(j))

    least: dict[int, str] = {}
    for i, key in enumerate(keys):
        root = find(i)
        least[root] = min(least.get(root, key), key)
    return [least[find(i)] for i in range(len(keys))]
