"""Datasets of images on disk, in files or shards: all with a `scan` in the registry.

Turns the items of a scan into records, with the dataset's sketch or one made from the image.
"""

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from input_pipeline import record_format
from input_pipeline.datasets import registry
from input_pipeline.datasets.building import SPLITS, Builder, Preparation, Record, Rejections, Work
from input_pipeline.datasets.scanning import splits
from input_pipeline.datasets.scanning.containers import opened, path_of
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan
from input_pipeline.datasets.scanning.sources import sources_of
from input_pipeline.extraction import sketch
from input_pipeline.options import Options
from ragaf_jax import images
from ragaf_jax.errors import UserError
from ragaf_jax.framing import Size, crop_to, letterboxed, place_inside, resized
from ragaf_jax.graph.prepare import page_scale
from ragaf_jax.sketch_input import to_page

_Photo = UInt8[np.ndarray, "h w 3"]
_Page = UInt8[np.ndarray, "rows columns"]


class Photos(Builder, skip_registration=True):  # type: ignore[call-arg]
    """Builder of all scanned datasets; TFDS's name of it is that of the dataset."""

    def __init__(self, *, config: Preparation, **others: Any):
        self.name = registry.builder_name(config.dataset)
        super().__init__(config=config, **others)

    def facts(self) -> dict[str, Any]:
        options = self.builder_config.options
        crop = {"crop": options.crop} if options.buckets else {}
        return {"sketch": options.sketch, "transform": options.transform or "", **crop}

    def work(self) -> Work:
        options = self.builder_config.options
        scan = scan_of(self.builder_config.dataset, options)
        items, unusable = self._usable(scan)
        by_split: dict[str, list[Item]] = {split: [] for split in SPLITS}
        for item in items:
            by_split[item.split].append(item)
        tasks = {
            split: [_Task(item, options) for item in _limited(items, options.limit)]
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
        """The readable items with their splits, and the unreadable ones by key.

        If unreadable items cannot change any split, they are found later, when records are made.
        """
        if not splits.rejects_may_move_splits(scan, self.max_rejected):
            return scan.items, {}
        items = splits.cut(scan)
        tasks = [_Task(item, self.builder_config.options) for item in items]
        outcomes = self.map(_rejection, tasks)
        bar = tqdm(outcomes, total=len(items), desc="reading", unit=" examples", delay=1)
        found = {item.key: why for item, why in zip(items, bar, strict=True) if why is not None}
        total = len(scan.items) + len(scan.rejected)
        rejections = Rejections(total, self.max_rejected, self.report)
        rejections.add([*scan.rejected, *found.values()])
        return splits.split_usable(scan, found.keys(), rejections.reported()), found


def scan_of(dataset: str, options: Options) -> Scan:
    """Scans the root of a dataset."""
    entry = registry.find(dataset)
    assert entry.scan is not None
    return entry.scan(options.root, *(getattr(options, name) for name in entry.scan_options))


def hash_of(scan: Scan) -> str:
    """A hash of names, captions and splits, in 16 hex digits; independent of the root."""
    digest = hashlib.blake2b(digest_size=8)
    for item in scan.items:
        digest.update(json.dumps([item.key, item.split, item.captions]).encode())
    return digest.hexdigest()


class _Task(NamedTuple):
    item: Item
    options: Options


def _limited(items: list[Item], limit: int) -> list[Item]:
    if not limit:
        return items
    groups = set(sorted({item.group for item in items}, key=splits.stable_hash)[:limit])
    return [item for item in items if item.group in groups]


def _read(task: _Task) -> tuple[_Photo, _Page | None] | Rejected:
    """The photo of one item and the page of its sketch, if any; or why they are unusable."""
    item = task.item
    file = item.image
    try:
        image = opened(item.image, "image")
        photo = images.read_rgb(image)
        page = None
        if item.sketch is not None:
            file = item.sketch
            drawn = opened(item.sketch, "sketch")
            grey = images.read_grey(drawn)
            images.check_same_aspect(grey.shape, photo.shape, drawn, image)
            size = task.options.size_of(photo.shape[:2])
            # As the photo is.
            grey = crop_to(grey, size) if task.options.cropped else grey
            page = to_page(grey, _page_size(size))
            if page.min() == 255:
                raise UserError("has no lines: all its pixels have one colour")
    except UserError as error:
        what = images.subject_of(path_of(file), "image" if file is item.image else "sketch")
        # `Rejected` names the file, so that its reason begins with the verb.
        reason = str(error).removeprefix(f"{what} ").removeprefix("The sketch ").removesuffix(".")
        assert task.options.root is not None
        return Rejected(str(path_of(file).relative_to(task.options.root)), reason)
    return photo, page


def _rejection(task: _Task) -> Rejected | None:
    found = _read(task)
    return found if isinstance(found, Rejected) else None


def _records(task: _Task) -> list[Record] | Rejected:
    """The record of one item, or the reason why it is unusable."""
    found, (item, options) = _read(task), task
    if isinstance(found, Rejected):
        return found
    photo, page = found
    source = photo.shape[:2]
    size = options.size_of(source)
    if options.cropped:
        photo = crop_to(photo, size)
    if page is None:
        page = _sketched(photo, size, options)
    return [
        record_format.encode(
            image=resized(photo, *size) if options.cropped else letterboxed(photo, size),
            sketch=options.sketch_regions(page, size),
            captions=item.captions,
            category=item.category,
            key=item.key,
            group=item.group,
            source_size=source if options.buckets else None,
        )
    ]


def _page_size(size: Size) -> Size:
    scale = page_scale(size)
    return scale * size[0], scale * size[1]


def _sketched(photo: _Photo, size: Size, options: Options) -> _Page:
    """A page with lines of the photo, one pixel wide at the model's `size`.

    Neither margins nor their border with the photo have lines.
    """
    frame = _page_size(size)
    page = np.full(frame, 255, np.uint8)
    inside = size if options.cropped else photo.shape
    height, width, rows, columns = place_inside(inside[0], inside[1], frame)
    lines = sketch.photo_to_sketch(resized(photo, height, width), options.sketch)
    page[rows, columns] = sketch.thicken(lines, page_scale(size))
    return page
