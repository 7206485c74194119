"""Mirrors a record: image, sketch, regions, graph and caption together."""

from typing import Any

import numpy as np

from ragaf_jax.graph.features import flip_edges, flip_nodes


def mirror_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its pixels, regions, graph and captions mirrored left to right.

    Unchanged if one of its captions has no mirrored form; `mirrored` states whether the result is a
    mirror image.
    """
    captions = [record["mirrored_caption"](caption) for caption in record["captions"]]
    if None in captions:
        return record
    mirrored = {**record, "captions": captions, "mirrored": not record.get("mirrored", False)}
    for name in ("image", "sketch", "labels", "true_labels"):
        if name in record:
            mirrored[name] = np.ascontiguousarray(record[name][:, ::-1])
    if "latents" in record:  # both are cached, because networks are not equivariant to mirroring
        mirrored["latents"] = record["latents"][::-1]
    mirrored["nodes"] = flip_nodes(record["nodes"])
    mirrored["edges"] = flip_edges(record["edges"])
    return mirrored
