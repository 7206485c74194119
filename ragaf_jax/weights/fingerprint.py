"""Fingerprints of parameters and settings, by which caches and samples are found."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from tqdm import tqdm

from ragaf_jax.nets.clip_text import ClipTextConfig
from ragaf_jax.nets.vae import VaeConfig

Tree = Mapping[str, Any]

# The decoder has no part in what an image is encoded to, and is what fine-tuned ones differ in.
_ENCODING = ("encoder", "quant_conv")


def fingerprint(tree: Tree, *facts: Any) -> str:
    """16 hex digits that another network, or another fact, would hardly have.

    Parameters count as they are in bfloat16, so that a file in float32 or float16 and the copy that
    a run keeps of frozen ones in bfloat16 have the same fingerprint.

    Args:
      tree: nested dicts of arrays.
      facts: whatever JSON can hold; lists count as tuples.
    """
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8)
    flat = flatten_dict(tree, sep="/")
    for path in tqdm(sorted(flat), desc="weights' hash", unit=" tensors", leave=False, delay=2):
        values = np.asarray(flat[path]).astype(jnp.bfloat16)
        digest.update(f"{path} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).view(np.uint16))
    return digest.hexdigest()


def latents_key(params: Tree, config: VaeConfig) -> str:
    """The fingerprint of all that decides an image's latents; `params` is the tree of a `Vae`."""
    encoding = {name: params[name] for name in _ENCODING}
    # The other fields are in the shapes, or change nothing.
    return fingerprint(encoding, config.norm_num_groups, config.scaling_factor)


def text_key(params: Tree, config: ClipTextConfig, clip_skip: int, tokenizer: str) -> str:
    """The fingerprint of all that decides a caption's states.

    Args:
      params: the tree of a `ClipText`.
      config: its sizes, the length of a text among them.
      clip_skip: layers that are left out.
      tokenizer: what makes the tokens, as JSON.
    """
    return fingerprint(params, dataclasses.asdict(config), clip_skip, tokenizer)
