"""Which split a drawing belongs to: by the base drawing that it is a variant of.

Everything here depends on names and pixels alone, so that every process and every machine makes
the same splits.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

TEST_SHARE, VALIDATION_SHARE = 0.1, 0.05
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
    position = stable_hash(f"split/{group}") / 2**64
    if drawings > MOST_HELD_OUT or position >= TEST_SHARE + VALIDATION_SHARE:
        return "train"
    return "test" if position < TEST_SHARE else "validation"


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
