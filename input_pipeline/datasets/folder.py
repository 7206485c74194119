"""A folder of images with captions, in the common layouts of trainers.

    10_cat name/a.jpg  10_cat name/a.txt               kohya: a text file (or .caption) per image
    a.jpg  a.json                                      taggers: {"caption": "…"}, see `sidecars`
    a.jpg  metadata.jsonl (or metadata.csv)            diffusers, Hugging Face's imagefolder
    target/a.jpg  source/a.jpg  prompt.json            ControlNet's tutorial: source, target, prompt
    image/a.jpg  captions.csv                          the same columns: file_name and text
    train/ …  validation/ …  test/ …                   splits, each in one of these layouts
    sketch/a.png                                       optional, or a column conditioning_image

The column of captions is text, caption or prompt. An image can have several captions: in several
rows or files, or as a list in one of them.
"""

import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from input_pipeline.datasets.scanning.annotations import IMAGE_FOLDERS, SKETCH_FOLDERS, Annotations
from input_pipeline.datasets.scanning.caption_tables import TABLES
from input_pipeline.datasets.scanning.containers import path_of
from input_pipeline.datasets.scanning.dataset_files import (
    composed,
    data_root,
    is_image,
    join,
    printable,
    stem,
    walk,
)
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan, first_problem
from input_pipeline.datasets.scanning.splits import scan_with_splits
from ragaf_jax.errors import UserError
from ragaf_jax.images import OTHER_SUFFIXES, unreadable

_SPLIT_FOLDERS = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    "test": "test",
}

# The datasets that read other files, by extension.
_OF_SHARDS = {
    **dict.fromkeys((".parquet", ".arrow"), "parquet"),
    ".tar": "webdataset",
    ".ndjson": "quickdraw",
}


def scan(root: Path) -> Scan:
    """Finds every image with a caption, and its sketch if there are sketches.

    Args:
      root: a folder in one of the layouts above.

    Returns:
      One item per image. Its key is its path below the folder of images, without the extension,
      preceded by the folder of its split if there is one. Its group is its key, or that of the
      file that it links to.

    Raises:
      UserError: there are no images or captions, too few of them, or images beside the splits.
    """
    root = data_root(root)
    files, rejected = walk(root)
    others = (path for path in files if path.lower().endswith(tuple(OTHER_SUFFIXES)))
    rejected += [Rejected(path, unreadable(path) or "") for path in others]
    if not any(map(is_image, files)):
        raise UserError(
            f"There are no images in {root}{first_problem(rejected)}{_other_dataset(files)}; name "
            "the folder that holds them."
        )
    parts = _parts(root, files)
    annotations = Annotations(files, rejected)
    for path in sorted(files):
        if posixpath.basename(path) in TABLES:
            annotations.read_table(root, path)
    annotations.read_sidecars(root)
    if not annotations.captions:
        hints = map(annotations.unread_caption, sorted(filter(is_image, files)))
        hint = next(filter(None, hints), "") or _unread_table(files)
        raise UserError(
            f"No image in {root} has a caption{first_problem(rejected)}{hint}; "
            "put a text file beside each (a.jpg and a.txt), or a metadata.jsonl or metadata.csv "
            "with file_name and text beside them, or a captions.csv with file_name and caption "
            "above image/, or a prompt.json with source, target and prompt."
        )

    items: list[Item] = []
    split_of: dict[str, str] = {}
    # Held-out splits come first, so that links from "train" to their images are rejected.
    for part in sorted(parts, key=lambda part: (part.split == "train", part.base)):
        for item in _items(root, part, parts, files, annotations):
            if split_of.setdefault(item.group, item.split) == item.split:
                items.append(item)
            else:
                file = path_of(item.image).relative_to(root).as_posix()
                rejected.append(Rejected(file, f"is also in the {split_of[item.group]} split"))
    return scan_with_splits(root, items, rejected, {part.split for part in parts})


