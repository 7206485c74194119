"""Assigns examples to splits, with all variants of a drawing in one split.

Splits depend on names and pixels alone, so that they are the same in every process and on every
machine. Only decoding shows which examples are unreadable. In large datasets they do not affect the
splits of others; in small ones, the least number of groups counts only readable examples.
"""

import collections
import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from input_pipeline.datasets.scanning.items import Item, Rejected, Scan, first_problem
from ragaf_jax.errors import UserError

TEST_SHARE, VALIDATION_SHARE = 0.1, 0.05
# The interval in [0, 1) of each split's hashes.
_INTERVALS = {
    "test": (0.0, TEST_SHARE),
    "validation": (TEST_SHARE, TEST_SHARE + VALIDATION_SHARE),
    "train": (TEST_SHARE + VALIDATION_SHARE, 1.0),
}
# Least number of groups for a meaningful evaluation.
_LEAST_HELD_OUT = 2
# Larger groups of drawings (people, faces, hearts) are always in "train", because they would
# dominate a held-out split.
MOST_HELD_OUT = 8
# Line drawings with a greater cosine similarity are variants of one drawing: medals and snowmen
# exceed it, and coloured hearts have 1.
SAME_DRAWING = 0.83


def stable_hash(text: str) -> int:
    """A hash of 64 bits that depends on the text alone; `hash` differs between processes."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def split_of(group: str, drawings: int) -> str:
    """The split of a group of this number of drawings: "test", "validation" or "train"."""
    return "train" if drawings > MOST_HELD_OUT else _split_at(_position(group), tuple(_INTERVALS))


def _position(group: str) -> float:
    """A group's position in [0, 1), which depends on its name alone."""
    return stable_hash(f"split/{group}") / 2**64


def least_groups(held: Iterable[str]) -> dict[str, int]:
    """The least number of groups in "train" and in each held-out split."""
    return {**dict.fromkeys(held, _LEAST_HELD_OUT), "train": 1}


def split_groups(
    groups: Iterable[str], held: Sequence[str] = ("validation", "test"), problem: str = ""
) -> dict[str, str]:
    """Assigns each group to a split by the hash of its name.

    If a split has too few groups (two for held-out splits, one for "train"), it takes those with
    the nearest hashes from splits with enough. This affects only datasets of few groups.

    Args:
      groups: names; duplicates count once.
      held: the splits besides "train"; the shares of other splits stay in "train".
      problem: a phrase about the reason for too few groups; see `first_problem`.

    Raises:
      UserError: there are too few groups for these splits.
    """
    positions = {group: _position(group) for group in sorted(set(groups))}
    least = least_groups(held)
    if len(positions) < sum(least.values()):
        needed = " and ".join(f"{count} for {split}" for split, count in least.items())
        raise UserError(
            f"Usable images to split: {len(positions)}; {sum(least.values())} or more are needed "
            f"({needed}): add some{problem}."
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
    """The group of each drawing, named by the least key in it.

    Two drawings are in one group if they share a base or if their lines nearly coincide. One of
    them may be mirrored, because training mirrors drawings.

    Args:
      keys: unique names of the drawings.
      bases: the common name of a drawing's variants.
      lines: the line drawings, ink bright.
    """
    # Integers below 2^53 are exact in float64, so that results are the same on all machines.
    pixels = lines.reshape(len(keys), -1).astype(np.float64)
    mirrored = lines[:, :, ::-1].reshape(len(keys), -1).astype(np.float64)
    ink = np.square(pixels).sum(1)
    overlap = np.maximum(pixels @ pixels.T, pixels @ mirrored.T)
    alike = overlap**2 > SAME_DRAWING**2 * ink[:, None] * ink[None, :]

    # Imported here, because configurations import this module and need no SciPy.
    from scipy.sparse.csgraph import connected_components

    base = np.unique(bases, return_inverse=True)[1]
    _, components = connected_components(alike | (base[:, None] == base), directed=False)
    least = dict(sorted(zip(components, keys, strict=True), reverse=True))  # the last one stays
    return [least[component] for component in components]


def scan_with_splits(
    root: Path, items: Sequence[Item], rejected: Sequence[Rejected], given: Collection[str]
) -> Scan:
    """The scan of items whose splits are `given`; other held-out splits are taken from "train".

    All items of a group must have one split.

    Raises:
      UserError: a given split has no item, or "train" has too few groups for the others.
    """
    split_of = {item.group: item.split for item in items}
    for split in sorted(set(given) - set(split_of.values())):
        raise UserError(
            f"No image of the {split} split in {root} can be used{first_problem(rejected)}; "
            "repair the split."
        )
    trained = {group for group, split in split_of.items() if split == "train"}
    missing = tuple(split for split in ("validation", "test") if split not in given)
    split_of |= split_groups(trained, missing, first_problem(rejected))
    items = [item._replace(split=split_of[item.group]) for item in items]
    return Scan(sorted(items), sorted(rejected), missing)


def cut(scan: Scan) -> list[Item]:
    """The items whose split no official list defines."""
    if not scan.held:
        return []
    return [item for item in scan.items if item.split in (*scan.held, "train")]


def rejects_may_move_splits(scan: Scan, max_rejected: float) -> bool:
    """Whether `max_rejected`, a share of all examples, could leave a split too few groups."""
    allowed = int(max_rejected * (len(scan.items) + len(scan.rejected)))
    groups = {item.group: item.split for item in cut(scan)}
    counts = collections.Counter(groups.values())
    least = least_groups(scan.held)
    return allowed > 0 and any(counts[split] < least[split] + allowed for split in least if groups)


def split_usable(scan: Scan, unusable: Collection[str], problem: str) -> list[Item]:
    """The items of a scan except the keys in `unusable`, split without these.

    Raises:
      UserError: too few items are usable.
    """
    usable = [item for item in scan.items if item.key not in unusable]
    groups = [item.group for item in cut(scan) if item.key not in unusable]
    splits = split_groups(groups, scan.held, problem) if scan.held else {}
    return [item._replace(split=splits.get(item.group, item.split)) for item in usable]
