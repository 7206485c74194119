"""Random sketches as grey pages, and the files of a result."""

import cv2
import numpy as np

FILES = {
    "sketch.png",
    "regions.png",
    "region_graph.png",
    "stage1_output.png",
    "stage2_output.png",
    "stage2_upscaled.png",
    "comparison.png",
    "attention_maps.png",
    "fusion.png",
    "regions.json",
    "labels.png",
    "prompt.txt",
    "metadata.json",
}


def random_page(rng, side=256):
    page = np.full((side, side), 255, np.uint8)
    for _ in range(3):
        centre, radius = rng.integers(60, 196, 2), rng.integers(20, 60)
        cv2.circle(page, centre.tolist(), int(radius), 0, 7)
    return page
