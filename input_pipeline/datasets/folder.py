"""A folder of images with captions, in the common layouts of trainers.

    10_cat name/a.jpg  10_cat name/a.txt               kohya: a text file (or .caption) beside each
    a.jpg  metadata.jsonl (or metadata.csv)            diffusers, Hugging Face's imagefolder
    image/a.jpg  captions.csv                          the same columns: file_name and text
    train/ …  validation/ …  test/ …                   each in one of these layouts: the splits
    sketch/a.png                                       optional, or a column conditioning_image

The columns of captions may be called text, caption or prompt; several rows of a picture, or a list
in one of them, are several captions.
"""

import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from input_pipeline.datasets.scanning.items import Item, Rejected, Scan, first_problem
from input_pipeline.datasets.scanning.listing import (
    composed,
    data_root,
    is_picture,
    join,
    printable,
    stem,
    walk,
)
from input_pipeline.datasets.scanning.notes import IMAGE_FOLDERS, SKETCH_FOLDERS, Notes
from input_pipeline.datasets.scanning.splits import split_groups
from input_pipeline.datasets.scanning.tables import TABLES
from ragaf_jax.errors import UserError
from ragaf_jax.images import OTHER_SUFFIXES, unreadable

_SPLIT_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def scan(root: Path) -> Scan:
    """Finds every picture that has a caption, and its sketch where there are sketches.

    Args:
      root: a folder in one of the layouts above.

    Returns:
      One item a picture: its key is its path below the folder of the pictures, without the
      extension and below "train/" and its like where there are such; its group is its key, or that
      of the file that it is a link to.

    Raises:
      UserError: there are no pictures or no captions, too few of them, or splits beside others.
    """
    root = data_root(root)
    files, rejected = walk(root)
    rejected += _in_other_formats(files)
    if not any(map(is_picture, files)):
        raise UserError(
            f"There are no pictures in {root}{first_problem(rejected)}; name the folder that holds "
            "them."
        )
    parts = _parts(root, files)
    notes = Notes(files, rejected)
    for path in sorted(files):
        if posixpath.basename(path) in TABLES:
            notes.read_table(root, path)
    notes.read_sidecars(root)
    if not notes.captions:
        named = map(notes.caption_in_other_case, sorted(filter(is_picture, files)))
        hint = next(filter(None, named), "") or _unread_table(files)
        raise UserError(
            f"No picture in {root} has a caption{first_problem(rejected)}{hint}; "
            "put a text file beside each (a.jpg and a.txt), or a metadata.jsonl or metadata.csv "
            "with file_name and text beside them, or a captions.csv with file_name and caption "
            "above image/."
        )

    items: list[Item] = []
    split_of: dict[str, str] = {}
    # What is held out is not trained on, even if a link says so.
    for part in sorted(parts, key=lambda part: (part.split == "train", part.base)):
        for item in _items(root, part, parts, files, notes):
            if split_of.setdefault(item.group, item.split) == item.split:
                items.append(item)
            else:
                file = item.image.relative_to(root).as_posix()
                rejected.append(Rejected(file, f"is in the {split_of[item.group]} split, too"))
    given = {part.split for part in parts}
    for split in sorted(given - set(split_of.values())):
        raise UserError(
            f"No picture of the {split} split in {root} can be used{first_problem(rejected)}; "
            "mend it."
        )
    trained = {group for group, split in split_of.items() if split == "train"}
    missing = tuple(split for split in ("validation", "test") if split not in given)
    split_of |= split_groups(trained, missing, first_problem(rejected))
    items = [item._replace(split=split_of[item.group]) for item in items]
    return Scan(sorted(items), sorted(rejected), missing)


def _in_other_formats(files: Iterable[str]) -> list[Rejected]:
    """Images that cannot be read."""
    others = (path for path in files if path.lower().endswith(tuple(OTHER_SUFFIXES)))
    return [Rejected(path, unreadable(path) or "") for path in others]


