"""Latents sampled in one call, for tests of scales, keys and starting images."""

import jax

from ragaf_jax.sampling.denoising import advance, begin


def sample_latents(
    model, sampling, params, batch, keys, scales, grid, start=None, text=None, controls=()
):
    """All steps of one stage: [b, h, w, c]; may be traced."""
    given = jax.random.key_data(keys), scales, grid
    begun = begin(model, sampling, params, batch, *given, start, text, controls)
    return advance(model, sampling, params, begun, *given, grid.steps).state.x
