"""Reads caption tables: metadata.jsonl, metadata.csv, captions.csv, ControlNet's prompt.json."""

import csv
import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from input_pipeline.datasets.scanning.dataset_files import printable

TABLES = ("metadata.jsonl", "metadata.csv", "captions.csv", "prompt.json")
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
CAPTION_COLUMNS = ("text", "caption", "prompt")
# The columns of images, each with those of their sketches. "source" and "target" are ControlNet's
# (https://github.com/lllyasviel/ControlNet, docs/train.md); beside file_name, "source" often is an
# address.
_COLUMNS = {
    "file_name": ("conditioning_image", "conditioning_image_file_name"),
    "target": ("source",),
}


class Row(NamedTuple):
    """One row of a table."""

    where: str  # the table and the line, for example "train/metadata.jsonl:3"
    file: str = ""  # the image's path relative to the table's folder, "" if there is none
    sketch: str = ""  # the same for the sketch
    captions: tuple[str, ...] = ()  # of the image; none if the row has a problem
    problem: str = ""  # why the row cannot be used, "" if it can


def read_table(root: Path, path: str) -> Iterator[Row]:
    """The rows of one table, without blank lines; `path` is relative to the dataset's root."""
    with (root / path).open("rb") as raw:
        if raw.read(2) in UTF16:
            yield Row(printable(path), problem="is UTF-16; save it as UTF-8")
            return
    # Bytes that are not UTF-8 make only their own row unusable.
    with (root / path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = _csv_rows(file) if path.endswith(".csv") else _json_rows(file)
        for line, record in rows:
            where = f"{printable(path)}:{line}"
            yield Row(where, problem=record) if isinstance(record, str) else _row(where, record)


def _json_rows(file: TextIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows of JSON lines, by line, or of one list of objects, by their number in it."""
    start = file.tell()
    first = next((text.lstrip() for text in file if text.strip()), "")
    file.seek(start)
    if first.startswith("["):
        try:
            records = json.load(file)
        except (ValueError, RecursionError) as error:
            yield 1, f"is not JSON ({error})"
            return
        for number, record in enumerate(records, start=1):
            yield number, record if isinstance(record, dict) else "is not a JSON object"
        return
    for line, text in enumerate(iter(file.readline, ""), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield line, f"is not JSON ({error})"
            continue
        yield line, record if isinstance(record, dict) else "is not a JSON object"


def _csv_rows(file: Iterator[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(file)
    try:
        header = [name.strip() for name in next(reader, [])]
        if problem := _header_problem(header):
            yield 1, problem
            return
        for fields in reader:
            if not fields:
                continue
            if len(fields) == len(header):
                yield reader.line_num, dict(zip(header, fields, strict=True))
            else:
                reason = f"has {len(fields)} fields and the header {len(header)}; quote its commas"
                yield reader.line_num, reason
    except csv.Error as error:
        yield reader.line_num, f"is not CSV ({error}); the rest of the table is ignored"


def _header_problem(header: list[str]) -> str:
    """Why the columns of a table cannot be used, "" if they can."""
    if len(header) == 1 and (separator := next((x for x in ";\t" if x in header[0]), None)):
        return f"has {separator!r} between its columns; save it with commas"
    columns = ("file_name",) if "target" not in header else ("target",)
    for names in (columns, CAPTION_COLUMNS):
        if not set(names) & set(header):
            listed = ", ".join(map(printable, header)) or "empty"
            return f"has no column {' or '.join(names)} in its header ({listed}); rename one"
    return ""


def _row(where: str, record: dict[str, Any]) -> Row:
    image_column = next((name for name in _COLUMNS if record.get(name)), "file_name")
    file = record.get(image_column)
    if not isinstance(file, str) or not file:
        return Row(where, problem=f"has no {image_column}")
    if problem := _path_problem(file):
        return Row(where, problem=f"has a {image_column} that {problem}")
    names = _COLUMNS[image_column]
    sketch = next((record[name] for name in names if record.get(name)), "")
    if not isinstance(sketch, str):
        return Row(where, file, problem=f"has a {names[0]} that is not the name of a file")
    if problem := _path_problem(sketch):
        return Row(where, file, problem=f"has a {names[0]} that {problem}")

    column = next((name for name in CAPTION_COLUMNS if name in record), None)
    if column is None:
        return Row(where, file, sketch, problem=f"has no {' or '.join(CAPTION_COLUMNS)}")
    value = record[column]
    try:
        texts = [clean_caption(text) for text in (value if isinstance(value, list) else [value])]
    except ValueError as error:
        return Row(where, file, sketch, problem=f"has a caption that {error}")
    texts = [text for text in dict.fromkeys(texts) if text]
    return Row(where, file, sketch, tuple(texts), "" if texts else "has an empty caption")


def _path_problem(name: str) -> str:
    if "\0" in name:
        return "holds a NUL byte"
    if "\\" in name:
        return "has \\ between its folders instead of /"
    if posixpath.isabs(name):
        return "is not relative to the table's folder"
    return ""


def clean_caption(text: object) -> str:
    """A caption with each run of white space as one space; may be empty.

    Raises:
      ValueError: it cannot be a caption; the message continues "its caption".
    """
    if not isinstance(text, str):
        raise ValueError(f"is of type {type(text).__name__}, not text")
    if "\0" in text:
        raise ValueError("holds a NUL byte")
    try:
        text.encode()
    except UnicodeEncodeError:
        # `surrogateescape` reads invalid bytes as lone surrogates; JSON can contain these too.
        raise ValueError("is not UTF-8") from None
    return " ".join(text.split())
