"""Maps of blocks, against loops over pixels."""

import numpy as np

from ragaf_jax.graph.blocks import count_pixels, expand_blocks, min_pool


def blocks_of(page, block):
    """Every block of the page with its index in the map."""
    for y in range(0, page.shape[0], block):
        for x in range(0, page.shape[1], block):
            yield (y // block, x // block), page[y : y + block, x : x + block]


def test_blocks_are_pooled_written_out_and_counted(rng):
    for _ in range(50):
        shape, block = tuple(rng.integers(1, 20, 2).tolist()), int(rng.integers(1, 6))
        page = rng.integers(0, 256, shape).astype(np.uint8)
        pooled = min_pool(page, block)
        for place, pixels in blocks_of(page, block):
            assert pooled[place] == pixels.min()

        labels = rng.integers(0, 5, pooled.shape).astype(rng.choice([np.uint8, np.int32]))
        names = rng.integers(0, 100, 6).astype(np.int32)
        written = expand_blocks(labels, names, block, shape)
        assert written.shape == shape and written.dtype == np.int32
        for place, pixels in blocks_of(written, block):
            assert (pixels == names[labels[place]]).all()
        counts = count_pixels(labels, 6, block, shape)
        page_labels = expand_blocks(labels, np.arange(6, dtype=np.int32), block, shape)
        np.testing.assert_array_equal(counts, np.bincount(page_labels.ravel(), minlength=6))
