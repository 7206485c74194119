"""Fingerprints of parameters and settings, the keys of caches and samples."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from tqdm import tqdm

from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import SdxlTextConfig
from ragaf_jax.nets.vae import VaeConfig

Tree = Mapping[str, Any]

# Latents do not depend on the decoder, in which fine-tuned autoencoders differ.
_ENCODING = ("encoder", "quant_conv")


def fingerprint(tree: Tree, *facts: Any) -> str:
    """A hash of 16 hex digits.

    Parameters are hashed in bfloat16, so that a file in float32 or float16 and a run's frozen copy
    in bfloat16 have the same fingerprint. `facts` are JSON-able; lists and tuples are equal.
    """
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8)
    flat = flatten_dict(tree, sep="/")
    for path in tqdm(sorted(flat), desc="weights' hash", unit=" tensors", leave=False, delay=2):
        values = np.asarray(flat[path]).astype(jnp.bfloat16)
        digest.update(f"{path} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).view(np.uint16))
    return digest.hexdigest()


def latents_key(params: Tree, config: VaeConfig) -> str:
    """The fingerprint of all that determines latents; `params` is the tree of a `Vae`."""
    encoding = {name: params[name] for name in _ENCODING}
    # The shapes determine the other fields, or latents do not depend on them.
    return fingerprint(encoding, config.norm_num_groups, config.scaling_factor)


def text_key(
    params: Tree, config: ClipTextConfig | SdxlTextConfig, clip_skip: int, tokenizer: str
) -> str:
    """The fingerprint of all that determines a caption's states and pooled text.

    `params` is the tree of the text encoder; `tokenizer` is JSON.
    """
    sizes = {name: x for name, x in dataclasses.asdict(config).items() if x is not None}
    return fingerprint(params, sizes, clip_skip, tokenizer)
