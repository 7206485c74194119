"""How images fit the sizes that they are prepared at: counts, and shares cropped or padded."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.inspection.statistics import Measured, joined
from ragaf_jax.framing import Size, bucket_name

# An image is far from all buckets if more than this share of it is cropped or padded.
FAR = 0.2


def framing_statistics(
    measured: Mapping[str, Measured], buckets: Sequence[Size], crop: bool
) -> dict[str, Any]:
    """The framing of scanned images as a JSON object.

    Args:
      measured: values of every split.
      buckets: the sizes of the images; empty for squares, whose source sizes are unknown.
      crop: whether images are cropped; else they have margins.

    Returns:
      `crop`; `buckets`, for each its name, the `records` of each split and of "all", and the
      `share` of an image (0 … 1) that is cropped, or of a training image that is margin; the same
      `share` of all images; the numbers of images that are `far` from all buckets and `enlarged`.
    """
    if not buckets:
        return {"crop": crop, "buckets": []}
    parts = {**measured, "all": joined(list(measured.values()))}
    every = parts["all"]
    heights, widths = (every.sizes / every.source_sizes).T
    share = 1 - np.minimum(heights, widths) / np.maximum(heights, widths)
    scale = (np.maximum if crop else np.minimum)(heights, widths)
    rows = []
    for size in buckets:
        of_size = {split: (part.sizes == size).all(1) for split, part in parts.items()}
        rows.append(
            {
                "size": bucket_name(size),
                "records": {split: int(same.sum()) for split, same in of_size.items()},
                "share": _spread(share[of_size["all"]]),
            }
        )
    return {
        "crop": crop,
        "buckets": rows,
        "share": _spread(share),
        "far": int((share > FAR).sum()),
        "enlarged": int((scale > 1).sum()),
    }


def framing_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """A row per bucket, after the header; empty without buckets."""
    if not found["buckets"]:
        return []
    lost = "cropped" if found["crop"] else "margins"
    rows = [["bucket", *found["buckets"][0]["records"], f"{lost} (mean)", f"{lost} (max)"]]
    for bucket in found["buckets"]:
        counts = (f"{count:,}" for count in bucket["records"].values())
        spread = (f"{bucket['share'][name]:.1%}" for name in ("mean", "max"))
        rows.append([bucket["size"], *counts, *spread])
    return rows


def framing_notes(found: Mapping[str, Any]) -> list[str]:
    """Further facts, one sentence each."""
    if not found["buckets"]:
        return ["Images are cropped to their central squares; --buckets keeps their proportions."]
    mean, most = (f"{found['share'][name]:.1%}" for name in ("mean", "max"))
    if found["crop"]:
        lost, far = f"{mean} of an image is cropped on average", "cropped"
    else:
        lost, far = f"{mean} of a training image is white margin on average", "margin"
    sentences = [f"{lost}, at most {most}."]
    if number := found["far"]:
        sentences.append(
            f"Images far from all buckets, with more than {FAR:.0%} {far}: {number:,}."
        )
    if number := found["enlarged"]:
        sentences.append(f"Images smaller than their bucket, which are enlarged: {number:,}.")
    return sentences


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {"mean": 0.0, "max": 0.0}
    return {"mean": float(values.mean()), "max": float(values.max())}
