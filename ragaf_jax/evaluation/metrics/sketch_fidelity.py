"""Sketch fidelity: distance of lines, similarity of edge maps, agreement of regions.

`edges.edge_f1` measures the share of matching lines.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, UInt8
from scipy.spatial import cKDTree

from ragaf_jax.batch import Images, PerExample, of_any_size
from ragaf_jax.evaluation.metrics.edges import find_strokes, line_pixels
from ragaf_jax.evaluation.metrics.region_scores import RegionScores, score_regions
from ragaf_jax.evaluation.metrics.similarity import ssim
from ragaf_jax.graph.regions import extract_regions

Extract = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w"]]


def line_distance(
    image: UInt8[np.ndarray, "image_h image_w 3"], sketch: UInt8[np.ndarray, "h w"]
) -> float:
    """The symmetric Chamfer distance (Barrow et al. 1977) of the lines of image and sketch, px.

    The mean of both directions' mean distance to the nearest line pixel; 0 is best. Lines are those
    of `edges.line_pixels`.

    NaN if the image or the sketch has no line. A caller that excludes such images must report their
    number, because blank images would otherwise score well. Raises UserError if the sizes differ.
    """
    first, second = (np.argwhere(lines) for lines in line_pixels(image, sketch))
    if min(len(first), len(second)) == 0:
        return float("nan")
    there, back = cKDTree(second).query(first)[0].mean(), cKDTree(first).query(second)[0].mean()
    return float(there + back) / 2


def edge_map_ssim(
    images: Images, references: Images, extract: Extract
) -> Float64[np.ndarray, " n"]:
    """SSIM of the edge maps of each image and its reference, −1 … 1; 1 is best.

    ControlNet++'s measure of control by edges (Li et al. 2024, sec. 4). Their published code
    computes `similarity.ms_ssim` of the `edge_maps` instead, which needs sides of 161 px.

    extract: as in `edge_maps`. Raises UserError as `similarity.ssim` does.
    """
    return ssim(edge_maps(images, extract), edge_maps(references, extract))


def edge_maps(images: Images, extract: Extract) -> UInt8[np.ndarray, "n h w 1"] | PerExample:
    """The edges of each image, bright on black as in ControlNet; inverted maps have another SSIM.

    extract: image → sketch with paper 255 and ink 0, such as `canny` of
    `input_pipeline.extraction.sketch`.
    """
    return of_any_size([255 - extract(image)[..., None] for image in images])


def region_agreement(
    image: UInt8[np.ndarray, "image_h image_w 3"], sketch: UInt8[np.ndarray, "h w"]
) -> RegionScores:
    """Agreement of the regions that an image's lines enclose with those of its sketch.

    `extract_regions` segments both; the sketch's regions are the truth and all pixels count. Use
    `iou` and `covering`. Gaps that region extraction closes cost nothing; a missing line costs the
    two regions that it separates.

    Raises UserError if the sizes differ.
    """
    strokes = find_strokes(image, sketch).image
    found = extract_regions(np.where(strokes, 0, 255).astype(np.uint8))
    return score_regions(found.labels, extract_regions(sketch).labels, np.ones_like(strokes))
