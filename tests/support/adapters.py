"""LoRA files with random weights."""

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from ragaf_jax.nets.lora import LoraConfig, init_lora
from ragaf_jax.weights.lora_files import lora_tensors

PATTERNS = ("(unet|control)/.*/(to_q|conv1)", "text_encoder/.*/q_proj")


def write_lora(path, rng, params, rank=2, patterns=PATTERNS, **metadata):
    """Random adapters in kohya's file; returns them as `init_lora`."""
    shapes = jax.eval_shape(
        lambda key: init_lora(LoraConfig(patterns, rank), params, key), jax.random.key(0)
    )
    flat = flatten_dict(shapes, sep="/")
    lora = {name: np.float32(rng.standard_normal(leaf.shape)) for name, leaf in flat.items()}
    lora |= {name: np.float32(1.5) for name in lora if name.endswith("/alpha")}
    lora = unflatten_dict(lora, sep="/")
    save_file(lora_tensors(lora, "kohya"), path, metadata)
    return lora
