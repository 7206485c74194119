"""The result of a scan: usable images, and rejected files with reasons."""

from collections.abc import Sequence
from typing import NamedTuple

from input_pipeline.datasets.scanning.containers import Location


class Item(NamedTuple):
    """One example before its files are decoded; picklable."""

    key: str  # unique in its dataset, the same on every machine
    group: str  # the photo; all examples of a group are in one split
    split: str  # "train", "validation" or "test"
    image: Location  # the photo's file or its place in one
    sketch: Location | None  # the same for the sketch; None if it is made from the photo
    captions: tuple[str, ...]  # at least one, without duplicates; each is a `clean_caption`
    category: str = ""  # of the object, if known


class Rejected(NamedTuple):
    """One line of `rejected.jsonl`; "<file> <reason>" is a sentence without its full stop."""

    file: str  # relative to the dataset's root; for a row of a table, "metadata.jsonl:3"
    reason: str  # why it is unusable


def first_problem(rejected: Sequence[Rejected]) -> str:
    """A phrase for errors about too few examples; "" if nothing was rejected."""
    return f" (first problem: {' '.join(min(rejected))})" if rejected else ""


class Scan(NamedTuple):
    """The examples in a folder, independent of the order of the file system."""

    items: list[Item]  # sorted by key
    rejected: list[Rejected]  # sorted by file
    held: tuple[str, ...] = ()  # splits without an official list, taken from "train" by group
