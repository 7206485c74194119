"""Hundreds of small parameters as a few arrays, for elementwise updates.

A network has hundreds of biases, norms and small kernels. Updating each separately takes about ten
small loops per array. For a small network these take longer to compile, or to load from the cache,
than its forward and backward pass. Elementwise operations and norms work on all of them at once.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

Tree = Mapping[str, Any]
Path = tuple[str, ...]
T = TypeVar("T")

# Arrays of this size or more keep their own loops: copying them costs too much.
_LARGE = 1 << 18
# Bundles are zero-padded to a multiple of this, which any usual number of devices divides.
_ROW = 3072


def bundle(tree: Tree) -> dict[str, dict[str, Any]]:
    """The concatenated leaves of each network: `vectors` [n], `matrices` [n, 3072] and `large`.

    `matrices` holds leaves of two axes or more, so that the number of axes still distinguishes
    kernels from biases. Leaves of 2¹⁸ numbers or more are unchanged, in `large`.

    Args:
      tree: networks by name; all leaves have one dtype.
    """
    bundles: dict[str, dict[str, Any]] = {}
    for network, subtree in tree.items():
        groups = bundles[network] = {}
        leaves = _flat(subtree)
        for name, paths in _groups(leaves):
            flat = [jnp.ravel(leaves[path]) for path in paths]
            padding = -sum(array.size for array in flat) % _ROW
            row = jnp.concatenate([*flat, jnp.zeros(padding, flat[0].dtype)])
            groups[name] = row if name == "vectors" else row.reshape(-1, _ROW)
        if large := {path: leaf for path, leaf in leaves.items() if leaf.size >= _LARGE}:
            groups["large"] = unflatten_dict(large)
    return bundles


def unbundle(bundles: Mapping[str, Mapping[str, Any]], like: Tree) -> dict[str, Any]:
    """The inverse of `bundle`; `like` has the shapes of the tree."""
    tree = {}
    for network, groups in bundles.items():
        leaves = _flat(like[network])
        found = _flat(groups.get("large", {}))
        for name, paths in _groups(leaves):
            row, begin = jnp.ravel(groups[name]), 0
            for path in paths:
                shape = leaves[path].shape
                end = begin + math.prod(shape)
                found[path] = row[begin:end].reshape(shape)
                begin = end
        tree[network] = unflatten_dict(found)
    return tree


def bundled(tree: T) -> T:
    """`tree` with every tree of parameters or moments in it replaced by a bundle."""
    return jax.tree.map(lambda x: bundle(x) if _is_tree(x) else x, tree, is_leaf=_is_tree)


def unbundled(bundles: T, like: Tree) -> T:
    """The inverse of `bundled`, given the shapes of the parameters."""
    return jax.tree.map(
        lambda x: unbundle(x, like) if _is_tree(x) else x, bundles, is_leaf=_is_tree
    )


def _is_tree(x: Any) -> bool:
    return isinstance(x, Mapping)


def _flat(tree: Tree) -> dict[Path, Any]:
    """Leaves by path, sorted: the order must not depend on how the tree was built."""
    return dict(sorted(flatten_dict(tree).items()))


def _groups(leaves: Mapping[Path, Any]) -> Iterator[tuple[str, list[Path]]]:
    """(name, sorted paths of the leaves) of each bundle that has leaves."""
    small = {path: leaf.ndim < 2 for path, leaf in leaves.items() if leaf.size < _LARGE}
    for name, vectors in (("vectors", True), ("matrices", False)):
        if paths := [path for path in small if small[path] is vectors]:
            yield name, paths