def _unread_table(files: Iterable[str]) -> str:
    """That a table of another name or format is not read, as a part of a sentence."""
    ends = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")
    names = (path for path in sorted(files) if path.lower().endswith(ends))
    other = next((path for path in names if posixpath.basename(path) not in TABLES), None)
    return f", and {printable(other)} is not a table that is read" if other else ""


class _Part(NamedTuple):
    """The whole data set, or one of its splits.

    Attributes:
      base: "" or the split's folder.
      split: the split; "train" until it is cut.
      images: the folder of the pictures.
      sketches: that of the sketches, None if there is none.
    """

    base: str
    split: str
    images: str
    sketches: str | None

    def key(self, path: str) -> str:
        """The key of a picture."""
        below = self.images if path.startswith(join(self.images, "")) else self.base
        return join(self.base, stem(path).removeprefix(join(below, "")))


def _parts(root: Path, files: Iterable[str]) -> list[_Part]:
    folders: set[str] = {""}  # all that have a picture in or below them
    for path in filter(is_picture, files):
        while (path := posixpath.dirname(path)) not in folders:
            folders.add(path)
    tops = {folder for folder in folders - {""} if "/" not in folder}
    bases = {base: split for base, split in _SPLIT_FOLDERS.items() if base in tops}
    loose = sorted(path for path in files if is_picture(path) and "/" not in path)
    others = [*sorted(tops - bases.keys()), *loose]
    if "train" not in bases or (len(bases) == 1 and others):
        bases = {"": "train"}
    elif others:
        raise UserError(
            f"In {root}, {printable(others[0])} lies beside {' and '.join(bases)}, which are "
            "splits; move it into one of them."
        )

    def first(base: str, names: Iterable[str]) -> str | None:
        return next((path for name in names if (path := join(base, name)) in folders), None)

    return [
        _Part(base, split, first(base, IMAGE_FOLDERS) or base, first(base, SKETCH_FOLDERS))
        for base, split in bases.items()
    ]


def _group(parts: list[_Part], path: str) -> str:
    """The key of the picture that a link leads to; hidden folders have none."""
    part = next((part for part in parts if path.startswith(join(part.base, ""))), None)
    return part.key(path) if part else stem(path)


def _items(
    root: Path, part: _Part, parts: list[_Part], files: dict[str, str], notes: Notes
) -> Iterable[Item]:
    """The usable pictures of a part; the others are noted down as rejected."""
    reject, inside = notes.rejected.append, join(part.base, "")
    images, sketch_files = [], []
    for path in sorted(filter(is_picture, files)):
        if part.sketches and path.startswith(f"{part.sketches}/"):
            sketch_files.append(path)
        elif path in notes.drawn or not path.startswith(inside):
            continue
        elif path.startswith(join(part.images, "")) or path in notes.captions:
            images.append(path)
    drawings: dict[str, str] = {}
    for path in sketch_files:
        name = stem(path).removeprefix(f"{part.sketches}/")
        first = drawings.setdefault(composed(name), path)
        if first != path:
            reject(Rejected(path, f"has the same name as {first}"))

    of_key: dict[str, str] = {}
    for path in sorted(images, key=lambda path: (path not in notes.captions, path)):
        key = part.key(path)
        sketch = notes.sketches.get(path) or drawings.get(composed(key.removeprefix(inside)))
        if of_key.setdefault(key, path) != path:
            reject(Rejected(path, f"has the same name as {of_key[key]}"))
        elif path not in notes.captions:
            if path not in notes.blamed:
                reject(Rejected(path, f"has no caption{notes.caption_in_other_case(path)}"))
        elif sketch is None and (part.sketches or notes.drawn):
            reject(Rejected(path, "has no sketch"))
        else:
            yield Item(
                key=key,
                group=_group(parts, files[path]),
                split=part.split,
                image=root / path,
                sketch=root / sketch if sketch else None,
                captions=tuple(notes.captions[path]),
                category="",
            )
