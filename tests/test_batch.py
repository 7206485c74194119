import jax
import numpy as np
import pytest
from fakes import mixed, random_batch, tiny_config

from ragaf_jax.batch import by_size, in_chunks, ink_on_black, over_sizes


@pytest.mark.parametrize("count", [1, 5, 6, 7, 12])
def test_chunks_have_one_size_and_hold_every_example_once(rng, count):
    batch = random_batch(rng, tiny_config(2), count)
    pieces = list(in_chunks(batch, 6))
    assert {len(piece.image) for piece, _ in pieces} == {min(count, 6)}
    fresh = [jax.tree.map(lambda x, new=new: x[new], piece) for piece, new in pieces]
    together = jax.tree.map(lambda *parts: np.concatenate(parts), *fresh)
    jax.tree.map(np.testing.assert_array_equal, together, batch)


def test_ink_is_one_on_black(rng):
    sketch = rng.integers(0, 256, (2, 8, 8)).astype(np.uint8)
    ink = ink_on_black(sketch)
    assert ink.shape == (2, 8, 8, 3) and ink.dtype == np.float32
    assert (ink[sketch == 0] == 1).all() and (ink[sketch == 255] == 0).all()
    np.testing.assert_allclose(ink[..., 1], 1 - sketch / 255, atol=1e-6)


def test_examples_of_several_sizes_are_computed_together_by_size_and_stay_in_order(rng):
    config = tiny_config(2)
    parts = [
        random_batch(rng, config, count, shape)
        for count, shape in ((2, (16, 16)), (3, (8, 24)), (1, (24, 8)))
    ]
    batch = mixed(*parts)
    assert [image.shape[:2] for image in batch.image] == [(16, 16), (8, 24), (24, 8)] * 1 + [
        (16, 16),
        (8, 24),
        (8, 24),
    ]
    for part, (indices, group) in zip(parts, by_size(batch), strict=True):
        jax.tree.map(np.testing.assert_array_equal, group, part)
        np.testing.assert_array_equal(batch.text.tokens[indices], part.text.tokens)
    shapes = []

    def double(some, numbers):
        shapes.append(some.image.shape)
        return 2 * some.image, numbers + 1, None

    images, numbers, nothing = over_sizes(double, batch, np.arange(6))
    assert shapes == [part.image.shape for part in parts] and nothing is None
    np.testing.assert_array_equal(numbers, np.arange(6) + 1)
    for doubled, image in zip(images, batch.image, strict=True):
        np.testing.assert_array_equal(doubled, 2 * image)


def test_examples_of_one_size_are_returned_as_they_are(rng):
    batch = random_batch(rng, tiny_config(1))
    ((indices, same),) = by_size(batch)
    assert same is batch and indices.tolist() == [0, 1, 2, 3]
    first = mixed(batch, random_batch(rng, tiny_config(1), 1, (8, 24)))
    assert first.image.dtype == object
    # Of several sizes one may be chosen.
    ((_, alike),) = by_size(jax.tree.map(lambda x: x[2:], first))
    np.testing.assert_array_equal(alike.image, batch.image[1:])
