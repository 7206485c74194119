"""The requests of a batch: a folder of sketches and their prompts."""

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
from ragaf_jax.sampling.lora.settings import Lora, parse_loras
from ragaf_jax.sampling.micro_conditioning import SETTINGS, checked_sizes

FIELDS = (
    *("sketch", "prompt", "negative_prompt", "regions", "seed", "name", "width", "height"),
    *("control_images", "loras", "negative_regions", *SETTINGS),
)
_DECIMAL = re.compile(r"\d{1,40}")  # int() raises an error for thousands of digits


class BatchRequest(NamedTuple):
    """One image of a batch.

    Attributes:
      name: of its output folder; unique in the batch.
      sketch: an image file.
      prompt, negative_prompt: may be empty.
      region_prompts, region_negative_prompts: by region number.
      seed: None selects the seed of the command.
      width, height: of the image, px; None selects those of the command.
      loras: None selects those of the command.
      control_images: files for the ControlNets, in their order; None and missing ones: the sketch.
      sizes: those of `micro_conditioning.SETTINGS` that replace the command's.
    """

    name: str
    sketch: Path
    prompt: str
    negative_prompt: str = ""
    region_prompts: Mapping[int, str] = {}
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    loras: tuple[Lora, ...] | None = None
    control_images: tuple[Path | None, ...] = ()
    region_negative_prompts: Mapping[int, str] = {}
    sizes: Mapping[str, str] = {}


def read_requests(sketches: Path, prompts: Path | None) -> list[BatchRequest]:
    """The requests of a batch, in order.

    Args:
      sketches: a folder of images; see `sketch_files`.
      prompts: one of
        - .txt: one line for all sketches, or a line for each in the order of their names;
        - .csv with a header, or .jsonl: the columns `FIELDS`. "sketch" and "control_images" are
          relative to the folder of sketches, "loras" to that of the table. All but "sketch" may be
          left out, empty or null.
        - None: a .txt beside each sketch.

    Raises:
      UserError: no sketches, or prompts that cannot be read. A missing sketch raises no error
        here, but when the sketch is read.
    """
    if not sketches.is_dir():
        raise UserError(f"There is no folder {sketches}; give a folder of sketches.")
    suffix = "" if prompts is None else prompts.suffix.lower()
    if prompts is not None and suffix in TABLES:
        folders = sketches, prompts.parent
        requests = [_request(where, record, *folders) for where, record in read_records(prompts)]
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
        pairs = zip(found, texts, strict=True)
        requests = [BatchRequest(file.stem, file, text.strip()) for file, text in pairs]
    if not requests:
        raise UserError(f"There are no sketches in {sketches}; give a folder of PNG or JPEG files.")
    return _with_unique_names(requests)


def sketch_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The images of a folder in the natural order of their names: 2.png precedes 10.png.

    Returns:
      The images, and the reason why each other file is skipped, by name. Hidden files and files of
      prompts are ignored.
    """
    found, skipped = [], {}
    for file in folder.iterdir():
        if file.name.startswith(".") or file.suffix.lower() in (*TEXTS[1:], *TABLES):
            continue
        if file.is_dir():
            skipped[file.name] = "is a folder, and subfolders are not searched"
        elif reason := unreadable(file.name):
            skipped[file.name] = reason
        else:
            found.append(file)
    return sorted(found, key=lambda file: natural(file.name)), dict(sorted(skipped.items()))


def _prompt_beside(sketch: Path) -> str:
    file = sketch.with_suffix(".txt")
    if not file.exists():
        raise UserError(
            f"The sketch {sketch.name} has no prompt: {file} does not exist; create it, or give "
            "the prompts of all sketches to ragaf_jax.sample by --prompts."
        )
    return read_text(file)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that compares numbers in names by their values."""
    parts = re.split(r"([0-9]+)", unicodedata.normalize("NFC", name))
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]


def parse_regions(entries: Sequence[str], flag: str = "region") -> dict[int, str]:
    """Region prompts by region number, from entries of `flag` such as "3=red brick wall".

    Raises:
      UserError: an entry of another form, or two entries for one region.
    """
    found: dict[int, str] = {}
    kind = f"{flag.replace('_', ' ')} prompt"
    for entry in entries:
        number, equals, text = entry.partition("=")
        if not equals or not _DECIMAL.fullmatch(number.strip()):
            raise UserError(
                f"The {kind} {entry!r} is not <number>=<text>; write it like "
                f'--{flag} 3="red brick wall".'
            )
        if int(number) in found:
            raise UserError(f"Region {int(number)} has two {kind}s; give one.")
        found[int(number)] = text.strip()
    return found


def parse_merges(entries: Sequence[str]) -> list[list[int]]:
    """Groups of regions to merge, from entries such as "2,7".

    Raises:
      UserError: an entry of another form.
    """
    groups = []
    for entry in entries:
        numbers = entry.split(",")
        if len(numbers) < 2 or not all(_DECIMAL.fullmatch(number.strip()) for number in numbers):
            raise UserError(f"--merge is {entry!r}; give two or more numbers, such as 2,7.")
        groups.append([int(number) for number in numbers])
    return groups


