"""Sketch fidelity: distance of lines, similarity of edges, agreement of regions.

Beside the share of lines that match (`edges.edge_f1`): how far off they are, what an edge detector
makes of the picture, and whether the lines divide the page as the sketch does.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, UInt8
from scipy.spatial import cKDTree

from ragaf_jax.evaluation.metrics.edges import find_strokes, line_pixels
from ragaf_jax.evaluation.metrics.region_scores import RegionScores, score_regions
from ragaf_jax.evaluation.metrics.similarity import ssim
from ragaf_jax.graph.regions import extract_regions

Extract = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w"]]


def line_distance(
    image: UInt8[np.ndarray, "image_h image_w 3"], sketch: UInt8[np.ndarray, "h w"]
) -> float:
    """The symmetric Chamfer distance (Barrow et al. 1977) of the lines of picture and sketch, px.

    The mean distance from a line pixel of the picture to the sketch's nearest and the mean distance
    the other way, halved and added; 0 is best. Lines are those of `edges.line_pixels`.

    nan where the picture or the sketch has no line: there is no distance to nothing. A caller who
    leaves such pictures out must say how many they were, or blank pages would come off well.
    Raises UserError where the sizes differ.
    """
    drawn, asked = (np.argwhere(lines) for lines in line_pixels(image, sketch))
    if min(len(drawn), len(asked)) == 0:
        return float("nan")
    there, back = cKDTree(asked).query(drawn)[0].mean(), cKDTree(drawn).query(asked)[0].mean()
    return float(there + back) / 2


def edge_map_ssim(
    images: UInt8[np.ndarray, "n h w 3"],
    references: UInt8[np.ndarray, "n reference_h reference_w 3"],
    extract: Extract,
) -> Float64[np.ndarray, " n"]:
    """SSIM of the edges found in each picture and in its reference, −1 … 1; 1 is best.

    ControlNet++'s measure of control by edges (Li et al. 2024, sec. 4): one extractor for both.
    What their published code computes is `similarity.ms_ssim` of the two `edge_maps`, which needs
    161 px a side.

    extract: as in `edge_maps`. Raises UserError as `similarity.ssim` does.
    """
    return ssim(edge_maps(images, extract), edge_maps(references, extract))


def edge_maps(
    images: UInt8[np.ndarray, "n h w 3"], extract: Extract
) -> UInt8[np.ndarray, "n h w 1"]:
    """The edges of each picture, bright on black as ControlNet has them: SSIM asks which is which.

    extract: an image → its sketch, paper 255 and ink 0, such as `canny` of
    `input_pipeline.extraction.sketch`.
    """
    return np.stack([255 - extract(image) for image in images])[..., None]


def region_agreement(
    image: UInt8[np.ndarray, "image_h image_w 3"], sketch: UInt8[np.ndarray, "h w"]
) -> RegionScores:
    """How well the regions that a picture's lines enclose are those of its sketch.

    Both pages are divided by `extract_regions`; the sketch's regions, which the networks were
    given, are the true ones, and every pixel counts. `iou` and `covering` are what to look at.
    A line's missing piece costs nothing as long as the gap would be closed, a missing line costs
    the two regions that it parted.

    Raises UserError where the sizes differ.
    """
    drawn = find_strokes(image, sketch).drawn
    found = extract_regions(np.where(drawn, 0, 255).astype(np.uint8))
    return score_regions(found.labels, extract_regions(sketch).labels, np.ones_like(drawn))
