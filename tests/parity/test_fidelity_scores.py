"""FID, KID and the Inception score against torch-fidelity's, on the same features."""

import numpy as np
import pytest

from ragaf_jax.evaluation.metrics.frechet import frechet_distance
from ragaf_jax.evaluation.metrics.inception_score import inception_score
from ragaf_jax.evaluation.metrics.kernel import polynomial_mmd2

torch = pytest.importorskip("torch")

import reference_packages  # noqa: E402

metric_fid = reference_packages.imported("torch_fidelity.metric_fid")
metric_isc = reference_packages.imported("torch_fidelity.metric_isc")
metric_kid = reference_packages.imported("torch_fidelity.metric_kid")


def two_sets(rng, n, m, d):
    """Two related sets, non-negative and correlated as pooled features are."""
    mixing = rng.normal(size=(d, d)) / np.sqrt(d)
    return tuple(
        np.maximum(rng.normal(size=(count, d)) @ mixing + shift, 0)
        for count, shift in ((n, 0.2), (m, 0.3))
    )


@pytest.mark.parametrize("n, m", [(600, 700), (257, 2100)])
def test_fid(rng, n, m):
    sets = two_sets(rng, n, m, 256)
    statistics = [metric_fid.fid_features_to_statistics(torch.from_numpy(rows)) for rows in sets]
    (theirs,) = metric_fid.fid_statistics_to_metric(*statistics, verbose=False).values()
    np.testing.assert_allclose(frechet_distance(*sets), theirs, rtol=1e-6)


def test_kid(rng):
    """Every subset of theirs is the whole set."""
    sets = two_sets(rng, 60, 60, 256)
    theirs = metric_kid.kid_features_to_metric(
        *map(torch.from_numpy, sets), kid_subsets=3, kid_subset_size=60, verbose=False
    )
    np.testing.assert_allclose(polynomial_mmd2(*sets), next(iter(theirs.values())), rtol=1e-9)


class InOrder(np.random.Generator):
    """A generator that leaves everything where it is."""

    def __init__(self):
        super().__init__(np.random.PCG64())

    def permutation(self, count):
        return np.arange(count)


@pytest.mark.parametrize("splits", [1, 7, 10])
def test_inception_score(rng, splits):
    logits = rng.normal(0, 2, (83, 20)).astype(np.float32)
    theirs = metric_isc.isc_features_to_metric(
        torch.from_numpy(logits), splits=splits, shuffle=False
    )
    ours = inception_score(logits, rng=InOrder(), splits=splits)
    np.testing.assert_allclose(ours, tuple(theirs.values()), rtol=1e-9, atol=1e-12)
