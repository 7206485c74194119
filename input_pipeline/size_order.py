"""The order of batches of several sizes."""

from collections.abc import Sequence

import grain.python as grain
import numpy as np

# Each window of as many batches has its share of each size, in a random order.
WINDOW = 64

_BATCHES = 2**60  # more than any run has


class SizeOrder(grain.DatasetSelectionMap):
    """The size of each batch, and which batch of this size it is.

    Batches of a size keep their order, so that their epochs follow each other. Random numbers are
    those of NumPy's `SeedSequence`, which are the same in all versions.
    """

    def __init__(self, shares: Sequence[float], seed: int):
        """Shares of the batches of each size, on any scale."""
        total = sum(shares)
        # Integers, which count exactly however long the run is.
        self._shares = [max(1, round(2**32 * share / total)) for share in shares]
        self._seed = seed

    def __len__(self) -> int:
        return _BATCHES

    def __getitem__(self, index: int) -> tuple[int, int]:
        window, place = divmod(index, WINDOW)
        before, after = self._counts(window * WINDOW), self._counts((window + 1) * WINDOW)
        sizes = np.repeat(np.arange(len(before)), np.subtract(after, before))
        random = np.random.SeedSequence((self._seed, window)).generate_state(WINDOW)
        sizes = sizes[np.argsort(random, kind="stable")]
        size = int(sizes[place])
        return size, before[size] + int((sizes[:place] == size).sum())

    def _counts(self, batches: int) -> list[int]:
        """How many of the first batches have each size; no count falls as `batches` grows."""
        counts, rest = [], sum(self._shares)
        for share in self._shares:
            others = batches * (rest - share) // rest
            counts.append(batches - others)
            batches, rest = others, rest - share
        return counts
