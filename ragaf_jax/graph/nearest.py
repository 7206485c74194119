"""Gives each unlabelled pixel the label of the nearest labelled pixel."""

import cv2
import numpy as np
from jaxtyping import Float32, Integer


def fill_from_nearest(
    labels: Integer[np.ndarray, "h w"],
) -> tuple[Integer[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """A map with every 0 replaced, and each pixel's distance to the nearest labelled pixel, px.

    At least one pixel must have a label other than 0.
    """
    missing = labels == 0
    distance, zones = cv2.distanceTransformWithLabels(
        missing.view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    # Only labelled pixels beside missing ones can be the nearest.
    beside = cv2.dilate(missing.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rim = np.flatnonzero(beside & ~missing)
    zones, filled = zones.ravel(), labels.ravel().copy()
    label_of_zone = np.zeros(int(zones.max()) + 1, labels.dtype)
    label_of_zone[zones[rim]] = filled[rim]
    holes = np.flatnonzero(missing)
    filled[holes] = label_of_zone[zones[holes]]
    return filled.reshape(labels.shape), distance