def _unread_table(files: Iterable[str]) -> str:
    """A phrase that names a table of another name or format; "" if there is none."""
    ends = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")
    names = (path for path in sorted(files) if path.lower().endswith(ends))
    other = next((path for path in names if posixpath.basename(path) not in TABLES), None)
    return f", and the table {printable(other)} is not supported" if other else ""


def _other_dataset(files: Iterable[str]) -> str:
    """A phrase that names the dataset that reads these files; "" if there is none."""
    for path in sorted(files):
        if name := _OF_SHARDS.get(posixpath.splitext(path)[1].lower()):
            return f", and --dataset={name} reads {printable(path)}"
    return ""


class _Part(NamedTuple):
    """The whole dataset, or one of its splits."""

    base: str  # "" or the split's folder
    split: str  # "train" for the whole dataset
    images: str  # the folder of images
    sketches: str | None  # the folder of sketches

    def key(self, path: str) -> str:
        """The key of an image."""
        below = self.images if path.startswith(join(self.images, "")) else self.base
        return join(self.base, stem(path).removeprefix(join(below, "")))


def _parts(root: Path, files: Iterable[str]) -> list[_Part]:
    folders: set[str] = {""}  # all folders with an image in or below them
    for path in filter(is_image, files):
        while (path := posixpath.dirname(path)) not in folders:
            folders.add(path)
    tops = {folder for folder in folders - {""} if "/" not in folder}
    bases = {base: split for base, split in _SPLIT_FOLDERS.items() if base in tops}
    loose = sorted(path for path in files if is_image(path) and "/" not in path)
    others = [*sorted(tops - bases.keys()), *loose]
    if "train" not in bases or (len(bases) == 1 and others):
        bases = {"": "train"}
    elif others:
        raise UserError(
            f"In {root}, {printable(others[0])} is beside the splits {' and '.join(bases)}; move "
            "it into one of them."
        )

    def first(base: str, names: Iterable[str]) -> str | None:
        return next((path for name in names if (path := join(base, name)) in folders), None)

    return [
        _Part(base, split, first(base, IMAGE_FOLDERS) or base, first(base, SKETCH_FOLDERS))
        for base, split in bases.items()
    ]


def _group(parts: list[_Part], path: str) -> str:
    """The key of the image at the target of a link; targets in hidden folders have no part."""
    part = next((part for part in parts if path.startswith(join(part.base, ""))), None)
    return part.key(path) if part else stem(path)


def _items(
    root: Path, part: _Part, parts: list[_Part], files: dict[str, str], annotations: Annotations
) -> Iterable[Item]:
    """The usable images of a part; the others are added to the rejected files."""
    reject, inside = annotations.rejected.append, join(part.base, "")
    images, sketch_files = [], []
    for path in sorted(filter(is_image, files)):
        if part.sketches and path.startswith(f"{part.sketches}/"):
            sketch_files.append(path)
        elif path in annotations.sketch_files or not path.startswith(inside):
            continue
        elif path.startswith(join(part.images, "")) or path in annotations.captions:
            images.append(path)
    sketch_of_name: dict[str, str] = {}
    for path in sketch_files:
        name = stem(path).removeprefix(f"{part.sketches}/")
        first = sketch_of_name.setdefault(composed(name), path)
        if first != path:
            reject(Rejected(path, f"has the same name as {first}"))

    of_key: dict[str, str] = {}
    for path in sorted(images, key=lambda path: (path not in annotations.captions, path)):
        key = part.key(path)
        sketch = annotations.sketches.get(path)
        sketch = sketch or sketch_of_name.get(composed(key.removeprefix(inside)))
        if of_key.setdefault(key, path) != path:
            reject(Rejected(path, f"has the same name as {of_key[key]}"))
        elif path not in annotations.captions:
            if path not in annotations.rejected_images:
                reject(Rejected(path, f"has no caption{annotations.unread_caption(path)}"))
        elif sketch is None and (part.sketches or annotations.sketch_files):
            reject(Rejected(path, "has no sketch"))
        else:
            yield Item(
                key=key,
                group=_group(parts, files[path]),
                split=part.split,
                image=root / path,
                sketch=root / sketch if sketch else None,
                captions=tuple(annotations.captions[path]),
            )
