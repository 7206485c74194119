"""Mirrors a record: image, sketch, regions, graph and caption together."""

import re
from typing import Any

import numpy as np

from ragaf_jax.graph.features import flip_edges, flip_nodes

_SIDES = {"left": "right", "waxing": "waning", "first": "last", "clockwise": "counterclockwise"}
_SIDES |= {other: side for side, other in _SIDES.items()}
# Matches "left-facing fist" and "rightwards hand", but neither "bright" nor "left luggage".
_SIDE = re.compile(
    r"\b(?:(?:left|right)(?=wards\b|\b)(?! luggage)|(?:first|last)(?= quarter)"
    r"|waxing\b|waning\b|(?:counter)?clockwise\b)"
)


def mirror_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its pixels, regions, graph and captions mirrored left to right.

    `mirrored` states whether the result is a mirror image.
    """
    mirrored = record | {"mirrored": not record.get("mirrored", False)}
    for name in ("image", "sketch", "labels", "true_labels"):
        if name in record:
            mirrored[name] = np.ascontiguousarray(record[name][:, ::-1])
    if "latents" in record:  # both are cached, because networks are not equivariant to mirroring
        mirrored["latents"] = record["latents"][::-1]
    mirrored["nodes"] = flip_nodes(record["nodes"])
    mirrored["edges"] = flip_edges(record["edges"])
    mirrored["captions"] = [swap_sides(caption) for caption in record["captions"]]
    return mirrored


def swap_sides(caption: str) -> str:
    """Swaps left and right (in lower case), and the directions of rotations and moon phases."""
    return _SIDE.sub(lambda match: _SIDES[match[0]], caption)
