"""Data sets of images on disk: `sketchy`, `coco` and `folder`.

Each is scanned into items; here an item becomes a record, with the sketch that was drawn for it or
one made from the picture.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from tqdm import tqdm

from input_pipeline import record_format
from input_pipeline.datasets import registry
from input_pipeline.datasets.building import SPLITS, Builder, Record, Rejections, Work
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan
from input_pipeline.datasets.scanning.sources import sources_of
from input_pipeline.datasets.scanning.splits import stable_hash
from input_pipeline.datasets.scanning.usable import cut, rejects_may_move_splits, split_usable
from input_pipeline.extraction import sketch
from ragaf_jax import images
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import DEFAULT_GRAPH, GraphConfig
from ragaf_jax.graph.prepare import page_size, sketch_regions
from ragaf_jax.graph.regions import REGION_KINDS
from ragaf_jax.sketch_input import to_page


@dataclasses.dataclass(kw_only=True, eq=False)
class PhotosConfig(tfds.core.BuilderConfig):
    """One preparation.

    Attributes:
      dataset: one that has a scan in `registry.DATASETS`, or "folder/<name>".
      size: side S of the images, px.
      root: the folder as it was downloaded; absolute and without links.
      method: how pictures without a drawing become sketches, one of `sketch.METHODS`.
      transform: of Sketchy, the alignment of its sketches; None for the first that is there.
      limit: groups of each split to take, in a shuffled order that never changes; 0 takes all.
      regions: what the regions of a sketch are, a name in `REGION_KINDS`.
      graph: which of them are connected.
    """

    dataset: str
    size: int
    root: Path
    method: str = "canny"
    transform: str | None = None
    limit: int = 0
    regions: str = "strokes"
    graph: GraphConfig = DEFAULT_GRAPH


def config(dataset: str, size: int, graph: GraphConfig = DEFAULT_GRAPH, **options) -> PhotosConfig:
    """The configuration under the name of its folder; `options` are `PhotosConfig`'s."""
    name = record_format.config_name(dataset, size, 0, graph)
    return PhotosConfig(name=name, dataset=dataset, size=size, graph=graph, **options)


class Photos(Builder, skip_registration=True):  # type: ignore[call-arg]
    """Items of a scan; TFDS names the builder after the dataset."""

    def __init__(self, *, config: PhotosConfig, **others: Any):
        self.name = registry.builder_name(config.dataset)
        super().__init__(config=config, **others)

    def _info(self) -> tfds.core.DatasetInfo:
        chosen = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            homepage=registry.find(chosen.dataset).homepage,
            features=record_format.features(chosen.size),
            metadata=tfds.core.MetadataDict(
                record_format.metadata(
                    chosen.dataset, chosen.size, chosen.regions, chosen.graph, **facts(chosen)
                )
            ),
        )

    def work(self) -> Work:
        chosen = self.builder_config
        scan = scan_of(chosen)
        items, unusable = self._usable(scan)
        by_split: dict[str, list[Item]] = {split: [] for split in SPLITS}
        for item in items:
            by_split[item.split].append(item)
        tasks = {
            split: [_task(item, chosen) for item in _limited(items, chosen.limit)]
            for split, items in by_split.items()
        }
        taken = {task.item.key for those in tasks.values() for task in those}
        return Work(
            _records,
            tasks,
            [*scan.rejected, *unusable.values()],
            len(items) - len(taken),
            hash_of(scan),
            sources_of(scan.items, taken | unusable.keys()),
        )

    def _usable(self, scan: Scan) -> tuple[list[Item], dict[str, Rejected]]:
        """The items with the splits of what can be read, and why others cannot, by their keys.

        Where rejects cannot move any split, they are left to be found when records are made.
        """
        if not rejects_may_move_splits(scan, self.max_rejected):
            return scan.items, {}
        tried = cut(scan)
        outcomes = self.map(_why_unusable, [_task(item, self.builder_config) for item in tried])
        bar = tqdm(outcomes, total=len(tried), desc="reading", unit=" examples", delay=1)
        found = {item.key: why for item, why in zip(tried, bar, strict=True) if why is not None}
        total = len(scan.items) + len(scan.rejected)
        rejections = Rejections(total, self.max_rejected, self.report)
        rejections.add([*scan.rejected, *found.values()])
        return split_usable(scan, found.keys(), rejections.reported()), found


