import jax
import numpy as np
import pytest
from fakes import random_batch, tiny_config

from ragaf_jax.batch import in_chunks, ink_on_black


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
