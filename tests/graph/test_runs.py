"""Runs are the map, written shorter."""

import numpy as np
import pytest

from ragaf_jax.graph.runs import find_runs


@pytest.mark.parametrize("dtype", [np.int32, np.int16, np.uint8])
def test_runs_spell_the_map(rng, dtype):
    for _ in range(50):
        labels = rng.integers(0, rng.integers(1, 6), rng.integers(1, 12, 2)).astype(dtype)
        labels = labels[:, :: rng.choice([-1, 1])]  # a view
        label, start, length = find_runs(labels)
        np.testing.assert_array_equal(np.repeat(label, length), labels.ravel())
        np.testing.assert_array_equal(start, np.cumsum(length) - length)
        row = start // labels.shape[1]
        np.testing.assert_array_equal(row, (start + length - 1) // labels.shape[1])
        assert ((np.diff(label) != 0) | (np.diff(row) != 0)).all()  # none could be longer
