"""Tiled attention against float64 NumPy, with tiles small enough to need many."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from attention_reference import check, inputs, reference

from ragaf_jax.nets.kernels import tiled
from ragaf_jax.nets.kernels.tiled import ACCELERATOR, CPU, Tiling, tiled_attention

BIASES = [None, (4, 1), (1, 1), (4, 3), (1, 3)]


@pytest.mark.parametrize("bias_shape", BIASES)
@pytest.mark.parametrize("tile", ["whole", "groups", "blocks"])
def test_matches_numpy(rng, monkeypatch, tile, bias_shape):
    t, s = 37, 11
    # Two whole examples with their heads; or less than one row, so the minimum of rows counts.
    size = {"whole": CPU.bytes, "groups": 2 * 4 * 3 * t * s, "blocks": 1}[tile]
    if tile != "whole":
        monkeypatch.setattr(tiled, "_MIN_TILE_ROWS", 5)
    form = functools.partial(tiled_attention, tiling=Tiling(size, widen=True))
    check(form, rng, *inputs(rng, 4, t, s, 3, 6, bias_shape))


def test_tiles_have_whole_examples_or_parts_of_one(monkeypatch):
    monkeypatch.setattr(tiled, "_MIN_TILE_ROWS", 4)
    division = functools.partial(tiled._division, tile_bytes=4 * 1000)
    assert division((6, 1, 10, 50)) == (3, 10)  # two examples of 500 scores a tile
    assert division((7, 1, 10, 50)) == (7, 10)  # no common divisor: one at a time
    assert division((6, 2, 30, 50)) == (6, 10)  # three blocks of an example
    assert division((1, 1, 31, 50)) == (1, 16)  # uneven: the second block is padded
    assert division((1, 1, 9, 5000)) == (1, 3)  # never fewer rows than the minimum allows


@pytest.mark.parametrize("tiling", [CPU, ACCELERATOR])
def test_bfloat16_is_rounded_once_on_its_way_in_and_out(rng, tiling):
    q, k, v, bias = (jnp.asarray(x) for x in inputs(rng, 2, 6, 5, 2, 8, (2, 1)))
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    out = tiled_attention(*half, bias, tiling=tiling)
    assert out.dtype == jnp.bfloat16
    wide = [np.asarray(x, np.float32) for x in half]
    expected, _ = reference(*wide, np.asarray(bias), np.zeros_like(wide[0]))
    # Weights of at most 1 and their sum are rounded, then the result: 2⁻⁹ of each.
    bound = 3 * 2**-9 * np.abs(wide[2]).max()
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=0, atol=bound)
