"""Stable Diffusion's autoencoder: diffusers' parameter tree, draws, scale, sizes and tiles."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import count, digest, parameter_shapes

from ragaf_jax.nets.autoencoder import Autoencoder
from ragaf_jax.nets.kl_autoencoder import KlAutoencoder, blend_weights, decode_tiled, tile_starts
from ragaf_jax.nets.vae import Vae, VaeConfig

TINY = VaeConfig(
    block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=0.25
)
autoencoder = KlAutoencoder(Vae(TINY))
tiled = KlAutoencoder(Vae(TINY), tile=8)
encode, decode = jax.jit(autoencoder.encode), jax.jit(autoencoder.decode)
decode_in_tiles = jax.jit(tiled.decode)


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


@functools.cache
def shapes_of(autoencoder):
    return jax.eval_shape(autoencoder.init, jax.random.key(0))


@pytest.fixture
def params(rng):
    """Parameters of the tiny network in which nothing is zero."""
    return jax.tree.map(lambda leaf: 0.3 * normal(rng, *leaf.shape), shapes_of(autoencoder))


@jax.jit
def moments(params, image):
    return Vae(TINY).apply({"params": params}, image, method="encode")


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(np.abs(b).max()))


# Fingerprint of the names and shapes of diffusers 0.35.2's FlaxAutoencoderKL.
def test_parameter_tree_is_that_of_diffusers():
    shapes = parameter_shapes(Vae(VaeConfig()), ((1, 16, 16, 3), jnp.float32))
    assert count(shapes) == 83_653_863
    assert digest(shapes) == "752436eb2e5419cb"
    assert shapes["encoder/mid_block/attentions_0/query/kernel"] == (512, 512)
    assert shapes["encoder/down_blocks_1/resnets_0/conv_shortcut/kernel"] == (1, 1, 128, 256)
    assert shapes["decoder/up_blocks_2/upsamplers_0/conv/kernel"] == (3, 3, 256, 256)
    assert shapes["quant_conv/kernel"] == (1, 1, 8, 8)


def test_is_an_autoencoder_and_hashable():
    full = KlAutoencoder(Vae(VaeConfig()))
    assert isinstance(full, Autoencoder)
    assert (full.downscale, full.channels, full.tile) == (8, 4, 128)
    assert hash(full) == hash(KlAutoencoder(Vae(VaeConfig())))


@pytest.mark.parametrize("size", [(8, 6), (7, 11), (2, 3)])
def test_sides(rng, params, size):
    """An odd side is cut, as in PyTorch; decoding doubles at each level."""
    latents = encode(params, normal(rng, 2, *size, 3))
    assert latents.shape == (2, size[0] // 2, size[1] // 2, 4)
    image = decode(params, latents)
    assert image.shape == (2, 2 * latents.shape[1], 2 * latents.shape[2], 3)
    assert np.isfinite(image).all()


def test_encodes_the_scaled_mode_without_a_key(rng, params):
    image = normal(rng, 2, 8, 6, 3)
    close(encode(params, image), 0.25 * moments(params, image)[0])


def test_decodes_unscaled_latents(rng, params):
    unscaled = jax.jit(KlAutoencoder(Vae(dataclasses.replace(TINY, scaling_factor=1.0))).decode)
    latents = normal(rng, 2, 4, 3, 4)
    close(decode(params, latents), unscaled(params, 4 * latents))


def test_draws_have_the_mean_and_the_deviation_of_the_posterior(rng, params):
    image = normal(rng, 2, 8, 6, 3)
    keys = jax.random.split(jax.random.key(rng.integers(2**32)), (500, 2))
    mean, log_variance = moments(params, image)
    draws = jax.jit(jax.vmap(lambda key: autoencoder.encode(params, image, key)))(keys)
    standard = (4 * draws - mean[None]) / jnp.exp(0.5 * log_variance)[None]
    # Six times the standard errors, of 48,000 numbers together and of 500 for each.
    assert abs(float(standard.mean())) < 6 / 48_000**0.5
    np.testing.assert_allclose(standard.mean(0), 0, atol=6 / 500**0.5)
    np.testing.assert_allclose(standard.std(0), 1, atol=6 / 1000**0.5)
    again = encode(params, image, keys[0])
    close(again, draws[0])
    assert float(jnp.abs(again - draws[1]).max()) > 0


def test_log_variance_is_clipped(rng, params):
    far = jnp.array([0.0] * 4 + [-1e3, -1e3, 1e3, 1e3])
    params["quant_conv"]["bias"] = far
    _, log_variance = moments(params, normal(rng, 2, 8, 6, 3))
    np.testing.assert_array_equal(log_variance[0, 0, 0], [-30, -30, 20, 20])


def test_a_batch_is_its_examples(rng, params):
    image, latents = normal(rng, 2, 8, 6, 3), normal(rng, 2, 11, 9, 4)
    close(encode(params, image)[1:], encode(params, image[1:]))
    close(decode_in_tiles(params, latents)[1:], decode_in_tiles(params, latents[1:]))


def test_inside_a_constant_latent_the_image_is_constant(rng, params):
    """Only the zeros around it tell one cell from another, twelve cells deep at most."""
    latents = jnp.broadcast_to(normal(rng, 1, 1, 1, 4), (1, 32, 28, 4))
    inside = decode(params, latents)[0, 26:-26, 26:-26]
    assert inside.size
    close(inside, jnp.broadcast_to(inside[0, 0], inside.shape))


def test_gradients(rng, params):
    """Every parameter and every input has one."""

    def loss(params, image):
        latents = autoencoder.encode(params, image, jax.random.split(jax.random.key(0), 2))
        return jnp.square(autoencoder.decode(params, latents) - image).mean()

    image = normal(rng, 2, 8, 6, 3)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, image)
    for path, gradient in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        assert np.isfinite(gradient).all(), path
        # A bias of the keys shifts a query's logits as one, which softmax ignores.
        assert gradient.any() or jax.tree_util.keystr(path).endswith("['key']['bias']"), path


def test_bfloat16_computes_float32_out(rng, params):
    half = KlAutoencoder(Vae(TINY, dtype=jnp.bfloat16))
    image, latents = normal(rng, 2, 8, 6, 3), normal(rng, 2, 4, 3, 4)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes_of(half)))
    for ours, full, x in ((half.encode, encode, image), (half.decode, decode, latents)):
        out = jax.jit(ours)(params, x)
        assert out.dtype == jnp.float32
        close(out, full(params, x), tolerance=0.1)


SIDES = [(5, 8), (8, 8), (9, 8), (14, 8), (15, 8), (21, 8), (33, 12), (7, 4), (40, 10)]


@pytest.mark.parametrize("side, tile", SIDES)
def test_tiles_cover_with_weights_that_sum_to_one(side, tile):
    starts, length, overlap = tile_starts(side, tile), min(side, tile), tile // 4
    assert starts[0] == 0 and starts[-1] + length == side
    assert (np.diff(starts) <= tile - overlap).all()
    assert (np.diff(starts) > 0).all()
    weights = blend_weights(3 * starts, 3 * length, 3 * side, 3 * overlap)
    total = np.zeros(3 * side)
    assert (weights > 0).all()
    for start, row in zip(3 * starts, weights, strict=True):
        total[start : start + len(row)] += row
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_ramps_are_linear():
    weights = blend_weights(np.array([0, 6]), 8, 14, 2)
    np.testing.assert_allclose(weights, [[1] * 6 + [0.75, 0.25], [0.25, 0.75] + [1] * 6])


def enlarge(latents):
    """A decoder in which every cell minds its own business."""
    return latents.repeat(2, 1).repeat(2, 2)


@pytest.mark.parametrize("size", [(9, 5), (20, 8), (8, 23), (31, 14)])
def test_tiles_of_a_local_decoder_are_the_whole(rng, size):
    latents = normal(rng, 2, *size, 3)
    np.testing.assert_allclose(
        decode_tiled(enlarge, latents, 8, 2), enlarge(latents), rtol=0, atol=1e-5
    )


def test_tiles_that_disagree_leave_no_seam(rng):
    """Where each tile is all of one colour, neighbours differ by what a ramp allows."""
    latents = normal(rng, 1, 37, 26, 1)

    def flat(latents):
        return jnp.broadcast_to(latents[:, :1, :1], enlarge(latents).shape)

    image = decode_tiled(flat, latents, 8, 2)
    step = float(latents.max() - latents.min()) / (2 * 2)
    assert image.std() > 0
    for axis in (1, 2):
        assert float(jnp.abs(jnp.diff(image, axis=axis)).max()) <= 1.01 * step


def test_decodes_large_latents_in_tiles(rng, params):
    """Alone, a tile is what it is by itself; between two, the ramps mix what both make of it."""
    latents = normal(rng, 1, 7, 14, 4)
    left, right = decode(params, latents[:, :, :8]), decode(params, latents[:, :, 6:])
    ramp = jnp.array([0.125, 0.375, 0.625, 0.875])[None, None, :, None]
    middle = left[:, :, 12:] * (1 - ramp) + right[:, :, :4] * ramp
    expected = jnp.concatenate([left[:, :, :12], middle, right[:, :, 4:]], axis=2)
    close(decode_in_tiles(params, latents), expected)


def test_decodes_what_fits_one_tile_as_a_whole(rng, params):
    latents = normal(rng, 1, 8, 6, 4)
    close(decode_in_tiles(params, latents), decode(params, latents))


def test_decodes_an_area_as_a_whole_whatever_its_sides(rng, params):
    latents = normal(rng, 1, 4, 12, 4)
    for cells, same in ((48, True), (47, False)):
        image = KlAutoencoder(Vae(TINY), 8, cells).decode(params, latents)
        assert (jnp.abs(image - decode(params, latents)).max() < 1e-5) == same


def test_image_smaller_than_a_latent(params):
    with pytest.raises(ValueError, match=r"\(4, 1\), expected sides of 2"):
        autoencoder.encode(params, jnp.zeros((1, 4, 1, 3)))


def test_tile_without_overlap():
    with pytest.raises(ValueError, match="tile is 3"):
        KlAutoencoder(Vae(TINY), tile=3)


@pytest.mark.parametrize(
    "field, value", [("block_out_channels", ()), ("norm_num_groups", 6), ("scaling_factor", 0.0)]
)
def test_sizes_that_do_not_fit(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(TINY, **{field: value})
