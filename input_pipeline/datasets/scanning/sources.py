"""Digests of the source files of records, which detect replaced files.

Full contents are hashed. Times are no substitute, because `cp -p`, `rsync` and archives restore
them and plain copies change them; nor are sizes, which uncompressed images share. Hashing reads
about 1 GB/s, far faster than records are made.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from input_pipeline.datasets.scanning.containers import Location, content_of, path_of
from input_pipeline.datasets.scanning.items import Item

_MOST_NAMED = 3  # examples that an error names per kind of change
_UNREADABLE = "unreadable"


class Source(NamedTuple):
    """The digests of one example; a line of `sources.jsonl`."""

    key: str  # of the example
    texts: str  # digest of its split in the scan, group, category and captions
    image: str  # digest of the image's file; "" if --limit excludes the example
    sketch: str  # the same for the sketch; also "" if the sketch is made from the image


def sources_of(items: Iterable[Item], read: Collection[str]) -> list[Source]:
    """The source of each item of a scan, in order; `read` has the keys of the files to hash."""
    items = list(items)
    chosen = [item for item in items if item.key in read]
    files = {file for item in chosen for file in (item.image, item.sketch) if file is not None}
    # In the order of rows, because Parquet files are read forwards.
    order = sorted(files, key=lambda file: (file,) if isinstance(file, Path) else file)
    digests = {None: ""} | _digests(order)
    sources = []
    for item in items:
        image, sketch = "", ""
        if item.key in read:
            image, sketch = digests[item.image], digests[item.sketch]
        sources.append(Source(item.key, _texts_digest(item), image, sketch))
    return sources


def _digests(files: Sequence[Location]) -> dict[Location | None, str]:
    # Reading and hashing release Python's global lock.
    with ThreadPool(len(os.sched_getaffinity(0))) as pool:
        found = pool.imap(_digest, files, chunksize=16)
        bar = tqdm(found, total=len(files), desc="hashing", unit=" files", delay=1)
        return dict(zip(files, bar, strict=True))


def _digest(file: Location) -> str:
    try:
        if not isinstance(file, Path):
            return hashlib.blake2b(content_of(file), digest_size=8).hexdigest()
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError:
        return _UNREADABLE


def _texts_digest(item: Item) -> str:
    texts = json.dumps([item.split, item.group, item.category, item.captions])
    return hashlib.blake2b(texts.encode(), digest_size=8).hexdigest()


def read_sources(path: Path) -> list[Source]:
    """Reads a file of `building.write_json_lines`.

    Raises:
      OSError, ValueError, TypeError: it cannot be read.
    """
    return [Source(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def changes(before: Sequence[Source], items: Sequence[Item], root: Path) -> list[str]:
    """Phrases that describe how the files of a scan differ from the sources of records.

    Only files with a digest in `before` are read. Phrases name files relative to `root`.
    """
    then = {source.key: source for source in before}
    now = sources_of(items, {source.key for source in before if source.image})
    by_key = {item.key: item for item in items}

    def image(key: str) -> str:
        return path_of(by_key[key].image).relative_to(root).as_posix()

    def sketch(key: str) -> str:
        file = by_key[key].sketch
        if file is None:
            return f"that of {image(key)}"
        return path_of(file).relative_to(root).as_posix()

    def other(field: str) -> list[str]:
        both = ((source, then[source.key]) for source in now if source.key in then)
        return [one.key for one, two in both if getattr(one, field) != getattr(two, field)]

    found: list[tuple[str, list[str], Callable[[str], str]]] = [
        ("other image", other("image"), image),
        ("other sketch", other("sketch"), sketch),
        ("other captions or split", other("texts"), image),
        ("added", [key for key in by_key if key not in then], image),
        ("gone", [key for key in then if key not in by_key], str),
    ]
    return [
        f"{change}: {', '.join(map(name, keys[:_MOST_NAMED]))}"
        + (f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else "")
        for change, keys, name in found
        if keys
    ]
