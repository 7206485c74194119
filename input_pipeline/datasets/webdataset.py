"""WebDataset: uncompressed tar files of examples, as img2dataset and WebDataset write them.

    train-{00000..00127}.tar    00001.jpg  00001.txt  00001.json  00001.cls  00001.sketch.png

Files of one name up to the first dot are one example: an image, captions as beside the images of a
folder, a class, and optionally a sketch. `classnames.txt` beside the shards names numbered classes.
Tar files are never unpacked: their images are read where they lie.
"""

import itertools
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from input_pipeline.datasets.scanning.caption_tables import clean_caption
from input_pipeline.datasets.scanning.containers import Member
from input_pipeline.datasets.scanning.dataset_files import (
    data_root,
    is_image,
    join,
    printable,
    read_folder,
    stem,
)
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan
from input_pipeline.datasets.scanning.shards import list_shards, scan_of_shards
from input_pipeline.datasets.scanning.sidecars import MOST_BYTES, captions_in
from input_pipeline.datasets.sketchy import captions_of

_TEXTS = ("txt", "caption", "json")
_SKETCHES = ("sketch", "conditioning")  # before the extension of an image
_NAMES = "classnames.txt"


def scan(root: Path, shards: str = "") -> Scan:
    """Finds every example with an image and a caption.

    Args:
      root: the folder with the tar files, at any depth.
      shards: selects tar files; see `list_shards`.

    Returns:
      One item per example. Its key and group are the shard's path without its extension, and the
      name in the shard.

    Raises:
      UserError: there are no shards, or too few usable examples.
    """
    root = data_root(root)
    found, rejected = list_shards(root, shards, (".tar", ".tar.gz", ".tgz"))
    names = _class_names(root)
    items = []
    for shard in tqdm(found, desc="scanning", unit=" shards", delay=1):
        keys: set[str] = set()
        members = _members(root, shard.path, rejected)
        for name, group in itertools.groupby(members, key=lambda found: found.example):
            example = _example(list(group), names)
            if isinstance(example, list):
                rejected += example
            elif name in keys:
                place = join(shard.path, name)
                rejected.append(Rejected(place, "has the name of an earlier example in its shard"))
            else:
                keys.add(name)
                key = join(stem(shard.path), name)
                image, sketch, captions, category = example
                items.append(Item(key, key, shard.split, image, sketch, captions, category))
    return scan_of_shards(root, items, rejected, found)


class _Found(NamedTuple):
    example: str  # the name up to the first dot
    extension: str  # the rest in lower case
    member: Member
    place: str  # for messages
    text: bytes = b""  # the content of captions and classes


def _members(root: Path, path: str, rejected: list[Rejected]) -> Iterator[_Found]:
    """The regular files of a shard in order; unusable ones are added to `rejected`."""
    count, file = 0, root / path
    try:
        size = file.stat().st_size
        # "r:" refuses compressed files, in which members have no place of their own.
        with tarfile.open(file, "r:", errorlevel=0) as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else all headers stay in memory
                count += 1
                place = f"{path}/{printable(info.name)}"
                if problem := _problem(info, size):
                    rejected.append(Rejected(place, problem))
                elif info.isreg() and not posixpath.basename(info.name).startswith("."):
                    folder, base = posixpath.split(posixpath.normpath(info.name))
                    name, _, extension = base.partition(".")
                    extension = extension.lower()
                    member = Member(file, info.name, info.offset_data, info.size)
                    text = b""
                    if extension in (*_TEXTS, "cls"):
                        content = tar.extractfile(info)
                        text = content.read(MOST_BYTES + 1) if content else b""
                    yield _Found(join(folder, name), extension, member, place, text)
    except tarfile.ReadError as error:
        hint = "gunzip it" if path.lower().endswith("gz") else "download it again"
        reason = f"is no complete, uncompressed tar file after {count} members ({error}); {hint}"
        rejected.append(Rejected(path, reason))
    except (OSError, tarfile.TarError, ValueError, UnicodeError) as error:
        rejected.append(Rejected(path, f"cannot be read after {count} members ({error})"))


def _problem(info: tarfile.TarInfo, size: int) -> str:
    """Why a member cannot be used; "" if it can or is a folder. `size` is the tar file's."""
    if posixpath.isabs(info.name) or ".." in info.name.split("/") or "\0" in info.name:
        return "has a name outside its tar file"
    if printable(info.name) != info.name:
        return "has control characters or bytes that are not UTF-8 in its name"
    if info.isdir():
        return ""
    if not info.isreg() or info.issparse():
        return "is a link, a sparse or a special file"
    return "is truncated with its tar file" if info.offset_data + info.size > size else ""


def _example(
    found: list[_Found], names: list[str]
) -> tuple[Member, Member | None, tuple[str, ...], str] | list[Rejected]:
    """Image, sketch, captions and category of an example, or why it is unusable.

    The list is empty for files without an image, such as indices.
    """
    images: list[_Found] = []
    sketches: list[_Found] = []
    captions, category = [], ""
    for file in found:
        kind, _, suffix = file.extension.rpartition(".")
        try:
            if is_image(f"x.{suffix}") and kind in ("", *_SKETCHES):
                (sketches if kind else images).append(file)
            elif file.extension in _TEXTS:
                captions += captions_in(file.text, file.extension == "json")
            elif file.extension == "cls":
                category = _category(file.text, names)
        except ValueError as error:
            return [Rejected(file.place, str(error))]
    if not images:
        return []
    for several in (images, sketches):
        if len(several) > 1:
            return [Rejected(several[1].place, f"has the same name as {several[0].place}")]
    if category and not captions:
        captions = list(captions_of(category))
    if not captions:
        files = ", ".join(file.extension for file in found)
        return [Rejected(images[0].place, f"has no caption (files: {files})")]
    sketch = sketches[0].member if sketches else None
    return images[0].member, sketch, tuple(dict.fromkeys(captions)), category


def _category(content: bytes, names: list[str]) -> str:
    """The name of a class; "" for a number without a name."""
    text = clean_caption(content.decode("utf-8-sig", errors="surrogateescape"))
    if not text.isdecimal():
        return text
    return names[int(text)] if int(text) < len(names) else ""


def _class_names(root: Path) -> list[str]:
    if _NAMES not in read_folder(root, "").files:
        return []
    lines = (root / _NAMES).read_text("utf-8-sig", errors="replace").splitlines()
    return [" ".join(line.split()) for line in lines]
