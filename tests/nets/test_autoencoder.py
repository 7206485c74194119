"""The Haar transform: its own inverse transposed, on any image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.nets.autoencoder import Autoencoder, HaarAutoencoder


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_identity(rng, levels):
    autoencoder = HaarAutoencoder(levels)
    image = jnp.asarray(rng.uniform(-1, 1, (2, 16, 24, 3)), jnp.float32)
    latents = autoencoder.encode({}, image)
    scale = autoencoder.downscale
    assert latents.shape == (2, 16 // scale, 24 // scale, autoencoder.channels)
    np.testing.assert_allclose(autoencoder.decode({}, latents), image, atol=1e-6)
    np.testing.assert_allclose(
        autoencoder.encode({}, autoencoder.decode({}, 5 * latents)), 5 * latents, atol=1e-5
    )


def test_orthonormal():
    autoencoder = HaarAutoencoder(2)
    pixels = jnp.eye(4 * 4 * 3).reshape(48, 4, 4, 3)
    matrix = np.asarray(autoencoder.encode({}, pixels)).reshape(48, 48)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(48), atol=1e-6)


def test_the_first_channels_are_the_mean_colour(rng):
    autoencoder = HaarAutoencoder(2)
    colour = rng.uniform(-1, 1, 3).astype(np.float32)
    latents = autoencoder.encode({}, jnp.broadcast_to(colour, (1, 8, 8, 3)))
    np.testing.assert_allclose(latents[0, 1, 1, :3], 4 * colour, atol=1e-6)
    np.testing.assert_allclose(latents[..., 3:], 0, atol=1e-6)


def test_is_local(rng):
    autoencoder = HaarAutoencoder(2)
    image = jnp.asarray(rng.uniform(-1, 1, (1, 8, 8, 3)), jnp.float32)
    change = autoencoder.encode({}, image.at[0, 5, 2].add(1.0)) - autoencoder.encode({}, image)
    changed = np.abs(change[0]).max(-1) > 1e-6
    np.testing.assert_array_equal(changed, [[False, False], [True, False]])


def test_sides_that_do_not_divide():
    with pytest.raises(ValueError, match=r"\(8, 6\), expected multiples of 4"):
        HaarAutoencoder(2).encode({}, jnp.zeros((1, 8, 6, 3)))


def test_has_no_parameters_and_one_latent_per_image(rng):
    autoencoder, key = HaarAutoencoder(1), jax.random.key(0)
    keys = key[None]
    image = jnp.asarray(rng.uniform(-1, 1, (1, 4, 4, 3)), jnp.float32)
    params = autoencoder.init(key)
    assert params == {}
    np.testing.assert_array_equal(
        autoencoder.encode(params, image, keys), autoencoder.encode(params, image)
    )


def test_is_an_autoencoder_and_hashable():
    assert isinstance(HaarAutoencoder(), Autoencoder)
    assert hash(HaarAutoencoder(2)) == hash(HaarAutoencoder(2))
    assert jax.jit(HaarAutoencoder(1).encode)({}, jnp.ones((1, 2, 2, 3))).shape == (1, 1, 1, 12)
