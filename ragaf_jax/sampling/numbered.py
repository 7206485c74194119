"""Regions with the numbers that users see, and edits of these regions."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer, UInt8

from ragaf_jax.errors import UserError
from ragaf_jax.graph.measure import measure_regions
from ragaf_jax.graph.regions import Regions


class NumberedRegions(NamedTuple):
    """A partition of the page into numbered regions.

    Attributes:
      regions: the partition.
      numbers: of each region, in figures, flags and files; without edits, the region ids.
    """

    regions: Regions
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, regions: Regions) -> "NumberedRegions":
        """The regions, numbered by their ids."""
        return cls(regions, tuple(range(regions.n)))

    def id_of(self, number: int) -> int:
        """The id of the region with this number.

        Raises:
          UserError: no region has it.
        """
        if number not in self.numbers:
            known = ", ".join(map(str, sorted(self.numbers)))
            raise UserError(
                f"There is no region {number}; the sketch has the regions {known}: see "
                "regions.png, which --regions-only writes."
            )
        return self.numbers.index(number)


def check_not_merged(numbers: Collection[int], groups: Sequence[Sequence[int]]) -> None:
    """Refuses prompts of regions whose numbers are replaced by merging.

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
    """Merges each group into one region with the smallest of its numbers.

    Raises:
      UserError: an unknown number, or a number that occurs twice.
    """
    named = [number for group in groups for number in group]
    if twice := sorted({number for number in named if named.count(number) > 1}):
        raise UserError(
            f"Region {twice[0]} is listed twice in the regions to merge; list each region once, "
            "and all regions of a group together, such as 2,7,9."
        )
    target = {number: number for number in numbered.numbers}
    for group in groups:
        for number in group:
            numbered.id_of(number)
            target[number] = min(group)
    numbers = np.array([target[number] for number in numbered.numbers])
    return _with_numbers(numbered, numbers[numbered.regions.labels])


def relabelled(
    numbered: NumberedRegions, labels: Integer[np.ndarray, "h w"], max_regions: int
) -> NumberedRegions:
    """The partition of a label image, whose pixels are region numbers.

    A region is background if most of it was background.

    Args:
      numbered: the regions that were found, at the size of the image.
      labels: of these proportions and at least this size.
      max_regions: maximum of the model.

    Raises:
      UserError: another shape, or too many regions.
    """
    height, width = numbered.regions.labels.shape
    alike = labels.ndim == 2 and labels.shape[0] * width == labels.shape[1] * height
    if not alike or len(labels) < height:
        raise UserError(
            f"The label image has shape {labels.shape}, expected the proportions of "
            f"{height} × {width} px in grey and at least this size; edit the labels.png that "
            "--regions-only writes."
        )
    numbers, indices = np.unique(labels, return_inverse=True)
    if len(numbers) > max_regions:
        raise UserError(
            f"The label image has {len(numbers)} different numbers and the model takes "
            f"{max_regions} regions; save it without smoothing, or merge regions."
        )
    majority = _majority_labels(indices.reshape(labels.shape), len(numbers), (height, width))
    return _with_numbers(numbered, numbers[majority].astype(np.int64))


def _majority_labels(
    labels: Int[np.ndarray, "rows columns"], count: int, grid: tuple[int, int]
) -> Int[np.ndarray, "h w"]:
    """The most frequent of `count` labels in each of h × w cells; `grid` is (h, w)."""
    nearest, cells = [], []
    for side, size in zip(labels.shape, grid, strict=True):
        fine = size * -(-side // size)
        nearest.append((2 * np.arange(fine) + 1) * side // (2 * fine))
        cells.append(np.arange(fine) // (fine // size))
    (height, width), (row, column) = grid, cells
    cell = row[:, None] * width + column
    votes = np.bincount(
        (cell * count + labels[np.ix_(*nearest)]).ravel(), minlength=height * width * count
    )
    return votes.reshape(height, width, count).argmax(-1)


def _with_numbers(before: NumberedRegions, pixels: Int[np.ndarray, "h w"]) -> NumberedRegions:
    """Regions from the number of each pixel, with ids by falling area."""
    numbers, labels, areas = np.unique(pixels, return_inverse=True, return_counts=True)
    order = np.argsort(-areas, kind="stable")
    labels = np.argsort(order)[labels.reshape(pixels.shape)].astype(np.int32)
    was_background = before.regions.background[before.regions.labels]
    share = np.bincount(labels.ravel(), was_background.ravel()) / areas[order]
    regions = Regions(labels, len(numbers), share > 0.5)
    return NumberedRegions(regions, tuple(numbers[order].tolist()))


def label_image(numbered: NumberedRegions, height: int) -> UInt8[np.ndarray, "rows columns"]:
    """The region number of each pixel, enlarged by a whole factor up to `height`, for editing."""
    numbers = np.array(numbered.numbers)[numbered.regions.labels]
    factor = max(1, height // len(numbers))
    return numbers.astype(np.uint8).repeat(factor, 0).repeat(factor, 1)


def region_properties(numbered: NumberedRegions) -> list[Mapping[str, Any]]:
    """The properties of each region for JSON, by falling area.

    number; share of the page; centroid (x, y) and box (x0, y0, x1, y1) in 0 … 1, y downwards;
    whether it is background; numbers of the regions that touch it.
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