def scan_of(chosen: PhotosConfig) -> Scan:
    """What there is in the root of a data set."""
    entry = registry.find(chosen.dataset)
    assert entry.scan is not None
    return entry.scan(chosen.root, *(getattr(chosen, name) for name in entry.scan_options))


def hash_of(scan: Scan) -> str:
    """16 hex digits that are others when names, captions or splits are, wherever the files lie."""
    digest = hashlib.blake2b(digest_size=8)
    for item in scan.items:
        digest.update(json.dumps([item.key, item.split, item.captions]).encode())
    return digest.hexdigest()


def facts(chosen: PhotosConfig) -> dict[str, str | int]:
    """What a folder of records says of its preparation."""
    return {
        "sketch": chosen.method,
        "transform": chosen.transform or "",
        "limit": chosen.limit,
    }


class _Task(NamedTuple):
    item: Item
    root: Path
    size: int
    method: str
    regions: str
    graph: GraphConfig


def _task(item: Item, chosen: PhotosConfig) -> _Task:
    return _Task(item, chosen.root, chosen.size, chosen.method, chosen.regions, chosen.graph)


def _limited(items: list[Item], limit: int) -> list[Item]:
    if not limit:
        return items
    groups = set(sorted({item.group for item in items}, key=stable_hash)[:limit])
    return [item for item in items if item.group in groups]


class _Read(NamedTuple):
    photo: UInt8[np.ndarray, "h w 3"]
    page: UInt8[np.ndarray, "page page"] | None  # None where it is to be made from the photo


def _read(task: _Task) -> _Read | Rejected:
    """The files of one item, or why they cannot be used."""
    item = task.item
    file = item.image
    try:
        photo = images.read_rgb(item.image)
        page = None
        if item.sketch is not None:
            file = item.sketch
            grey = images.read_grey(item.sketch)
            images.check_same_aspect(grey.shape, photo.shape, item.sketch, item.image)
            # As its picture is: cut to the central square.
            page = to_page(images.crop_square(grey), page_size(task.size))
            if page.min() == 255:
                raise UserError("has no line on it: it is of one colour")
    except UserError as error:
        what = images.subject_of(file, "image" if file is item.image else "sketch")
        # `Rejected` names the file: its reason begins with the verb.
        reason = str(error).removeprefix(f"{what} ").removeprefix("The sketch ").removesuffix(".")
        return Rejected(str(file.relative_to(task.root)), reason)
    return _Read(photo, page)


def _why_unusable(task: _Task) -> Rejected | None:
    read = _read(task)
    return read if isinstance(read, Rejected) else None


def _records(task: _Task) -> list[Record] | Rejected:
    """The record of one item, or why there is none."""
    read, item = _read(task), task.item
    if isinstance(read, Rejected):
        return read
    photo, page = read
    if page is None:
        page = sketched(photo, task.size, task.method)
    regions = REGION_KINDS[task.regions]
    return [
        record_format.encode(
            image=images.to_square(photo, task.size),
            sketch=sketch_regions(
                page,
                task.size,
                regions,
                task.graph,
                max_edges=regions.max_regions**2,  # all: readers trim to their own budget
            ),
            captions=item.captions,
            category=item.category,
            key=item.key,
            group=item.group,
            true_labels=np.zeros((task.size, task.size), np.uint8),
            true_colors=np.array([-1], np.int32),
        )
    ]


def sketched(
    photo: UInt8[np.ndarray, "h w 3"], size: int, method: str
) -> UInt8[np.ndarray, "page page"]:
    """The page, made from a picture, whose lines are a pixel wide at the model's `size`."""
    side = page_size(size)
    return sketch.thicken(
        sketch.photo_to_sketch(images.to_square(photo, side), method), side // size
    )
