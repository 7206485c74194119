"""Parquet and Arrow files with images, as Hugging Face's datasets have them.

    data/train-00000-of-00002.parquet    columns image, text; conditioning_image for sketches
    train/data-00000-of-00001.arrow      the same by `Dataset.save_to_disk`

Images are binary, or structs with `bytes`, as of Hugging Face's Image feature. Only captions are
read in the scan.
"""

import difflib
import json
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from input_pipeline.datasets.scanning.caption_tables import CAPTION_COLUMNS, clean_caption
from input_pipeline.datasets.scanning.containers import Cell
from input_pipeline.datasets.scanning.dataset_files import data_root, printable, stem
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan
from input_pipeline.datasets.scanning.shards import Shard, list_shards, scan_of_shards
from input_pipeline.datasets.sketchy import captions_of

if TYPE_CHECKING:  # a slow import that other datasets do not need
    import pyarrow as pa

# The names of columns; the first that a file has is read.
_IMAGES = ("image", "image_file", "target", "jpg", "png", "webp", "img")
_SKETCHES = ("conditioning_image", "source", "sketch", "control_image", "conditioning")
_CAPTIONS = (*CAPTION_COLUMNS, "captions")
_CATEGORIES = ("label", "category", "class")
# Rows of one image have the same value: they are in one split.
_GROUPS = ("image_id",)
_ROWS = 1024  # captions that are read at once


def scan(root: Path, shards: str = "") -> Scan:
    """Finds every row with a caption.

    Args:
      root: the folder with the files, at any depth.
      shards: selects files; see `list_shards`.

    Returns:
      One item per row. Its key is the file's path without the extension, and the number of the row,
      from 0. Its group is its key, or the split and its `image_id`.

    Raises:
      UserError: there are no files, or too few usable rows.
    """
    root = data_root(root)
    found, rejected = list_shards(root, shards, (".parquet", ".arrow"))
    # `datasets.map` leaves its results beside the files of `save_to_disk`.
    found = [shard for shard in found if not posixpath.basename(shard.path).startswith("cache-")]
    items: list[Item] = []
    for shard in tqdm(found, desc="scanning", unit=" shards", delay=1):
        try:
            for made in _rows(root, shard):
                if isinstance(made, Item):
                    items.append(made)
                else:
                    rejected.append(made)
        # PyArrow's exceptions are subclasses of these.
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            reason = " ".join(str(error).replace(f"{root}/", "").split())[:300]
            rejected.append(Rejected(shard.path, f"cannot be read ({reason}); download it again"))
    return scan_of_shards(root, items, rejected, found)


class _Columns(NamedTuple):
    image: str  # "image" or "image.bytes"
    sketch: str  # the same; "" if there is none
    texts: tuple[str, ...]  # captions, category and group, those that exist


def _rows(root: Path, shard: Shard) -> Iterator[Item | Rejected]:
    """The item of each row, or why the row or the file cannot be used."""
    from input_pipeline.datasets.scanning import arrow_files

    file = root / shard.path
    schema = arrow_files.schema_of(file)
    columns = _columns(schema)
    if isinstance(columns, str):
        yield Rejected(shard.path, columns)
        return
    names = _class_names(schema)
    for start, batch in arrow_files.batches(file, columns.texts, _ROWS):
        texts = batch.select([name for name in columns.texts if name in batch.schema.names])
        for row, record in enumerate(texts.to_pylist(), start):
            captions, category, problem = _texts_of(record, names)
            if problem:
                yield Rejected(f"{shard.path}:{row + 1}", problem)
                continue
            key = f"{stem(shard.path)}/{row:09d}"
            group = next(
                (f"{shard.split}/{record[name]}" for name in _GROUPS if _is(record, name)), key
            )
            sketch = Cell(file, row, columns.sketch) if columns.sketch else None
            image = Cell(file, row, columns.image)
            yield Item(key, group, shard.split, image, sketch, captions, category)


def _is(record: dict[str, Any], name: str) -> bool:
    return record.get(name) is not None


def _columns(schema: "pa.Schema") -> _Columns | str:
    """The columns of a file, or why it cannot be used."""
    leaves = {
        name: _image_leaf(name, schema.field(name).type) for name in dict.fromkeys(schema.names)
    }
    image = next((name for name in _IMAGES if leaves.get(name)), None)
    if image is None:
        return _without("images", _IMAGES, schema, " of binary or struct<bytes, path>")
    sketch = next((name for name in _SKETCHES if leaves.get(name)), "")
    captions = [name for name in _CAPTIONS if name in leaves][:1]
    categories = [name for name in _CATEGORIES if name in leaves][:1]
    if not captions and not categories:
        return _without("captions", _CAPTIONS, schema, "")
    groups = [name for name in _GROUPS if name in leaves]
    texts = (*captions, *categories, *groups)
    return _Columns(leaves[image], leaves[sketch] if sketch else "", texts)


def _image_leaf(name: str, kind: "pa.DataType") -> str:
    """The column of an image's bytes; "" if the type is not that of an image."""
    import pyarrow.types as types

    def binary(kind: "pa.DataType") -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{name}.bytes" if binary(kind.field("bytes").type) else ""
    return name if binary(kind) else ""


def _without(what: str, names: Sequence[str], schema: "pa.Schema", kind: str) -> str:
    listed = ", ".join(f"{printable(field.name)}: {field.type}" for field in schema)[:200]
    near = [found for name in schema.names for found in [_near(name, names)] if found]
    advice = f"; rename {near[0][0]} to {near[0][1]}" if near else f"; name one {names[0]}"
    return f"has no column of {what}{kind} among {', '.join(names)} ({listed}){advice}"


def _near(name: str, names: Sequence[str]) -> tuple[str, str] | None:
    """A column and the known name that it resembles, unless it has that name."""
    found = difflib.get_close_matches(name.lower(), names, n=1)
    return (printable(name), found[0]) if found and found[0] != name else None


def _texts_of(
    record: dict[str, Any], names: dict[str, list[str]]
) -> tuple[tuple[str, ...], str, str]:
    """Captions and category of a row, and why it cannot be used."""
    value: Any = next((record[name] for name in _CAPTIONS if _is(record, name)), [])
    name = next((name for name in _CATEGORIES if _is(record, name)), "")
    try:
        texts = [clean_caption(text) for text in (value if isinstance(value, list) else [value])]
        category = _category(record[name], names.get(name, [])) if name else ""
    except ValueError as error:
        return (), "", f"has a caption that {error}"
    captions = tuple(text for text in dict.fromkeys(texts) if text)
    if category and not captions:
        captions = captions_of(category)
    return captions, category, "" if captions else "has no caption"


def _category(value: Any, names: list[str]) -> str:
    """The name of a class; "" for a number without a name."""
    if isinstance(value, int):
        return clean_caption(names[value]) if 0 <= value < len(names) else ""
    return clean_caption(value)


def _class_names(schema: "pa.Schema") -> dict[str, list[str]]:
    """The names of Hugging Face's ClassLabel features."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
