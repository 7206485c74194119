"""Loss terms against NumPy in float64."""

import jax.numpy as jnp
import numpy as np
from fakes import random_graph, random_labels

from ragaf_jax.batch import stacked
from ragaf_jax.losses.terms import appearance_loss
from ragaf_jax.nets.model import Regions
from ragaf_jax.nets.ragaf import RagafTrace


def test_the_appearance_loss_against_numpy(rng):
    """Regions count by their area up to one cell, and not at all where they were dropped."""
    size, side, r, channels = 3, 4, 5, 2
    latents = rng.standard_normal((size, side, side, channels)).astype(np.float32)
    shares = rng.dirichlet(np.full(r, 0.3), (size, side * side)).astype(np.float32)
    shares[0, :, 1] = 0  # a region that covers nothing
    appearance = rng.standard_normal((size, r, channels)).astype(np.float32)
    active = np.array([1, 0, 1], np.float32)
    graph = stacked([random_graph(random_labels(rng, 8, 3), 9, 64)] * size)
    regions = Regions(graph, (jnp.asarray(shares),), active, np.ones((size, 1, 7), bool))
    trace = RagafTrace(np.zeros((size, r, 7)), np.zeros((size, r, 2)), jnp.asarray(appearance))
    expected = []
    for one, told, share, counts in zip(
        latents, appearance, np.float64(shares), active, strict=True
    ):
        mass = share.sum(0)
        mean = share.T @ one.reshape(-1, channels) / np.maximum(mass, 1e-6)[:, None]
        weight = counts * np.minimum(mass, 1)
        error = ((told - mean) ** 2).mean(-1)
        expected.append((weight * error).sum() / max(weight.sum(), 1))
    found = appearance_loss(trace, regions, jnp.asarray(latents))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[1] == found[1] == 0
