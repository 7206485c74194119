"""The TPU's kernel against float64 NumPy, in Pallas' interpreter."""

import jax.numpy as jnp
import pytest
from attention_reference import check, inputs, normal

from ragaf_jax.nets.kernels import flash_tpu, flash_tpu_blocks
from ragaf_jax.nets.kernels.flash_tpu import flash_attention


def attention(q, k, v, bias=None):
    """With the signature of `nets.attention.attention`."""
    joined = [x.reshape(*x.shape[:2], -1) for x in (q, k, v)]
    bias = None if bias is None else bias[:, 0]
    return flash_attention(*joined, bias, q.shape[2], interpret=True).reshape(q.shape)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 256 tokens in tiles of 128 × 128, so that few tokens need several of both."""
    monkeypatch.setattr(flash_tpu, "_BLOCK_TOKENS", 256)
    monkeypatch.setattr(flash_tpu, "TILE", (128, 128))
    monkeypatch.setattr(flash_tpu_blocks, "TILE", (128, 128))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((2, 64, 64, 2, 40), id="one block"),
        pytest.param((1, 512, 512, 2, 8), id="several blocks of several tiles"),
        pytest.param((1, 300, 333, 1, 16), id="blocks that do not divide the lengths"),
        pytest.param((2, 130, 77, 3, 8), id="keys of a text"),
    ],
)
def test_matches_numpy(rng, small_blocks, sizes):
    check(attention, rng, *inputs(rng, *sizes, None))


@pytest.mark.parametrize("sizes", [(2, 60, 77, 3, 8), (1, 300, 333, 1, 16)])
def test_a_bias_has_its_gradient(rng, small_blocks, sizes):
    check(attention, rng, *inputs(rng, *sizes, (sizes[0], 1)))


@pytest.mark.parametrize(
    ("length", "channels", "block"),
    [(77, 320, 77), (256, 1280, 256), (1024, 640, 512), (4096, 320, 1024), (3844, 320, 1024)],
)
def test_blocks_are_whole_or_multiples_of_a_tpus_lanes(length, channels, block):
    assert flash_tpu._block(length, 2 * channels) == block


def test_large_logits_do_not_overflow(rng):
    q, k, v = (1e3 * jnp.asarray(normal(rng, 1, 8, 1, 8)) for _ in range(3))
    assert jnp.isfinite(attention(q, k, v)).all()