def _request(where: str, record: Mapping[Any, Any], sketches: Path, folder: Path) -> BatchRequest:
    """A row; `folder` is that of the table."""
    if unknown := [name for name in record if name not in FIELDS]:
        near = nearest(str(unknown[0]), FIELDS)
        meant = f"did you mean {near[0]!r}? The fields" if near else "the fields"
        raise UserError(f"{where} has a field {unknown[0]!r}; {meant} are {', '.join(FIELDS)}.")
    record = {name: value for name, value in record.items() if value is not None}
    sketch = record.get("sketch")
    if not isinstance(sketch, str) or not sketch:
        raise UserError(f"{where}: the sketch is {sketch!r}; name a file in {sketches}.")
    for text in ("prompt", "negative_prompt"):
        if not isinstance(record.get(text, ""), str):
            raise UserError(f"{where}: the {text} is {record[text]!r}; give a text.")
    name = str(record.get("name", PureWindowsPath(sketch).stem))
    if not name.strip(". ") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{where}: the name {name!r} cannot name a folder; choose another name.")
    return BatchRequest(
        name,
        _file(sketches, sketch),
        record.get("prompt", ""),
        record.get("negative_prompt", ""),
        _regions(where, "regions", record.get("regions", {})),
        _whole(where, "seed", record),
        _whole(where, "width", record),
        _whole(where, "height", record),
        _loras(where, record["loras"], folder) if "loras" in record else None,
        _control_images(where, record.get("control_images", ()), sketches),
        _regions(where, "negative_regions", record.get("negative_regions", {})),
        _sizes(where, record),
    )


def _regions(where: str, name: str, regions: Any) -> dict[int, str]:
    flag = name.removesuffix("s")
    if isinstance(regions, str):  # from a CSV
        return parse_regions([entry for entry in regions.split(";") if entry.strip()], flag)
    if isinstance(regions, Mapping) and all(isinstance(x, str) for x in regions.values()):
        return parse_regions([f"{number}={text}" for number, text in regions.items()], flag)
    raise UserError(f'{where}: {name} is {regions!r}; write it like {{"3": "red wall"}}.')


def _whole(where: str, name: str, record: Mapping[str, Any]) -> int | None:
    """A field of a row with a whole number, whose limits are checked later."""
    if name not in record:
        return None
    if _DECIMAL.fullmatch(str(record[name])):
        return int(record[name])
    raise UserError(
        f"{where}: the {name} is {record[name]!r}; give a whole number ≥ 0, or leave it out."
    )


def _sizes(where: str, record: Mapping[str, Any]) -> dict[str, str]:
    """The sizes of a row; an empty one is the image's."""
    try:
        checked_sizes(record)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return {name: record[name] for name in SETTINGS if name in record}


def _loras(where: str, entries: Any, folder: Path) -> tuple[Lora, ...]:
    if isinstance(entries, str):  # from a CSV
        entries = [entry.strip() for entry in entries.split(";") if entry.strip()]
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UserError(f'{where}: loras is {entries!r}; write it like ["style.safetensors=0.8"].')
    return parse_loras(entries, folder)


def _control_images(where: str, names: Any, sketches: Path) -> tuple[Path | None, ...]:
    """The files of a list, or of a text from a CSV; empty names select the sketch."""
    listed = names.split(";") if isinstance(names, str) else names
    if not isinstance(listed, Sequence) or not all(isinstance(x, str | None) for x in listed):
        raise UserError(
            f'{where}: control_images is {names!r}; write it like ["edges.png", ""], or '
            "edges.png;depth.png in a CSV."
        )
    stripped = [(name or "").strip() for name in listed]
    return tuple(_file(sketches, name) if name else None for name in stripped)


def _file(folder: Path, name: str) -> Path:
    """A file of a folder; its name may have other separators or another Unicode form."""
    if (folder / name).exists():
        return folder / name
    name = name.replace("\\", "/")
    parent, form = (folder / name).parent, unicodedata.normalize("NFC", Path(name).name)
    there = parent.iterdir() if parent.is_dir() else ()
    same = (file for file in there if unicodedata.normalize("NFC", file.name) == form)
    return next(same, folder / name)


def _with_unique_names(requests: Sequence[BatchRequest]) -> list[BatchRequest]:
    """The requests; the second of a name is renamed to <name>-2, and so on."""
    taken = {request.name for request in requests}
    seen: set[str] = set()
    found = []
    for request in requests:
        name, number = request.name, 2
        while name in seen or (name != request.name and name in taken):
            name, number = f"{request.name}-{number}", number + 1
        seen.add(name)
        found.append(request._replace(name=name))
    return found
