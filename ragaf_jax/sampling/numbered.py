"""Regions by the numbers that users see, and users' edits of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer, UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.graph.measure import measure_regions
from ragaf_jax.graph.regions import Regions


class NumberedRegions(NamedTuple):
    """A partition of the page whose regions have names.

    Attributes:
      regions: the partition.
      numbers: of each region, its number in figures, options and files. Without changes
        these are its ids.
    """

    regions: Regions
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, regions: Regions) -> "NumberedRegions":
        """The regions under their ids."""
        return cls(regions, tuple(range(regions.n)))

    def id_of(self, number: int) -> int:
        """The id of the region of a number.

        Raises:
          UserError: there is none.
        """
        if number not in self.numbers:
            known = ", ".join(map(str, sorted(self.numbers)))
            raise UserError(
                f"There is no region {number}; this drawing's regions are {known}: look at "
                "regions.png, which --regions-only writes."
            )
        return self.numbers.index(number)


def check_not_merged(numbers: Collection[int], groups: Sequence[Sequence[int]]) -> None:
    """Refuses region prompts for numbers that regions lose when they are merged.

    Args:
      numbers: of the regions that have a prompt.
      groups: as in `merged`.

    Raises:
      UserError: the first such number.
    """
    for group in groups:
        for number in sorted({*group} & {*numbers}):
            if number != min(group):
                raise UserError(
                    f"Region {number} is part of region {min(group)} after --merge; give that one "
                    f"the region prompt: --region {min(group)}=…"
                )


def merged(numbered: NumberedRegions, groups: Sequence[Sequence[int]]) -> NumberedRegions:
    """Each group as one region, under the smallest of its numbers; all others keep theirs.

    Raises:
      UserError: a number that no region has, or that is in two groups.
    """
    named = [number for group in groups for number in group]
    if twice := sorted({number for number in named if named.count(number) > 1}):
        raise UserError(
            f"Region {twice[0]} is to be merged twice; write the numbers of regions that become "
            "one in a single list, such as 2,7,9."
        )
    target = {number: number for number in numbered.numbers}
    for group in groups:
        for number in group:
            numbered.id_of(number)
            target[number] = min(group)
    numbers = np.array([target[number] for number in numbered.numbers])
    return _renamed(numbered, numbers[numbered.regions.labels])


def relabelled(
    numbered: NumberedRegions, labels: Integer[np.ndarray, "h w"], max_regions: int
) -> NumberedRegions:
    """A partition made by a user, whose pixels are the numbers of their regions.

    Background is what lies mostly on background.

    Args:
      numbered: as they were found, at the model's size.
      labels: a square of at least that size, of any numbers.
      max_regions: most that the model takes.

    Raises:
      UserError: another shape, or more regions than that.
    """
    size = len(numbered.regions.labels)
    if labels.ndim != 2 or labels.shape[0] != labels.shape[1] or len(labels) < size:
        raise UserError(
            f"The picture of region numbers has shape {labels.shape}; it must be a grey square of "
            f"at least {size} × {size} pixels: edit the labels.png that --regions-only writes."
        )
    names, indices = np.unique(labels, return_inverse=True)
    if len(names) > max_regions:
        raise UserError(
            f"The picture of region numbers has {len(names)} different ones and the model takes "
            f"{max_regions} regions; save it without smoothing, or merge some."
        )
    winners = _commonest(indices.reshape(labels.shape), len(names), size)
    return _renamed(numbered, names[winners].astype(np.int64))


def _commonest(labels: Int[np.ndarray, "h h"], count: int, size: int) -> Int[np.ndarray, "s s"]:
    """Of `count` labels, the commonest in each of size × size cells."""
    fine = size * -(-len(labels) // size)
    nearest = (2 * np.arange(fine) + 1) * len(labels) // (2 * fine)
    line = np.arange(fine) // (fine // size)
    cell = line[:, None] * size + line
    votes = np.bincount(
        (cell * count + labels[np.ix_(nearest, nearest)]).ravel(), minlength=size * size * count
    )
    return votes.reshape(size, size, count).argmax(-1)


def _renamed(before: NumberedRegions, numbers: Int[np.ndarray, "s s"]) -> NumberedRegions:
    """Regions that have these numbers, ids by falling area as everywhere."""
    names, labels, areas = np.unique(numbers, return_inverse=True, return_counts=True)
    order = np.argsort(-areas, kind="stable")
    labels = np.argsort(order)[labels.reshape(numbers.shape)].astype(np.int32)
    was_background = before.regions.background[before.regions.labels]
    share = np.bincount(labels.ravel(), was_background.ravel()) / areas[order]
    return NumberedRegions(Regions(labels, len(names), share > 0.5), tuple(names[order].tolist()))


def label_page(numbered: NumberedRegions, side: int) -> UInt8[np.ndarray, "side side"]:
    """The numbers of the regions as pixels, enlarged to a multiple of their size, to be edited."""
    numbers = np.array(numbered.numbers)[numbered.regions.labels]
    factor = max(1, side // len(numbers))
    return numbers.astype(np.uint8).repeat(factor, 0).repeat(factor, 1)


def described(numbered: NumberedRegions) -> list[Mapping[str, Any]]:
    """What there is to say of each region, by falling area, as JSON can hold it.

    number; share of the page; centroid (x, y) and box (x0, y0, x1, y1) in 0 … 1, y downwards;
    whether it is background; the numbers of the regions that it touches.
    """
    measures = measure_regions(numbered.regions)
    touching = measures.shared_boundary > 0
    return [
        {
            "number": number,
            "share": round(float(measures.area[i]), 4),
            "centroid": measures.centroid[i].round(3).tolist(),
            "box": measures.box[i].round(3).tolist(),
            "background": bool(numbered.regions.background[i]),
            "touches": sorted(
                other for j, other in enumerate(numbered.numbers) if j != i and touching[i, j]
            ),
        }
        for i, number in enumerate(numbered.numbers)
    ]
