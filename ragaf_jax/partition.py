"""Splits parameters into a trainable and a frozen tree, by patterns over leaf paths."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from ragaf_jax.errors import UserError

Tree = dict[str, Any]


def partition(params: Tree, trainable: Sequence[str], frozen: Sequence[str]) -> tuple[Tree, Tree]:
    """Splits a parameter tree in two; each leaf is in exactly one of them.

    Args:
      params: nested dicts of arrays (or of shapes).
      trainable: regular expressions over whole paths such as "unet/mid_block/.*".
      frozen: the same, for leaves that no trainable pattern matches.

    Returns:
      The trainable tree and the frozen tree.

    Raises:
      UserError: a leaf without a matching pattern, or a pattern without a matching leaf.
    """
    flat = flatten_dict(params, sep="/")
    chosen: dict[str, Tree] = {"trainable": {}, "frozen": {}}
    used = set()
    rules = [(p, "trainable") for p in trainable] + [(p, "frozen") for p in frozen]
    for pattern, side in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"The pattern {pattern!r} of config.train.{side} is not a regular expression "
                f"({error}); correct it."
            ) from None
    for path, leaf in flat.items():
        matching = [(pattern, side) for pattern, side in rules if re.fullmatch(pattern, path)]
        if not matching:
            raise UserError(
                f"The parameter {path} matches no pattern of config.train.trainable "
                f"{tuple(trainable)} or config.train.frozen {tuple(frozen)}; add one that does."
            )
        used.update(matching)
        chosen[matching[0][1]][path] = leaf
    for pattern, side in rules:
        if (pattern, side) not in used:
            raise UserError(
                f"The pattern {pattern!r} of config.train.{side} matches no parameter; the paths "
                f"begin with {', '.join(sorted({path.split('/')[0] for path in flat}))}."
            )
    return unflatten_dict(chosen["trainable"], sep="/"), unflatten_dict(chosen["frozen"], sep="/")


def merge(trainable: Tree, frozen: Tree) -> Tree:
    """The inverse of `partition`."""
    flat = flatten_dict(trainable, sep="/") | flatten_dict(frozen, sep="/")
    return unflatten_dict(flat, sep="/")


def cast(tree: Tree, dtype: jax.typing.DTypeLike) -> Tree:
    """The tree in another dtype."""
    return jax.tree.map(lambda x: x.astype(dtype), tree)
