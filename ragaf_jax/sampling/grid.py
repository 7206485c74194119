"""The picture of samples that training writes now and then."""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jaxtyping import UInt8

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Params
from ragaf_jax.sampling.generate import process_of
from ragaf_jax.sampling.stages import make_draw_one, settings_of
from ragaf_jax.tokenizer import Tokenizer


def make_grid(
    config: ml_collections.ConfigDict, tokenizer: Tokenizer, batch: Batch, truth: Truth
) -> Callable[[Params], UInt8[np.ndarray, "h w 3"]]:
    """A function from parameters to sketch | sample | true of the first held-out examples.

    Either stage is sampled from the same noise, and in one go.
    """
    count = config.sample_examples
    shown = jax.tree.map(lambda x: x[:count], batch)
    draw = make_draw_one(build_model(config), process_of(config, tokenizer))

    def grid(params: Params) -> UInt8[np.ndarray, "h w 3"]:
        samples = np.asarray(draw(params, shown, jax.random.key(config.seed), settings_of(config)))
        rows = [
            SheetRow((truth.sketch_u8[i], samples[i], truth.image_u8[i]), truth.captions[i])
            for i in range(len(samples))
        ]
        return contact_sheet(rows, ("sketch", "sample", "true"))

    return grid
