"""Splits contain enough readable images, also beside unreadable ones."""

import collections
import json

import numpy as np
import photo_trees
import pytest

from input_pipeline.datasets import folder, registry, sketchy
from input_pipeline.datasets.scanning.splits import (
    cut,
    least_groups,
    rejects_may_move_splits,
    split_groups,
    split_usable,
)
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import Execution, prepare
from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError

SIZE = 32
SCANS = {name: entry.scan for name, entry in registry.DATASETS.items() if entry.scan}


@pytest.fixture(scope="module", params=[*SCANS, "unlisted"])
def scan(request, tmp_path_factory, seed):
    root, rng = tmp_path_factory.mktemp("root"), np.random.default_rng(seed)
    if request.param == "unlisted":
        photo_trees.write_sketchy(root, rng, info=False)
        return sketchy.scan(root)
    getattr(photo_trees, f"write_{request.param}")(root, rng)
    return SCANS[request.param](root)


def test_whatever_cannot_be_read_held_out_splits_have_two_groups(scan):
    least = least_groups(scan.held)
    for group in {item.group for item in cut(scan)}:
        gone = {item.key for item in scan.items if item.group == group}
        items = split_usable(scan, gone, "")
        assert {item.key for item in items} == {item.key for item in scan.items} - gone
        groups = {item.group: item.split for item in items}
        counts = collections.Counter(groups.values())
        assert all(counts[split] >= least[split] for split in least)
        official = {item.key: item.split for item in scan.items} if "test" not in scan.held else {}
        for item in items:  # what a list decides stays
            if official.get(item.key) == "test":
                assert item.split == "test"


@pytest.mark.parametrize("scan", ["sketchy", "unlisted"], indirect=True)
def test_a_photo_of_which_a_sketch_is_left_keeps_its_place(scan):
    sizes = collections.Counter(item.group for item in scan.items)
    shared = [item for item in scan.items if sizes[item.group] > 1]
    assert shared
    for gone in shared:
        left = [item for item in scan.items if item.key != gone.key]
        assert split_usable(scan, {gone.key}, "") == left


def random_scan(rng, count):
    groups = [f"{rng.integers(1 << 60):x}" for _ in range(count)]
    splits = split_groups(groups)
    items = [
        folder.Item(group, group, splits[group], folder.Path(group), None, ("x",), "")
        for group in groups
    ]
    return folder.Scan(items, [], ("validation", "test"))


def test_where_rejects_are_looked_for_later_they_move_no_other_example(rng):
    asked = collections.Counter()
    for count in (13, 100, 1000):
        for share in (0.0, 0.01, 0.1):
            scan = random_scan(rng, count)
            asked[may := rejects_may_move_splits(scan, share)] += 1
            for _ in range(0 if may else 20):
                some = rng.choice(count, int(share * count), replace=False)
                gone = {scan.items[i].key for i in some}
                left = [item for item in scan.items if item.key not in gone]
                assert split_usable(scan, gone, "") == left
    assert asked[True] and asked[False] > asked[True]


def test_a_broken_test_picture_takes_no_place_in_the_test_split(tmp_path, rng):
    """13 images; the broken one was one of two in the test split."""
    root = tmp_path / "root"
    photo_trees.write_folder(root, rng, pictures=13)
    broken = next(item for item in folder.scan(root).items if item.split == "test")
    broken.image.write_bytes(b"nothing of use")
    options, execution = Options(SIZE, root=root), Execution(max_rejected=0.1)
    (records,) = prepare("folder", tmp_path / "data", options, execution)
    groups = {
        split: {
            group["group"]
            for group in RecordSource(tmp_path / "data", "folder", split, Options(SIZE)).fields(
                "group"
            )
        }
        for split in ("train", "validation", "test")
    }
    assert [len(groups[split]) for split in ("validation", "test")] == [2, 2]
    expected = split_groups(key for those in groups.values() for key in those)
    assert {key: split for split, those in groups.items() for key in those} == expected
    (line,) = (records / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == broken.image.name
    prepare("folder", tmp_path / "data", options, execution)  # nothing has changed
    photo_trees.save(photo_trees.random_photo(rng, 90, 90), broken.image)  # it is mended
    with pytest.raises(UserError, match=rf"other image: {broken.image.name}\)"):
        prepare("folder", tmp_path / "data", options, execution)


def test_too_few_that_can_be_read_are_listed(tmp_path, rng):
    root = tmp_path / "root"
    photo_trees.write_folder(root, rng, pictures=5)
    broken = folder.scan(root).items[2].image
    broken.write_bytes(b"nothing of use")
    with pytest.raises(UserError, match=rf"^Usable images to split: 4; .*{broken.name} .*all so"):
        prepare("folder", tmp_path / "data", Options(SIZE, root=root), Execution(max_rejected=0.5))
    (listed,) = (tmp_path / "data").rglob("rejected.jsonl")
    assert json.loads(listed.read_text())["file"] == broken.name
