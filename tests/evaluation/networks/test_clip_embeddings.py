"""CLIP's embeddings: what holds for any weights; `tests/parity` has the numbers."""

import dataclasses

import jax
import metric_weights
import numpy as np
import pytest
from fakes import mixed
from metric_weights import CLIP, SIDE
from test_tokenizer import write_folder

from ragaf_jax.evaluation.networks.chunks import CHUNK, over_chunks
from ragaf_jax.evaluation.networks.clip import (
    DEVIATION,
    MEAN,
    Clip,
    ClipConfig,
    ClipModel,
    ClipVisionConfig,
    embeddings,
    preprocess,
)
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory, seed):
    folder = write_folder(tmp_path_factory.mktemp("clip") / "tokenizer")
    params = metric_weights.clip_params(np.random.default_rng(seed))
    return ClipModel(CLIP, params, Tokenizer.from_pretrained(folder))


def pictures(rng, *shape):
    return rng.integers(0, 256, (*shape, 3)).astype(np.uint8)


def white(x):
    return (x / 255 - np.array(MEAN)) / np.array(DEVIATION)


def test_a_picture_of_the_right_size_is_only_whitened(rng):
    images = pictures(rng, 2, SIDE, SIDE)
    seen = preprocess(images, SIDE)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, white(images), atol=1e-6)


@pytest.mark.parametrize("wide", [False, True])
def test_the_middle_is_seen(rng, wide):
    images = pictures(rng, 1, SIDE, SIDE + 11)
    expected = white(images[:, :, 5 : 5 + SIDE])
    if not wide:
        images, expected = (x.swapaxes(1, 2) for x in (images, expected))
    np.testing.assert_allclose(preprocess(images, SIDE), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(7, 5), (24, 300), (101, 40), (1, 1)], ids=str)
def test_a_plain_picture_stays_plain_at_any_size(rng, size):
    color = rng.integers(0, 256, 3).astype(np.uint8)
    seen = preprocess(np.broadcast_to(color, (1, *size, 3)).copy(), SIDE)
    np.testing.assert_allclose(seen, np.broadcast_to(white(color), seen.shape), atol=1e-6)


def test_many_pictures_are_each_alone(rng, model):
    images = pictures(rng, CHUNK + 3, 31, 22)
    together = model.embed_images(images)
    assert together.shape == (CHUNK + 3, CLIP.projection_dim) and together.dtype == np.float32
    for i in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        alone = model.embed_images(images[i : i + 1])[0]
        np.testing.assert_allclose(together[i], alone, rtol=1e-4, atol=1e-5)
    assert np.ptp(together, axis=0).min() > 1e-3


def test_many_texts_are_each_alone(model):
    texts = ["a red house", "hot", "", *(f"a horse {i}" for i in range(CHUNK)), "red " * 50]
    together = model.embed_texts(texts)
    assert together.shape == (len(texts), CLIP.projection_dim)
    for i in (0, 1, 2, CHUNK, len(texts) - 1):
        np.testing.assert_allclose(
            together[i], model.embed_texts(texts[i : i + 1])[0], rtol=1e-4, atol=1e-5
        )
    assert np.ptp(together, axis=0).min() > 1e-3


@pytest.mark.parametrize("eos", [2, CLIP.eos_token_id])
def test_nothing_after_the_end_matters(rng, model, eos):
    config = dataclasses.replace(CLIP, eos_token_id=eos)
    tokens, mask = model.tokenizer.encode(["a red house"], 20)
    other = np.where(mask, tokens, rng.integers(3, CLIP.eos_token_id, tokens.shape))
    np.testing.assert_allclose(
        embeddings(config, "texts", model.params, tokens),
        embeddings(config, "texts", model.params, other.astype(np.int32)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_chunks_are_of_one_size_and_put_together_again(rng, count):
    a, b = rng.random((2, count, 3))
    sizes = set()

    def function(x, y):
        sizes.add(len(x))
        return x + y, {"first": x[:, 0]}

    both, tree = over_chunks(function, a, b)
    np.testing.assert_array_equal(both, a + b)
    np.testing.assert_array_equal(tree["first"], a[:, 0])
    assert sizes == {min(count, CHUNK)}


def test_pictures_of_several_sizes_have_chunks_of_their_own_and_stay_in_order(rng):
    pictures = mixed(*(rng.random((n, *size)) for n, size in ((CHUNK + 1, (2, 3)), (2, (3, 2)))))
    shapes = []

    def function(x, y):
        shapes.append(x.shape)
        return x.sum((1, 2)) + y

    found = over_chunks(function, pictures, np.arange(len(pictures)))
    np.testing.assert_allclose(found, [x.sum() + i for i, x in enumerate(pictures)])
    assert shapes == [(CHUNK, 2, 3), (CHUNK, 2, 3), (2, 3, 2)]


TEXT = {"B": ClipTextConfig(49408, 512, 2048, 12, 8), "L": ClipTextConfig()}
LARGE = ClipVisionConfig(1024, 4096, 24, 16, patch_size=14)


@pytest.mark.parametrize(
    ("text", "vision", "width", "count"),
    [
        ("B", ClipVisionConfig(), 512, 151_277_313),
        ("B", ClipVisionConfig(patch_size=16), 512, 149_620_737),
        ("L", LARGE, 768, 427_616_513),
        ("L", dataclasses.replace(LARGE, image_size=336), 768, 427_944_193),
    ],
    ids=["B/32", "B/16", "L/14", "L/14@336"],
)
def test_the_published_sizes(text, vision, width, count):
    """As many parameters as OpenAI's, whose temperature is one more."""
    side = vision.image_size
    network = Clip(ClipConfig(TEXT[text], vision, width))
    leaves = jax.tree.leaves(metric_weights.shapes(network, (1, side, side, 3), (1, 1)))
    assert sum(leaf.size for leaf in leaves) == count - 1


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="hidden_size is 770, expected a multiple of"):
        ClipVisionConfig(hidden_size=770)
    with pytest.raises(ValueError, match="patch_size is 300, expected at most image_size 224"):
        ClipVisionConfig(patch_size=300)
