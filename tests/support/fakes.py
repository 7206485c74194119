"""Small configurations and random batches for tests that need a whole model."""

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from configs import stage1, stage2
from ragaf_jax.batch import Batch, Text, of_any_size, stacked
from ragaf_jax.checkpoints.checkpointer import Checkpointer
from ragaf_jax.graph.build import GraphConfig, region_graph, trim_edges
from ragaf_jax.graph.padding import pad_graph
from ragaf_jax.graph.regions import Regions
from ragaf_jax.nets.build import build_model
from ragaf_jax.sampling.stages import Stage
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.adopt import with_fields

COLORS, SIZES = ("red", "green", "blue"), ("small", "large")
PLACES = ("top", "bottom", "left", "right", "middle")
WORDS = ("a", "house", *COLORS, *SIZES, *PLACES)


def tiny_config(stage, levels=1, dataset="quickstart"):
    """A model of some thousand parameters and `levels` resolutions on 16 x 16 pictures."""
    config = (stage1 if stage == 1 else stage2).get_config(dataset)
    config.update_from_flattened_dict(
        {
            "data.image_size": 16,
            "data.text_length": 12,
            "data.max_regions": 9,
            "data.max_edges": 64,
            "model.unet.block_out_channels": (32,) * levels,
            "model.unet.down_block_types": ("CrossAttnDownBlock2D",) * levels,
            "model.unet.up_block_types": ("CrossAttnUpBlock2D",) * levels,
            "model.unet.attention_head_dim": 2,
            "model.unet.cross_attention_dim": 16,
            "model.conditioning_channels": (8, 8, 16),
            "model.text_encoder.vocab_size": 32,
            "model.text_encoder.hidden_size": 16,
            "model.text_encoder.intermediate_size": 32,
            "model.text_encoder.num_hidden_layers": 1,
            "model.text_encoder.num_attention_heads": 2,
            "model.ragaf.width": 16,
            "model.ragaf.heads": 2,
            "train.batch_size": 4,
            "train.read_examples": 0 if stage == 1 else 2,
            "train.warmup_steps": 2,
        }
    )
    return config


def as_sdxl(config):
    """A copy of `tiny_config` with a second text encoder, pooled text and sizes, as SDXL."""
    first = config.model.text_encoder.to_dict()
    second = first | {"hidden_size": 8, "hidden_act": "gelu", "projection_dim": 6}
    second |= {"num_hidden_layers": 2, "padding": 0, "zero_empty": True}
    fields = {f"model.text_encoder_2.{name}": value for name, value in second.items()}
    unet = {
        "cross_attention_dim": 24,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 2,
        "projection_class_embeddings_input_dim": 18,
    }
    fields |= {f"model.unet.{name}": value for name, value in unet.items()}
    return with_fields(config, fields | {"model.text_encoder.num_hidden_layers": 2})


# The fewest layers that every network can have: they compile soon.
SMALLEST = {
    "model.haar_levels": 1,
    "model.conditioning_channels": (8, 16),
    "model.unet.down_block_types": ("DownBlock2D",),
    "model.unet.up_block_types": ("UpBlock2D",),
    "model.ragaf.layers": 1,
}


def smallest_config(stage):
    """With the fewest layers."""
    config = tiny_config(stage)
    config.update_from_flattened_dict(SMALLEST)
    return config


def command_flags(config):
    """What makes the quickstart's configuration this one on a command line."""
    usual = (stage1 if config.stage == 1 else stage2).get_config("quickstart")
    before = flatten_dict(usual.to_dict(), sep=".")
    wanted = flatten_dict(config.to_dict(), sep=".")
    return [f"--config.{name}={value}" for name, value in wanted.items() if value != before[name]]


def tiny_tokenizer():
    """The vocabulary of `WORDS`."""
    return Tokenizer.train([" ".join(WORDS)])


def random_params(model, rng):
    """Parameters of which none is zero, so that every path of the networks is open."""

    def draw(leaf):
        deviation = max(1, np.prod(leaf.shape[:-1])) ** -0.5
        return (deviation * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree.map(draw, model.shapes())


def in_float64(tree):
    """The tree with its float32 numbers in float64; to be called where JAX may have these."""
    return jax.tree.map(lambda x: np.float64(x) if x.dtype == np.float32 else np.asarray(x), tree)


def random_labels(rng, size, regions):
    """A label map in which every region 0 … regions-1 occurs: the cells of random seeds."""
    height, width = np.broadcast_to(size, 2)
    points = rng.permutation(height * width)[:regions]
    rows, columns = np.mgrid[:height, :width]
    distance = (rows[..., None] - points // width) ** 2 + (columns[..., None] - points % width) ** 2
    return distance.argmin(-1).astype(np.int32)


def random_graph(labels, max_regions, max_edges):
    """The padded graph of a label map."""
    count = int(labels.max()) + 1
    regions = Regions(labels=labels, n=count, background=np.arange(count) == 0)
    graph = trim_edges(region_graph(regions, GraphConfig()), max_edges)
    return pad_graph(graph, max_regions, max_edges)


def random_batch(rng, config, size=4, shape=None):
    """A batch whose parts have nothing to do with each other.

    `shape` is the height and width of its images; by default they are squares.
    """
    data = config.data
    height, width = shape or (data.image_size,) * 2
    labels = [
        random_labels(rng, (height, width), int(rng.integers(2, data.max_regions - 1)))
        for _ in range(size)
    ]
    captions = [" ".join(rng.choice(WORDS, int(rng.integers(2, 9)))) for _ in range(size)]
    ink = (rng.random((size, height, width, 1)) < 0.2).astype(np.float32)
    return Batch(
        image=rng.uniform(-1, 1, (size, height, width, 3)).astype(np.float32),
        sketch=np.repeat(ink, 3, -1),
        labels=np.stack(labels),
        graph=stacked([random_graph(x, data.max_regions, data.max_edges) for x in labels]),
        text=Text(*tiny_tokenizer().encode(captions, data.text_length)),
        sizes=np.tile(np.float32([height, width, 0, 0, height, width]), (size, 1)),
    )


def mixed(*trees):
    """The examples of batches of several sizes in turn: the first of each, the second of each, …"""
    count = max(len(jax.tree.leaves(tree)[0]) for tree in trees)
    examples = [
        jax.tree.map(lambda x, i=i: x[i], tree)
        for i in range(count)
        for tree in trees
        if i < len(jax.tree.leaves(tree)[0])
    ]
    return of_any_size(examples)


def random_stage(number, seed=0, **changes):
    """A stage in which no parameter is zero, so that every setting has an effect."""
    config = tiny_config(number)
    config.update_from_flattened_dict({"sample.steps": 3} | changes)
    model = build_model(config)
    params = random_params(model, np.random.default_rng(seed))
    return Stage(config, tiny_tokenizer(), model, params, step=7)


def save_stage(stage, workdir):
    """As much of a checkpoint as sampling reads."""
    averaged = dict(stage.params)
    state = {"frozen": {"text_encoder": averaged.pop("text_encoder")}, "ema": averaged}
    meta = {
        "config": stage.config.to_dict(),
        "tokenizer": stage.tokenizer.to_json(),
        "step": stage.step,
    }
    checkpointer = Checkpointer(workdir)
    checkpointer.save(stage.step, state, {}, meta)
    checkpointer.close()
    return workdir
