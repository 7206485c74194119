"""Quick, Draw! (Ha and Eck 2017, "A Neural Representation of Sketch Drawings") as ndjson.

    full_simplified_cat.ndjson    {"word": "cat", "key_id": "…", "drawing": [[[x, …], [y, …]], …]}

Files of strokes in both forms, simplified and raw. The dataset has no photographs: the image is the
drawing itself, so a model learns to draw it from its own lines and word. Drawings that the game did
not recognise are left out.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from input_pipeline.datasets.scanning.caption_tables import clean_caption
from input_pipeline.datasets.scanning.containers import Strokes
from input_pipeline.datasets.scanning.dataset_files import data_root
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan
from input_pipeline.datasets.scanning.shards import Shard, list_shards, scan_of_shards
from input_pipeline.datasets.sketchy import noun_phrase

_TEMPLATES = ("A sketch of {}", "A line drawing of {}", "A doodle of {}")
_MOST_BYTES = 1_000_000  # of a line; raw drawings have some ten thousand


def scan(root: Path, shards: str = "") -> Scan:
    """Finds every recognised drawing.

    Args:
      root: the folder with the .ndjson files, at any depth.
      shards: selects files; see `list_shards`.

    Returns:
      One item per drawing, whose image and sketch are the drawing. Its key and group are its word
      and `key_id`.

    Raises:
      UserError: there are no files, or too few drawings.
    """
    root = data_root(root)
    found, rejected = list_shards(root, shards, (".ndjson",))
    items: dict[str, Item] = {}
    for shard in tqdm(found, desc="scanning", unit=" files", delay=1):
        try:
            for item in _drawings(root, shard, rejected):
                if items.setdefault(item.key, item) is not item:
                    file = f"{shard.path}:{item.image.line}"  # type: ignore[union-attr]
                    rejected.append(Rejected(file, "has the word and key_id of an earlier line"))
        except OSError as error:
            rejected.append(Rejected(shard.path, f"cannot be read ({error.strerror})"))
    return scan_of_shards(root, list(items.values()), rejected, found)


def _drawings(root: Path, shard: Shard, rejected: list[Rejected]) -> Iterator[Item]:
    offset = 0
    with (root / shard.path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            place, offset = (
                Strokes(root / shard.path, number, offset, len(line)),
                offset + len(line),
            )
            if not line.strip():
                continue
            try:
                word, key = _word_and_key(line)
            except ValueError as error:
                rejected.append(Rejected(f"{shard.path}:{number}", str(error)))
                continue
            if word:
                name = f"{word}/{key}"
                captions = tuple(template.format(noun_phrase(word)) for template in _TEMPLATES)
                yield Item(name, name, shard.split, place, place, captions, word)


def _word_and_key(line: bytes) -> tuple[str, str]:
    """Word and key of a line; empty for a drawing that was not recognised.

    Raises:
      ValueError: it has none; the message continues "the line".
    """
    if len(line) > _MOST_BYTES:
        raise ValueError(f"is longer than {_MOST_BYTES:,} bytes")
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error})") from None
    match content:
        case {"word": str(word), "key_id": str() | int() as key, "drawing": list()}:
            if content.get("recognized") is False:
                return "", ""
            if word := clean_caption(word):
                return word, clean_caption(str(key))
    raise ValueError("has no word, key_id and drawing; the .bin and .npy files are not read")
