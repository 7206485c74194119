"""The sample grids that training writes."""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jaxtyping import Float, UInt32

from ragaf_jax.batch import Batch, Images, Truth, over_sizes
from ragaf_jax.figures.attention import phrase_maps
from ragaf_jax.figures.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.figures.lettering import GAP, Rgb, below, on_page, shortened, text_block
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Params
from ragaf_jax.sampling.loop import Finished, StageRun, sample_stages
from ragaf_jax.sampling.sampling_config import sampling_config_of, scales_of
from ragaf_jax.sampling.stage_sampler import batch_keys, make_stage_sampler
from ragaf_jax.tokenizer import Tokenizer

# Width of an attention map, px, and maps per row: the figure is about 1000 px wide.
CELL, COLUMNS = 160, 6


def make_grid(
    config: ml_collections.ConfigDict, tokenizer: Tokenizer, batch: Batch, truth: Truth
) -> Callable[[Params], dict[str, Rgb]]:
    """A function from parameters to figures of the first held-out examples.

    `samples` has one row sketch | sample | true per example. All calls and both stages use the same
    noise. In Stage 2, `attention` is the `attention_sheet`.

    Raises:
      UserError: a sampler that does not fit the steps, the sigmas or the prediction type.
    """
    count, model = config.sample_examples, build_model(config)
    scales = scales_of(config.sample.to_dict(), model.unet.config)
    shown = jax.tree.map(lambda x: x[:count], batch)
    sampler = make_stage_sampler(model, sampling_config_of(config, tokenizer))
    # Refuses steps or sigmas that do not fit the sampler before training, not after.
    sampler.sampling.timestep_grid(config.sample.steps)
    keys = batch_keys(jax.random.key(config.seed), len(shown.text.tokens))

    def grid(params: Params) -> dict[str, Rgb]:
        def sampled(
            some: Batch, keys: UInt32[np.ndarray, "b words"]
        ) -> tuple[Images, Float[np.ndarray, "b r t"] | None]:
            run = StageRun(config.stage, sampler, params, keys)
            some = some._replace(sizes=None)  # uncropped images
            *_, finished = sample_stages([run], some, scales, config.sample.steps)
            assert isinstance(finished, Finished)
            trace = finished.trace
            return finished.images, None if trace is None else np.asarray(trace.attention).mean(0)

        samples, attention = over_sizes(sampled, shown, keys)
        rows = [
            SheetRow((truth.sketch_u8[i], samples[i], truth.image_u8[i]), truth.captions[i])
            for i in range(len(samples))
        ]
        figures = {"samples": contact_sheet(rows, ("sketch", "sample", "true"))}
        if attention is not None:
            figures["attention"] = attention_sheet(tokenizer, shown, truth, attention)
        return figures

    return grid


def attention_sheet(
    tokenizer: Tokenizer, batch: Batch, truth: Truth, attention: Float[np.ndarray, "b r t"]
) -> Rgb:
    """Attention of regions to phrases: for each example its caption and one map per phrase.

    attention: A, each region's attention over the tokens, of the first b examples.
    """
    blocks = []
    for i, weights in enumerate(attention):
        tokens = tokenizer.pieces(batch.text.tokens[i].tolist())
        real = weights[: int(batch.graph.n_node[i, 0])]
        maps = phrase_maps(truth.sketch_u8[i], batch.labels[i], real, tokens, CELL, COLUMNS)
        caption = shortened(truth.captions[i].strip()) or "(no caption)"
        blocks.append(below([text_block(caption, COLUMNS * (CELL + GAP)), maps]))
    return on_page(below(blocks, gap=4 * GAP))
