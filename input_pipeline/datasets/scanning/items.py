"""The result of a scan: usable images, and rejected files with reasons."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Item(NamedTuple):
    """One example before anything of it is decoded; small and picklable.

    Attributes:
      key: unique in its data set, the same on every machine.
      group: what must lie in one split as a whole: the photo.
      split: "train", "validation" or "test".
      image: the photo's file.
      sketch: the drawing's file; None where the sketch is to be made from the photo.
      captions: at least one; stripped, one line each, none twice.
      category: what is shown; "" where nobody says so.
    """

    key: str
    group: str
    split: str
    image: Path
    sketch: Path | None
    captions: tuple[str, ...]
    category: str


class Rejected(NamedTuple):
    """One line of `rejected.jsonl`.

    Attributes:
      file: relative to the data set's root; a row of a table is "metadata.jsonl:3".
      reason: what is wrong with it, so that "<file> <reason>" is a sentence without its full stop.
    """

    file: str
    reason: str


def first_problem(rejected: Sequence[Rejected]) -> str:
    """What to add to a sentence about too little that is left; nothing if nothing was rejected."""
    return f" (first problem: {' '.join(min(rejected))})" if rejected else ""


class Scan(NamedTuple):
    """Everything in a folder, whatever order the file system lists it in.

    Attributes:
      items: in the order of their keys.
      rejected: in the order of their files.
      held: the splits that no official list makes: they are cut from "train", group by group.
    """

    items: list[Item]
    rejected: list[Rejected]
    held: tuple[str, ...] = ()
