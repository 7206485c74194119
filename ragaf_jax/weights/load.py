"""Loads the tensors of a file into a parameter tree; every leaf and every tensor must match."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from tqdm import tqdm

from ragaf_jax.errors import UserError
from ragaf_jax.weights.names import Naming, Place, from_torch, torch_shape
from ragaf_jax.weights.stores import Store

Tree = dict[str, Any]


def load_tree(
    store: Store,
    abstract: Tree,
    naming: Naming,
    *,
    torch_layout: bool = True,
    surplus: Sequence[str] = (),
) -> Tree:
    """Reads a network's parameters, one tensor at a time.

    Args:
      store: the tensors.
      abstract: nested dicts of `jax.ShapeDtypeStruct` with shape, dtype and perhaps sharding. A
        tensor is placed before the next one is read.
      naming: the store's name of each parameter.
      torch_layout: whether kernels have PyTorch's order of axes instead of Flax's.
      surplus: regular expressions over whole names of tensors to ignore.

    Raises:
      UserError: a tensor is missing, left over, of another shape, or not finite.
    """
    flat, shapes = flatten_dict(abstract, sep="/"), store.shapes
    places = {path: _find(store.source, shapes, path, naming(path)) for path in flat}
    left = set(shapes) - {place.name for place in places.values()}
    left = {name for name in left if not any(re.fullmatch(known, name) for known in surplus)}
    if left:
        first = min(left)
        raise UserError(
            f"{store.source} holds the tensor {first} of shape {shapes[first]}, expected no such "
            f"tensor ({len(left)} in total); these are weights of another network."
        )
    for path, leaf in flat.items():
        _check_shape(store.source, shapes, path, places[path], leaf.shape, torch_layout)
    loaded = {}
    bar = tqdm(flat.items(), desc="reading weights", unit=" tensors", leave=False, delay=2)
    for path, leaf in bar:
        name, part, transposed = places[path]
        array = store.read(name)
        if part is not None:
            array = np.split(array, part[1])[part[0]]
        array = array.T if transposed else array
        array = from_torch(path, array, len(leaf.shape)) if torch_layout else array
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                f"The tensor {name} in {store.source} is {array.dtype}, expected "
                "floats: quantised weights are not supported; use another variant of them."
            )
        check_finite(array, places[path].name, store.source)
        array = np.asarray(array, leaf.dtype, order="C")
        # Waiting frees the host's copy before the next tensor is read.
        loaded[path] = jax.block_until_ready(placed(array, leaf.sharding))
        del array
    return unflatten_dict(loaded, sep="/")


def placed(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """The array on the devices of the sharding, which may belong to several processes."""
    if sharding is None:
        return jax.device_put(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def check_finite(array: np.ndarray, name: str, source: str) -> None:
    """Refuses a tensor with infinities or NaNs; raises UserError with its name."""
    if not np.isfinite(array).all():
        raise UserError(
            f"The tensor {name} in {source} has values that are NaN or infinite, expected finite "
            "ones; the file is damaged or the training diverged."
        )


def _find(source: str, shapes: Any, path: str, places: tuple[Place, ...]) -> Place:
    for place in places:
        if place.name in shapes:
            return place
    raise UserError(
        f"{source} has no tensor {places[0].name}, expected for the parameter {path}; these are "
        "not the weights of this network, or the file is incomplete."
    )


def _check_shape(
    source: str, shapes: Any, path: str, place: Place, shape: tuple[int, ...], torch_layout: bool
) -> None:
    found, parts = shapes[place.name], place.part[1] if place.part else 1
    found = found[::-1] if place.transposed else found
    expected = torch_shape(path, shape) if torch_layout else shape
    expected = (expected[0] * parts, *expected[1:]) if expected else expected
    if found == expected:
        return
    # A matrix may be stored as a 1×1 convolution, and vice versa.
    alike = found == (*expected, 1, 1) or (*found, 1, 1) == expected
    if torch_layout and path.endswith("/kernel") and alike:
        return
    raise UserError(
        f"The tensor {place.name} in {source} has shape {found}, expected {expected}; the weights "
        "and the configuration are of different networks."
    )
