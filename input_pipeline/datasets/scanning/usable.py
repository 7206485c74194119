"""Splits the readable examples.

Only decoding shows which examples are unreadable. In large datasets they do not affect the splits
of others, which hashes of the groups' names define. In small ones, splits are filled up to a least
number of groups, and each of these groups must have a readable example.
"""

import collections
from collections.abc import Collection

from input_pipeline.datasets.scanning.items import Item, Scan
from input_pipeline.datasets.scanning.splits import least_groups, split_groups


def cut(scan: Scan) -> list[Item]:
    """The items whose split no official list defines."""
    if not scan.held:
        return []
    return [item for item in scan.items if item.split in (*scan.held, "train")]


def rejects_may_move_splits(scan: Scan, max_rejected: float) -> bool:
    """Whether `max_rejected`, a share of all examples, could leave a split too few groups."""
    allowed = int(max_rejected * (len(scan.items) + len(scan.rejected)))
    groups = {item.group: item.split for item in cut(scan)}
    counts = collections.Counter(groups.values())
    least = least_groups(scan.held)
    return allowed > 0 and any(counts[split] < least[split] + allowed for split in least if groups)


def split_usable(scan: Scan, unusable: Collection[str], problem: str) -> list[Item]:
    """The usable items of a scan, split without the others.

    Args:
      scan: with the splits of all items.
      unusable: keys of the unreadable items.
      problem: as in `split_groups`.

    Raises:
      UserError: too few items are usable.
    """
    usable = [item for item in scan.items if item.key not in unusable]
    groups = [item.group for item in cut(scan) if item.key not in unusable]
    splits = split_groups(groups, scan.held, problem) if scan.held else {}
    return [item._replace(split=splits.get(item.group, item.split)) for item in usable]
