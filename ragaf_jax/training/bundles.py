"""Hundreds of small parameters as a few arrays, for elementwise updates.

A network has hundreds of biases, norms and small kernels. To update each by itself is some ten
small loops an array, which take longer to compile, and to load when they were compiled before, than
the forward and the backward pass of a small network. What is done elementwise, and norms, can be
done to all of them at once.
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

# An array of more numbers is worth its own loops, and too much to be copied.
_LARGE = 1 << 18
# Bundles are filled up with zeros to a multiple of this, so that they can be cut along a mesh of
# two, three or any usual number of devices.
_ROW = 3072


def bundle(tree: Tree) -> dict[str, dict[str, Any]]:
    """The leaves of each network put together: `vectors` [n], `matrices` [n, 3072], and the rest.

    Leaves of two axes or more are in `matrices`, so that what distinguishes them from biases by
    their axes does so still. Leaves of 2¹⁸ numbers or more stay as they are, in `large`.

    Args:
      tree: of one or more networks by their names; all leaves of one dtype.
    """
    bundles: dict[str, dict[str, Any]] = {}
    for network, subtree in tree.items():
        groups = bundles[network] = {}
        leaves = _flat(subtree)
        for name, paths in _groups(leaves):
            parts = [jnp.ravel(leaves[path]) for path in paths]
            missing = -sum(part.size for part in parts) % _ROW
            row = jnp.concatenate([*parts, jnp.zeros(missing, parts[0].dtype)])
            groups[name] = row if name == "vectors" else row.reshape(-1, _ROW)
        if large := {path: leaf for path, leaf in leaves.items() if leaf.size >= _LARGE}:
            groups["large"] = unflatten_dict(large)
    return bundles


def unbundle(bundles: Mapping[str, Mapping[str, Any]], like: Tree) -> dict[str, Any]:
    """The tree that `bundle` was given, or another of the shapes of `like`."""
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
    """`tree` with a bundle in place of each tree of parameters, or of moments, that is in it."""
    return jax.tree.map(lambda x: bundle(x) if _is_tree(x) else x, tree, is_leaf=_is_tree)


def unbundled(bundles: T, like: Tree) -> T:
    """The inverse of `bundled`, given the shapes of the parameters."""
    return jax.tree.map(
        lambda x: unbundle(x, like) if _is_tree(x) else x, bundles, is_leaf=_is_tree
    )


def _is_tree(x: Any) -> bool:
    return isinstance(x, Mapping)


def _flat(tree: Tree) -> dict[Path, Any]:
    """Leaves by their paths, in an order that does not depend on how the tree came about."""
    return dict(sorted(flatten_dict(tree).items()))


def _groups(leaves: Mapping[Path, Any]) -> Iterator[tuple[str, list[Path]]]:
    """(bundle, the paths of its leaves in order), of those that have any."""
    small = [path for path, leaf in leaves.items() if leaf.size < _LARGE]
    vectors = [path for path in small if leaves[path].ndim < 2]
    matrices = [path for path in small if leaves[path].ndim >= 2]
    for name, paths in (("vectors", vectors), ("matrices", matrices)):
        if paths:
            yield name, paths
