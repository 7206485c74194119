"""What a batch of drawings is to become: a folder of sketches, and prompts in a file."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ragaf_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FIELDS = ("sketch", "prompt", "negative_prompt", "regions", "seed", "name")


class Row(NamedTuple):
    """One picture of a batch.

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
      sketches: a folder of pictures.
      prompts: a text file with a line for each of them in the order of their names, or one for all;
        a .csv with a header, or a .jsonl, of `FIELDS`, "sketch" relative to the folder and the
        others optional. None: beside each sketch lies a .txt of its name.

    Raises:
      UserError: no sketches, or a file that does not say what is asked.
    """
    if not sketches.is_dir():
        raise UserError(f"There is no folder {sketches}; give one of sketches.")
    suffix = "" if prompts is None else prompts.suffix.lower()
    if prompts is not None and suffix in (".csv", ".jsonl"):
        rows = [_row(where, record, sketches) for where, record in _records(prompts)]
    else:
        found = sorted(file for file in sketches.iterdir() if file.suffix.lower() in SUFFIXES)
        if prompts is None:
            texts = [_text(file.with_suffix(".txt")) for file in found]
        else:
            texts = _text(prompts).splitlines()
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


def _records(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = _text(file)
    if file.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines())
        for record in reader:
            yield f"{file}:{reader.line_num}", {k: v for k, v in record.items() if v}
        return
    for line, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        try:
            record = json.loads(row)
        except ValueError as error:
            raise UserError(f"{file}:{line} is not JSON ({error}); mend it.") from None
        if not isinstance(record, dict):
            raise UserError(f"{file}:{line} is not a JSON object; write one of {FIELDS}.")
        yield f"{file}:{line}", record


def _row(where: str, record: Mapping[Any, Any], sketches: Path) -> Row:
    if unknown := [name for name in record if name not in FIELDS]:
        raise UserError(f"{where} has a field {unknown[0]!r}; the fields are {', '.join(FIELDS)}.")
    sketch, seed = record.get("sketch"), record.get("seed")
    if not isinstance(sketch, str) or not (sketches / sketch).is_file():
        raise UserError(f"{where}: the sketch {sketch!r} is not in {sketches}; name a file there.")
    if seed is not None and not str(seed).isdecimal():
        raise UserError(f"{where}: the seed is {seed!r}; give a whole number, or none.")
    regions = record.get("regions", {})
    if isinstance(regions, str):  # of a CSV
        entries = [entry for entry in regions.split(";") if entry.strip()]
    elif isinstance(regions, Mapping):
        entries = [f"{number}={phrase}" for number, phrase in regions.items()]
    else:
        raise UserError(f'{where}: regions is {regions!r}; write such as {{"3": "red wall"}}.')
    name = str(record.get("name", Path(sketch).stem))
    if not name.strip(". ") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{where}: the name {name!r} is no name of a folder; choose another.")
    return Row(
        name,
        sketches / sketch,
        str(record.get("prompt", "")),
        str(record.get("negative_prompt", "")),
        parse_regions(entries),
        None if seed is None else int(seed),
    )


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


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"The prompts {file} cannot be read: {reason}.") from None
