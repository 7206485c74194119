"""Sketches of four quarters, with captions that describe three of them."""

import numpy as np
from fakes import random_batch, random_graph, tiny_tokenizer

from ragaf_jax.batch import Text, Truth, stacked


def quarters(rng, config, count, shape=None):
    """A batch and its truth; by default the images are squares."""
    captions = ("house red top green left blue bottom", "house blue top red left green bottom")
    captions = tuple(captions[i % 2] for i in range(count))
    phrases = [["red top", "green left", "blue bottom"], ["blue top", "red left", "green bottom"]]
    height, width = shape or (config.data.image_size,) * 2
    rows, columns = np.mgrid[:height, :width]
    quarter = 2 * (rows // (height // 2)) + columns // (width // 2)
    labels = np.stack([quarter.astype(np.int32)] * count)
    spans = [
        [(c.index(x), c.index(x) + len(x)) for x in phrases[i % 2]] for i, c in enumerate(captions)
    ]
    colors = np.array([[3, 6, 7], [7, 3, 6]], np.int32)[np.arange(count) % 2]
    text = Text(*tiny_tokenizer().encode(captions, config.data.text_length))
    graph = stacked([random_graph(x, config.data.max_regions, 64) for x in labels])
    batch = random_batch(rng, config, count, shape)._replace(labels=labels, graph=graph, text=text)
    pages = np.full((count, height, width), 255, np.uint8)
    images = np.repeat(pages[..., None], 3, -1)
    parts = (labels % 4).astype(np.uint8)  # region 0 is nobody's
    nothing = ("",) * count
    return batch, Truth(images, pages, parts, colors, captions, nothing, np.array(spans, np.int32))
