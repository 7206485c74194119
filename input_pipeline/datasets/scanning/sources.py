"""Digests of the files that records were made from: they detect files that were replaced.

Contents are hashed in full. Neither size nor time would do: `cp -p`, `rsync` and archives restore
times, a mere copy of the data changes them, and uncompressed images of one size have one length.
Hashing reads about 1 GB/s where the disk does, far faster than records are made.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from tqdm import tqdm

from input_pipeline.datasets.scanning.items import Item

_NAMED = 3  # examples that a sentence names
_UNREADABLE = "unreadable"


@dataclasses.dataclass(frozen=True, order=True)
class Source:
    """What one example is made of; a line of `sources.jsonl`.

    Attributes:
      key: of the example.
      texts: digest of its split as the scan has it, group, category and captions.
      image: digest of the image's file; "" where --limit left it out, and it was not read.
      sketch: the same of the sketch; "" too where the sketch is made from the image.
    """

    key: str
    texts: str
    image: str
    sketch: str


def sources_of(items: Iterable[Item], read: Collection[str]) -> list[Source]:
    """The source of each item, in their order.

    Args:
      items: of a scan.
      read: keys of the items whose files are read.
    """
    items = list(items)
    chosen = [item for item in items if item.key in read]
    files = {file for item in chosen for file in (item.image, item.sketch) if file is not None}
    digests = {None: ""} | _digests(sorted(files))
    return [
        Source(
            item.key,
            _texts_digest(item),
            *((digests[item.image], digests[item.sketch]) if item.key in read else ("", "")),
        )
        for item in items
    ]


def _digests(files: Sequence[Path]) -> dict[Path | None, str]:
    # Threads: reading and hashing both let go of Python's lock.
    with ThreadPool(len(os.sched_getaffinity(0))) as pool:
        found = pool.imap(_digest, files, chunksize=16)
        bar = tqdm(found, total=len(files), desc="hashing", unit=" files", delay=1)
        return dict(zip(files, bar, strict=True))


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError:
        return _UNREADABLE


def _texts_digest(item: Item) -> str:
    texts = json.dumps([item.split, item.group, item.category, item.captions])
    return hashlib.blake2b(texts.encode(), digest_size=8).hexdigest()


def write_sources(path: Path, sources: Iterable[Source]) -> None:
    """A line of JSON each."""
    lines = (json.dumps(dataclasses.asdict(source)) for source in sources)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_sources(path: Path) -> list[Source]:
    """What `write_sources` wrote.

    Raises:
      OSError, ValueError, TypeError: it cannot be read.
    """
    return [Source(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def changes(before: Sequence[Source], items: Sequence[Item], root: Path) -> list[str]:
    """How the files of a scan differ from those that records were made of, as phrases.

    Args:
      before: of the records.
      items: of the scan; only files that `before` has digests of are read.
      root: of the scan; the phrases name files from here.
    """
    then = {source.key: source for source in before}
    now = sources_of(items, {source.key for source in before if source.image})
    by_key = {item.key: item for item in items}

    def image(key: str) -> str:
        return by_key[key].image.relative_to(root).as_posix()

    def sketch(key: str) -> str:
        file = by_key[key].sketch
        return f"that of {image(key)}" if file is None else file.relative_to(root).as_posix()

    def other(field: str) -> list[str]:
        return [
            source.key
            for source in now
            if source.key in then and getattr(source, field) != getattr(then[source.key], field)
        ]

    found: list[tuple[str, list[str], Callable[[str], str]]] = [
        ("other image", other("image"), image),
        ("other sketch", other("sketch"), sketch),
        ("other captions or split", other("texts"), image),
        ("added", [key for key in by_key if key not in then], image),
        ("gone", [key for key in then if key not in by_key], str),
    ]
    return [
        f"{what}: {', '.join(map(name, keys[:_NAMED]))}{_more(len(keys))}"
        for what, keys, name in found
        if keys
    ]


def _more(count: int) -> str:
    return f" and {count - _NAMED} more" if count > _NAMED else ""
