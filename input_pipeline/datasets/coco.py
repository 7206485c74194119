"""COCO 2017 (Lin et al. 2014, "Microsoft COCO") with its captions, as downloaded.

    annotations/captions_train2017.json  annotations/captions_val2017.json
    train2017/<12 digits>.jpg            val2017/<12 digits>.jpg

Its own test split has no captions: `val2017` is the test split here, and validation is a part of
`train2017`.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from input_pipeline.datasets import captions
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan, first_problem
from input_pipeline.datasets.scanning.listing import data_root, printable, read_folder
from input_pipeline.datasets.scanning.splits import split_groups
from ragaf_jax.errors import UserError


def scan(root: Path) -> Scan:
    """Finds every photo that has captions.

    Args:
      root: the folder with `train2017/`, `val2017/` and `annotations/`.

    Returns:
      One item a photo, without a sketch: its key and its group are its id in 12 digits.

    Raises:
      UserError: a folder or an annotation file is missing or broken, or there is too little of it.
    """
    root = data_root(root)
    # `val2017` first: a photo that is in both must not be trained on.
    read: set[str] = set()
    tested, rejected = _photos(root, "val2017", elsewhere=(), read=read)
    if not tested:
        raise UserError(
            f"No photo in {root / 'val2017'} has a caption; it is the test split"
            f"{first_problem(rejected)}."
        )
    trained, more = _photos(root, "train2017", elsewhere=tested, read=read)
    splits = dict.fromkeys(tested, "test") | split_groups(
        trained, held=("validation",), problem=first_problem(more)
    )
    items = [
        Item(
            key=key,
            group=key,
            split=splits[key],
            image=photo.path,
            sketch=None,
            captions=tuple(photo.captions),
            category="",
        )
        for key, photo in sorted((tested | trained).items())
    ]
    return Scan(items, sorted(rejected + more), ("validation",))


class _Photo(NamedTuple):
    path: Path
    captions: dict[str, None]  # a set that keeps its order


def _photos(
    root: Path, folder: str, elsewhere: Collection[str], read: set[str]
) -> tuple[dict[str, _Photo], list[Rejected]]:
    """The photos of one folder that have captions, by their keys.

    `read` has the files that are taken already, by their paths without links, and gets more.
    """
    directory, listing = root / folder, read_folder(root, folder)
    rejected = list(listing.rejected)
    table = f"annotations/captions_{folder}.json"
    images, annotations = _load(root, table)
    photos: dict[int, _Photo] = {}
    listed, names = set(), {Path(line.file).name for line in rejected}
    for index, image in enumerate(tqdm(images, desc=folder, unit=" photos", delay=1)):
        match image:
            case {"id": int(number), "file_name": str(name)}:
                file = f"{folder}/{printable(name)}"
            case _:
                rejected.append(Rejected(table, f"has no id and file_name in its image {index}"))
                continue
        if number in listed:
            rejected.append(Rejected(table, f"lists the image {number} twice"))
            continue
        listed.add(number)
        if _leaves(name):
            rejected.append(Rejected(file, f"is no name of a file in {folder}"))
        elif _key(number) in elsewhere:
            rejected.append(Rejected(file, "is in val2017, too"))
        elif name in listing.files and name not in names and listing.files[name] in read:
            rejected.append(Rejected(file, f"is a link to {listing.files[name]}, read already"))
        elif name in listing.files and name not in names:
            read.add(listing.files[name])
            photos[number] = _Photo(directory / name, {})
        elif name in listing.files:
            rejected.append(Rejected(file, f"is listed again as image {number}"))
        elif name not in names:
            rejected.append(Rejected(file, f"is listed in {table} and missing"))
        names.add(name)

    for index, annotation in enumerate(tqdm(annotations, desc=folder, unit=" captions", delay=1)):
        match annotation:
            case {"image_id": int(number), "caption": said}:
                pass
            case _:
                reason = f"has no image_id and caption in its annotation {index}"
                rejected.append(Rejected(table, reason))
                continue
        if number not in listed:
            reason = f"has a caption of the image {number}, which it does not list"
            rejected.append(Rejected(table, reason))
        if number not in photos:
            continue
        try:
            if caption := captions.clean(said):
                photos[number].captions[caption] = None
        except ValueError as error:
            reason = f"has a caption of the image {number} that {error}"
            rejected.append(Rejected(table, reason))

    for photo in photos.values():
        if not photo.captions:
            rejected.append(Rejected(f"{folder}/{photo.path.name}", "has no caption"))
    return {_key(n): photo for n, photo in photos.items() if photo.captions}, rejected


def _key(number: int) -> str:
    return f"{number:012d}"


def _leaves(name: str) -> bool:
    return name in ("", ".", "..") or any(char in name for char in "/\\\0")


def _load(root: Path, table: str) -> tuple[list[Any], list[Any]]:
    """Images and annotations of one file."""
    path = root / table
    if path.name not in read_folder(root, "annotations").files:
        raise UserError(
            f"The file {path} is missing; unpack COCO's annotations_trainval2017.zip in {root}."
        )
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"The file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"The file {path} is not JSON ({error}); unpack it again.") from error
    match content:
        case {"images": list(images), "annotations": list(annotations)}:
            return images, annotations
    raise UserError(f"The file {path} has no lists named images and annotations; unpack it again.")
