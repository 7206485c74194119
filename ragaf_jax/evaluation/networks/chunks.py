"""Runs many examples through a compiled network in chunks of a fixed size."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from ragaf_jax.batch import in_chunks

T = TypeVar("T")

# Examples that a network is given at once: VGG's states of 16 pairs at 512 px take 4 GB.
CHUNK = 16


def over_chunks(function: Callable[..., T], *inputs: Any) -> T:
    """`function(*inputs)` in NumPy, of arrays of n ≥ 1 examples, `CHUNK` of them at a time.

        features, logits = over_chunks(functools.partial(inception, params), images)

    A jitted function is compiled for one number of examples, whatever n (≥ `CHUNK`) is.
    """
    done = [
        jax.tree.map(lambda x, fresh=fresh: np.asarray(x)[fresh], function(*piece))
        for piece, fresh in in_chunks(inputs, CHUNK)
    ]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *done)
