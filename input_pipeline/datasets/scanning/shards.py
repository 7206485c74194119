"""Lists the shards of a dataset and the splits that their names state; completes their scan."""

import fnmatch
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from input_pipeline.datasets.scanning.containers import path_of
from input_pipeline.datasets.scanning.dataset_files import printable, walk
from input_pipeline.datasets.scanning.items import Item, Rejected, Scan, first_problem
from input_pipeline.datasets.scanning.splits import scan_with_splits
from ragaf_jax.errors import UserError

# Words of splits between delimiters, as in the file names of Hugging Face's datasets:
# "data/train-00000-of-00002.parquet", "cc3m-validation-0001.tar", "test/0.tar".
_SPLIT = re.compile(
    r"(?:^|[-_./ 0-9])(?:(?P<train>train|training)|(?P<validation>validation|valid|val|dev)"
    r"|(?P<test>test|testing|eval|evaluation))(?=$|[-_./ 0-9])",
    re.IGNORECASE,
)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_NAMES = 1_000_000  # of one pattern


class Shard(NamedTuple):
    """One file of many examples."""

    path: str  # relative to the root
    split: str  # "train", "validation" or "test"


def list_shards(
    root: Path, pattern: str, suffixes: tuple[str, ...]
) -> tuple[list[Shard], list[Rejected]]:
    """The shards below a root, sorted, and unusable files.

    Args:
      root: a result of `data_root`.
      pattern: selects shards by their paths below the root, with the braces of shells and
        WebDataset, such as "train-{000..127}.tar", and the wildcards * and ?; "": all.
      suffixes: extensions of shards, in lower case.

    Raises:
      UserError: there are none, or one that the pattern names is missing.
    """
    files, rejected = walk(root)
    found = sorted(path for path in files if path.lower().endswith(suffixes))
    if pattern:
        chosen: set[str] = set()
        for name in _expanded(pattern):
            matches = [name] if name in files else fnmatch.filter(found, name)
            if not matches:
                raise UserError(
                    f"--shards={pattern} names {printable(name)}, which is not in {root}; correct "
                    "it or complete the download."
                )
            chosen.update(matches)
        found = sorted(chosen)
    if not found:
        raise UserError(
            f"There are no files {' or '.join('*' + suffix for suffix in suffixes)} in {root}"
            f"{first_problem(rejected)}; name the folder that holds the shards."
        )
    # Two names of one file would repeat its examples, maybe in two splits.
    first: dict[str, str] = {}
    for path in found:
        if first.setdefault(files[path], path) != path:
            rejected.append(Rejected(path, f"is the same file as {first[files[path]]}"))
    found = list(first.values())
    splits = [_split_of(path) for path in found]
    if "train" not in splits:  # for example only the validation shards were downloaded
        splits = ["train"] * len(found)
    return [Shard(path, split) for path, split in zip(found, splits, strict=True)], rejected


def scan_of_shards(
    root: Path, items: list[Item], rejected: list[Rejected], shards: Sequence[Shard]
) -> Scan:
    """The scan of the items in shards. If any has a sketch, those without one are rejected.

    Raises:
      UserError: there are too few items.
    """
    sketched = [item for item in items if item.sketch is not None]
    if sketched:
        files = (path_of(item.image) for item in items if item.sketch is None)
        lines = (Rejected(file.relative_to(root).as_posix(), "has no sketch") for file in files)
        items, rejected = sketched, [*rejected, *lines]
    if not items:
        raise UserError(
            f"No example in the shards of {root} has an image and a caption"
            f"{first_problem(rejected)}; see docs/data.md for their layouts."
        )
    return scan_with_splits(root, items, rejected, {shard.split for shard in shards})


def _split_of(path: str) -> str:
    """The split that the last word of one names; "train" without any."""
    matches = list(_SPLIT.finditer(path))
    return str(matches[-1].lastgroup) if matches else "train"


def _expanded(pattern: str) -> Iterator[str]:
    """The names of a pattern with {a,b} and {000..127}."""
    parts = _BRACES.split(pattern)  # texts and contents of braces in turn
    choices = [_choices(part) if index % 2 else [part] for index, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST_NAMES:
        raise UserError(
            f"--shards={pattern} names {count} shards; at most {_MOST_NAMES} are allowed: use *."
        )
    return map("".join, itertools.product(*choices))


def _choices(content: str) -> list[str] | range:
    if match := _RANGE.fullmatch(content):
        first, last = int(match[1]), int(match[2])
        if last - first < _MOST_NAMES:
            return [f"{number:0{len(match[1])}d}" for number in range(first, last + 1)]
        return range(first, last + 1)  # too many, which the caller refuses
    return content.split(",")
