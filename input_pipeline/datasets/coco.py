"""COCO 2017 or 2014 (Lin et al. 2014, "Microsoft COCO") with its captions, as downloaded.

    annotations/captions_train2017.json  annotations/captions_val2017.json
    train2017/<12 digits>.jpg            val2017/<12 digits>.jpg
    train2014/COCO_train2014_<12 digits>.jpg, …       the same with 2014

Both years have the same photos in other splits. COCO's test split has no captions. Therefore
`val2017` is the test split, and validation is a part of `train2017`.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from input_pipeline.datasets.scanning.caption_tables import clean_caption
from input_pipeline.datasets.scanning.dataset_files import data_root, printable, read_folder
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan, first_problem
from input_pipeline.datasets.scanning.splits import split_groups
from ragaf_jax.errors import UserError


def scan(root: Path) -> Scan:
    """Finds every photo with captions.

    Args:
      root: the folder with `train2017/`, `val2017/` and `annotations/`, or these of 2014. Of both
        years, 2017 is read.

    Returns:
      One item per photo, without a sketch. Its key and group are the photo's id in 12 digits.

    Raises:
      UserError: a folder or an annotation file is missing or broken, or too few photos are usable.
    """
    root = data_root(root)
    folders = read_folder(root, "").folders
    year = "2014" if "val2014" in folders and "val2017" not in folders else "2017"
    val, train = f"val{year}", f"train{year}"
    # The test split first, because photos that are in both must not be trained on.
    read: set[str] = set()
    tested, rejected = _photos(root, val, elsewhere=(), read=read)
    if not tested:
        raise UserError(
            f"No photo in {root / val} has a caption; it is the test split"
            f"{first_problem(rejected)}."
        )
    trained, more = _photos(root, train, elsewhere=tested, read=read)
    splits = dict.fromkeys(tested, "test") | split_groups(
        trained, held=("validation",), problem=first_problem(more)
    )
    items = [
        Item(key, key, splits[key], photo.path, sketch=None, captions=tuple(photo.captions))
        for key, photo in sorted((tested | trained).items())
    ]
    return Scan(items, sorted(rejected + more), ("validation",))


class _Photo(NamedTuple):
    path: Path
    captions: dict[str, None]  # an ordered set


def _photos(
    root: Path, folder: str, elsewhere: Collection[str], read: set[str]
) -> tuple[dict[str, _Photo], list[Rejected]]:
    """The photos of one folder that have captions, by key.

    `read` contains the resolved paths of all files used so far and is extended.
    """
    directory, contents = root / folder, read_folder(root, folder)
    rejected = list(contents.rejected)
    table = f"annotations/captions_{folder}.json"
    images, annotations = _load(root, table)
    photos: dict[int, _Photo] = {}
    listed, names = set(), {Path(line.file).name for line in rejected}

    def reject(file: str, reason: str) -> None:
        rejected.append(Rejected(file, reason))

    for index, image in enumerate(tqdm(images, desc=folder, unit=" photos", delay=1)):
        match image:
            case {"id": int(number), "file_name": str(name)}:
                file = f"{folder}/{printable(name)}"
            case _:
                reject(table, f"has no id and file_name in its image {index}")
                continue
        if number in listed:
            reject(table, f"lists the image {number} twice")
            continue
        listed.add(number)
        if name in ("", ".", "..") or any(char in name for char in "/\\\0"):
            reject(file, f"is not the name of a file in {folder}")
        elif _key(number) in elsewhere:
            reject(file, f"is also in {folder.replace('train', 'val')}")
        elif name in contents.files and name not in names and contents.files[name] in read:
            reject(file, f"is a link to {contents.files[name]}, which is already used")
        elif name in contents.files and name not in names:
            read.add(contents.files[name])
            photos[number] = _Photo(directory / name, {})
        elif name in contents.files:
            reject(file, f"is listed again as image {number}")
        elif name not in names:
            reject(file, f"is listed in {table} but missing")
        names.add(name)

    for index, annotation in enumerate(tqdm(annotations, desc=folder, unit=" captions", delay=1)):
        match annotation:
            case {"image_id": int(number), "caption": text}:
                pass
            case _:
                reject(table, f"has no image_id and caption in its annotation {index}")
                continue
        if number not in listed:
            reject(table, f"has a caption of the image {number}, which it does not list")
        if number not in photos:
            continue
        try:
            if caption := clean_caption(text):
                photos[number].captions[caption] = None
        except ValueError as error:
            reject(table, f"has a caption of the image {number} that {error}")

    for photo in photos.values():
        if not photo.captions:
            reject(f"{folder}/{photo.path.name}", "has no caption")
    return {_key(n): photo for n, photo in photos.items() if photo.captions}, rejected


def _key(number: int) -> str:
    return f"{number:012d}"


def _load(root: Path, table: str) -> tuple[list[Any], list[Any]]:
    """The images and annotations of one file."""
    path = root / table
    if path.name not in read_folder(root, "annotations").files:
        raise UserError(
            f"The file {path} is missing; unpack COCO's "
            f"annotations_trainval{path.stem[-4:]}.zip in {root}."
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
