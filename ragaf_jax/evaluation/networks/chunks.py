"""Runs many examples through a compiled network in chunks of a fixed size."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from ragaf_jax.batch import in_chunks, over_sizes

T = TypeVar("T")

# Examples per call; VGG's activations of 16 pairs at 512 px take 4 GB.
CHUNK = 16


def over_chunks(function: Callable[..., T], *inputs: Any) -> T:
    """`function(*inputs)` as NumPy arrays, for n ≥ 1 examples in chunks of `CHUNK`.

        features, logits = over_chunks(functools.partial(inception, params), images)

    Images may have several sizes, each with chunks of its own. A jitted function compiles once for
    all n ≥ `CHUNK` of one size.
    """

    def chunked(*group: Any) -> T:
        done = [
            jax.tree.map(lambda x, fresh=fresh: np.asarray(x)[fresh], function(*chunk))
            for chunk, fresh in in_chunks(group, CHUNK)
        ]
        return jax.tree.map(lambda *chunks: np.concatenate(chunks), *done)

    return over_sizes(chunked, *inputs)
