"""The requests of a batch: a folder of sketches, and prompts in a file."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from ragaf_jax.errors import UserError, nearest
from ragaf_jax.images import unreadable
from ragaf_jax.sampling.command.prompt_files import (
    TABLES,
    TEXTS,
    read_lines,
    read_records,
    read_text,
)

FIELDS = ("sketch", "prompt", "negative_prompt", "regions", "seed", "name")


class Row(NamedTuple):
    """One image of a batch.

    Attributes:
      name: of its folder; no other row has it.
      sketch: a file.
      prompt: in words.
      negative_prompt: may be empty.
      region_prompts: words for some regions, by their numbers.
      seed: None: that of the command.
    """

    name: str
    sketch: Path
    prompt: str
    negative_prompt: str = ""
    region_prompts: Mapping[int, str] = {}
    seed: int | None = None


def read_rows(sketches: Path, prompts: Path | None) -> list[Row]:
    """The rows of a batch, in order.

    Args:
      sketches: a folder of images; see `sketch_files`.
      prompts: a .txt with a line for each of them in the order of their names, or one for all; a
        .csv with a header, or a .jsonl, of `FIELDS`, "sketch" relative to the folder and the others
        optional. None: beside each sketch lies a .txt of its name.

    Raises:
      UserError: no sketches, or a file of prompts that cannot be read. A row whose sketch is
        missing is no error here: reading the sketch fails.
    """
    if not sketches.is_dir():
        raise UserError(f"There is no folder {sketches}; give one of sketches.")
    suffix = "" if prompts is None else prompts.suffix.lower()
    if prompts is not None and suffix in TABLES:
        rows = [_row(where, record, sketches) for where, record in read_records(prompts)]
    elif suffix not in TEXTS:
        raise UserError(
            f"The prompts {prompts} are a {suffix} file; give a .txt with a line for each sketch, "
            "or a .csv or .jsonl with a row for each."
        )
    else:
        found, _ = sketch_files(sketches)
        if prompts is None:
            texts = [_prompt_beside(file) for file in found]
        else:
            texts = read_lines(prompts)
            texts = texts * len(found) if len(texts) == 1 else texts
            if len(texts) != len(found):
                raise UserError(
                    f"{prompts} has {len(texts)} lines and {sketches} {len(found)} sketches; write "
                    "a line for each, in the order of their names, or one for all."
                )
        rows = [Row(file.stem, file, text.strip()) for file, text in zip(found, texts, strict=True)]
    if not rows:
        raise UserError(f"There are no sketches in {sketches}; give a folder of PNG or JPEG files.")
    return _distinct(rows)


def sketch_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The images of a folder in the natural order of their names, in which 2.png precedes 10.png.

    Returns:
      The files, and why each of the others is none, by name; hidden files and texts are left out.
    """
    found, skipped = [], {}
    for file in folder.iterdir():
        if file.name.startswith(".") or file.suffix.lower() in (*TEXTS[1:], *TABLES):
            continue
        if file.is_dir():
            skipped[file.name] = "is a folder, and sketches in folders inside are not read"
        elif reason := unreadable(file.name):
            skipped[file.name] = reason
        else:
            found.append(file)
    return sorted(found, key=lambda file: natural(file.name)), dict(sorted(skipped.items()))


def _prompt_beside(sketch: Path) -> str:
    file = sketch.with_suffix(".txt")
    if not file.exists():
        raise UserError(
            f"The sketch {sketch.name} has no prompt beside it: {file} does not exist; write it, "
            "or give ragaf_jax.sample the prompts of all sketches by --prompts."
        )
    return read_text(file)


def natural(name: str) -> list[tuple[int, str]]:
    """A key for sorting names in which numbers count as numbers."""
    parts = re.split(r"([0-9]+)", unicodedata.normalize("NFC", name))
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]


def parse_regions(entries: Sequence[str]) -> dict[int, str]:
    """Phrases of regions from entries such as "3=red brick wall".

    Raises:
      UserError: an entry of another form, or two of one region.
    """
    found: dict[int, str] = {}
    for entry in entries:
        number, equals, phrase = entry.partition("=")
        if not equals or not number.strip().isdecimal():
            raise UserError(
                f"The region {entry!r} is not a number, = and words; write such as "
                '--region 3="red brick wall".'
            )
        if int(number) in found:
            raise UserError(f"Region {int(number)} is given words twice; say them once.")
        found[int(number)] = phrase.strip()
    return found


def parse_merges(entries: Sequence[str]) -> list[list[int]]:
    """Numbers of regions that become one from entries such as "2,7".

    Raises:
      UserError: an entry of another form.
    """
    groups = []
    for entry in entries:
        numbers = entry.split(",")
        if len(numbers) < 2 or not all(number.strip().isdecimal() for number in numbers):
            raise UserError(f"--merge is {entry!r}; write two numbers or more, such as 2,7.")
        groups.append([int(number) for number in numbers])
    return groups


def _row(where: str, record: Mapping[Any, Any], sketches: Path) -> Row:
    if unknown := [name for name in record if name not in FIELDS]:
        near = nearest(str(unknown[0]), FIELDS)
        meant = f"did you mean {near[0]!r}? The fields" if near else "the fields"
        raise UserError(f"{where} has a field {unknown[0]!r}; {meant} are {', '.join(FIELDS)}.")
    sketch, seed = record.get("sketch"), record.get("seed")
    if not isinstance(sketch, str) or not sketch:
        raise UserError(f"{where}: the sketch is {sketch!r}; name a file in {sketches}.")
    if seed is not None and not str(seed).isdecimal():
        raise UserError(f"{where}: the seed is {seed!r}; give a whole number, or none.")
    regions = record.get("regions", {})
    if isinstance(regions, str):  # of a CSV
        entries = [entry for entry in regions.split(";") if entry.strip()]
    elif isinstance(regions, Mapping):
        entries = [f"{number}={phrase}" for number, phrase in regions.items()]
    else:
        raise UserError(f'{where}: regions is {regions!r}; write such as {{"3": "red wall"}}.')
    name = str(record.get("name", PureWindowsPath(sketch).stem))
    if not name.strip(". ") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{where}: the name {name!r} is no name of a folder; choose another.")
    return Row(
        name,
        _file(sketches, sketch),
        str(record.get("prompt", "")),
        str(record.get("negative_prompt", "")),
        parse_regions(entries),
        None if seed is None else int(seed),
    )


def _file(folder: Path, name: str) -> Path:
    """A file of a folder, whose name may be written with other separators or Unicode forms."""
    if (folder / name).exists():
        return folder / name
    name = name.replace("\\", "/")
    parent, form = (folder / name).parent, unicodedata.normalize("NFC", Path(name).name)
    there = parent.iterdir() if parent.is_dir() else ()
    same = (file for file in there if unicodedata.normalize("NFC", file.name) == form)
    return next(same, folder / name)


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """The rows, a second one of a name renamed name-2, and so on."""
    taken = {row.name for row in rows}
    seen: set[str] = set()
    found = []
    for row in rows:
        name, number = row.name, 2
        while name in seen or (name != row.name and name in taken):
            name, number = f"{row.name}-{number}", number + 1
        seen.add(name)
        found.append(row._replace(name=name))
    return found
