import collections
import functools
import itertools

import numpy as np
import pytest

from input_pipeline.datasets import openmoji_art as art
from input_pipeline.datasets.scanning.splits import (
    MOST_HELD_OUT,
    SAME_DRAWING,
    group_drawings,
    split_of,
    stable_hash,
)


def test_the_hash_is_the_same_in_every_process_and_version():
    assert stable_hash("1F436/0") == 0x58AB66BBADC0518F


def test_splits_have_their_shares_of_groups(rng):
    names = [f"{rng.integers(1 << 60):x}" for _ in range(20_000)]
    count = collections.Counter(split_of(name, 1) for name in names)
    assert count["test"] / len(names) == pytest.approx(0.1, abs=0.01)
    assert count["validation"] / len(names) == pytest.approx(0.05, abs=0.008)
    assert {split_of(name, MOST_HELD_OUT + 1) for name in names} == {"train"}


def test_drawings_are_grouped_by_base_by_likeness_and_by_both_in_turn(rng):
    blot = np.zeros((6, 6, 6), np.uint8)
    for i in range(6):
        blot[i, i, : 1 + i % 3] = rng.integers(1, 256)  # six lines that share no pixel
    blot[3] = blot[1]
    keys = ["f", "e", "d", "c", "b", "a"]
    bases = ["x", "y", "x", "z", "w", "v"]
    # f and d share a base; e and c are alike; b and a stand alone.
    expected = {"f": "d", "d": "d", "e": "c", "c": "c", "b": "b", "a": "a"}
    order = rng.permutation(6)
    groups = group_drawings([keys[i] for i in order], [bases[i] for i in order], blot[order])
    assert dict(zip([keys[i] for i in order], groups, strict=True)) == expected

    blot[3] = blot[1, :, ::-1]  # and so they are when one of them is mirrored
    assert group_drawings(keys, bases, blot)[1::2] == ["c", "c", "a"]

    bases[3] = "x"  # now c, which is like e, is a variant of f and d
    groups = group_drawings(keys, bases, blot)
    assert groups == ["c", "c", "c", "c", "b", "a"]


def test_no_variant_of_a_test_drawing_is_in_train():
    drawings = art.find_drawings()
    splits = [drawing.split for drawing in drawings]
    first = [drawing.key.split("-")[0] for drawing in drawings]
    for a, b in itertools.combinations(set(splits), 2):
        of_a = {code for code, split in zip(first, splits, strict=True) if split == a}
        assert not of_a & {code for code, split in zip(first, splits, strict=True) if split == b}

    lines = [art.render_lines(art.read_svg(drawing.path), 64) for drawing in drawings]
    ink = 255.0 - np.stack(lines)
    unit = ink / np.linalg.norm(ink, axis=(1, 2), keepdims=True)
    held_out, trained = (unit[np.array(splits) != "train"], unit[np.array(splits) == "train"])
    for shown in (trained, trained[:, :, ::-1]):
        assert np.einsum("nij,mij->nm", held_out, shown, optimize=True).max() < SAME_DRAWING + 1e-6


@functools.cache
def groups():
    """The group of every drawing by its key."""
    drawings = art.find_drawings()
    keys = [drawing.key for drawing in drawings]
    lines = [255 - art.render_lines(art.read_svg(drawing.path), 64) for drawing in drawings]
    found = group_drawings(keys, [art.base_of(key) for key in keys], np.stack(lines))
    return dict(zip(keys, found, strict=True))


@pytest.mark.parametrize(
    "keys",
    [
        ("1F468-200D-1F373", "1F469-200D-1F373", "1F9D1-200D-1F373"),  # cooks
        ("0023-FE0F-20E3", "0031-FE0F-20E3"),  # keycaps
        ("1F550", "1F55C"),  # one o'clock, half past one
        ("2764", "1F499", "1F49A"),  # hearts
        ("1F34E", "1F34F"),  # apples
        ("1F91B", "1F91C"),  # fists, each the other's mirror image
        ("1F313", "1F315", "1F317"),  # moons
        ("1F947", "1F948", "1F949"),  # medals
        ("2603", "26C4"),  # snowmen
    ],
)
def test_variants_share_a_group(keys):
    assert len({groups()[key] for key in keys}) == 1


def test_every_split_has_many_drawings_and_few_of_a_kind():
    drawings = art.find_drawings()
    for split, least in (("train", 1000), ("validation", 50), ("test", 100)):
        kinds = collections.Counter(groups()[d.key] for d in drawings if d.split == split)
        assert kinds.total() >= least
        assert split == "train" or max(kinds.values()) <= MOST_HELD_OUT


def test_unlike_drawings_have_groups_of_their_own():
    assert len({groups()[key] for key in ("1F436", "1F431", "1F3E0", "1F34E", "1F550")}) == 5
