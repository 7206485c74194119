"""Inception: the resize, and what holds for any weights; `tests/parity` has the numbers."""

import jax
import jax.numpy as jnp
import metric_weights
import numpy as np
import pytest

from ragaf_jax.evaluation.networks.inception import inception, resize_like_tensorflow1


@pytest.fixture(scope="module")
def params(seed):
    return metric_weights.inception_params(np.random.default_rng(seed))


def pictures(rng, count, height, width):
    return rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def tensorflow_1(x, side):
    """One pixel after the other, in double precision."""
    height, width = x.shape[:2]
    out = np.empty((side, side, x.shape[2]))
    for i in range(side):
        for j in range(side):
            y, x_ = i * height / side, j * width / side
            top, left = int(y), int(x_)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x_ - left
            above = x[top, left] * (1 - dx) + x[top, right] * dx
            below = x[bottom, left] * (1 - dx) + x[bottom, right] * dx
            out[i, j] = above * (1 - dy) + below * dy
    return out


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 23), (31, 31), (90, 64)], ids=str)
def test_the_resize_is_that_of_tensorflow_1(rng, size):
    image = rng.random((2, *size, 3)).astype(np.float32)
    ours = resize_like_tensorflow1(jnp.asarray(image), 31)
    for one, x in zip(ours, image, strict=True):
        np.testing.assert_allclose(one, tensorflow_1(x, 31), atol=2e-5)


def test_a_picture_of_the_right_size_stays_as_it_is(rng):
    image = jnp.asarray(rng.random((1, 31, 31, 3)), jnp.float32)
    np.testing.assert_array_equal(resize_like_tensorflow1(image, 31), image)


def test_a_batch_is_its_pictures_one_by_one(rng, params):
    images = pictures(rng, 2, 37, 53)
    together = inception(params, images)
    assert [x.shape for x in together] == [(2, 2048), (2, 1008), (2, 1008)]
    assert all(x.dtype == np.float32 for x in together)
    for i in range(2):
        alone = inception(params, images[i : i + 1])
        for all_, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(all_[i], one[0], rtol=1e-4, atol=1e-4 * np.abs(one).max())
    assert np.abs(together.features[0] - together.features[1]).max() > 1e-2
    assert (np.asarray(together.features) >= 0).all()


def test_the_bias_is_left_out_of_the_unbiased_logits(rng, params):
    images = pictures(rng, 2, 37, 53)
    biased = inception(params, images)
    without = jax.tree.map(lambda x: x, params)
    without["fc"]["bias"] = np.zeros_like(params["fc"]["bias"])
    np.testing.assert_allclose(
        biased.unbiased_logits, inception(without, images).logits, atol=1e-5, rtol=1e-5
    )


def test_one_compilation_for_one_size(rng, params):
    before = inception._cache_size()
    for _ in range(2):
        inception(params, pictures(rng, 2, 37, 53))
    assert inception._cache_size() <= before + 1
