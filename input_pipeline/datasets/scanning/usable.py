"""Splits of the readable examples; unreadable ones do not count.

Only decoding shows which examples are unreadable. In large data they move no other example, because
the hash of each group's name decides. In small data, splits are filled up to a least number of
groups, and each of these groups must have a readable example.
"""

import collections
from collections.abc import Collection

from input_pipeline.datasets.scanning.items import Item, Scan
from input_pipeline.datasets.scanning.splits import least_groups, split_groups


def cut(scan: Scan) -> list[Item]:
    """The items that no official list puts into a split."""
    if not scan.held:
        return []
    return [item for item in scan.items if item.split in (*scan.held, "train")]


def rejects_may_move_splits(scan: Scan, max_rejected: float) -> bool:
    """Whether as many rejects as `max_rejected` allows could leave a split too few groups.

    Args:
      scan: with its splits.
      max_rejected: the share of all examples that may be rejected.
    """
    allowed = int(max_rejected * (len(scan.items) + len(scan.rejected)))
    groups = {item.group: item.split for item in cut(scan)}
    counts = collections.Counter(groups.values())
    least = least_groups(scan.held)
    return allowed > 0 and any(counts[split] < least[split] + allowed for split in least if groups)


def split_usable(scan: Scan, unusable: Collection[str], problem: str) -> list[Item]:
    """The items of a scan but for some, whose splits are made without those.

    Args:
      scan: with the splits that the whole of it has.
      unusable: keys of the items that cannot be read.
      problem: as in `split_groups`.

    Raises:
      UserError: too few are left.
    """
    usable = [item for item in scan.items if item.key not in unusable]
    groups = [item.group for item in cut(scan) if item.key not in unusable]
    splits = split_groups(groups, scan.held, problem) if scan.held else {}
    return [item._replace(split=splits.get(item.group, item.split)) for item in usable]
