"""Reads files of prompts: lines of text, rows of CSV, objects of JSONL."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ragaf_jax.errors import UserError

TABLES = (".csv", ".jsonl")
TEXTS = ("", ".txt")


def read_text(file: Path) -> str:
    """The unchanged text of a UTF-8 file, carriage returns included.

    Raises:
      UserError: the file cannot be read or is not UTF-8.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"The prompts {file} cannot be read: {error.strerror}.") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"The prompts {file} cannot be read: it is UTF-16; save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(
            f"The prompts {file} cannot be read: it is not UTF-8; save it as UTF-8."
        ) from None


def read_lines(file: Path) -> list[str]:
    """The lines of a text file. Unlike in `splitlines`, U+2028 and similar do not end a line.

    Raises:
      UserError: as `read_text`.
    """
    lines = read_text(file).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_records(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a table without empty cells, each with its place, such as "prompts.csv:3".

    Raises:
      UserError: as `read_text`, or the file is not a valid table.
    """
    records = _csv_records(file) if file.suffix.lower() == ".csv" else _json_records(file)
    for line, record in records:
        yield f"{file}:{line}", record


def _csv_records(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        header = reader.fieldnames or []
        if len(header) == 1 and (separator := next((x for x in ";\t" if x in header[0]), None)):
            raise UserError(f"{file} separates its columns by {separator!r}; save it with commas.")
        for record in reader:
            if None in record:
                raise UserError(
                    f"{file}:{reader.line_num} has more fields than the header; put texts with "
                    "commas in quotes."
                )
            yield reader.line_num, {name: text for name, text in record.items() if text}
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num + 1} is not CSV ({error}); fix it.") from None


def _json_records(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, row in enumerate(read_lines(file), 1):
        if not row.strip():
            continue
        try:
            record = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}:{line} is not JSON ({error}); fix it.") from None
        if not isinstance(record, dict):
            raise UserError(f"{file}:{line} is not a JSON object; write one object per line.")
        yield line, record
