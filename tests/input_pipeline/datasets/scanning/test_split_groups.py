import collections
import os
import subprocess
import sys

import pytest

from input_pipeline.datasets.scanning.splits import split_groups, split_of
from ragaf_jax.errors import UserError


def names(rng, count):
    return [f"{rng.integers(1 << 60):x}" for _ in range(count)]


def test_large_data_is_cut_by_each_groups_own_hash(rng):
    groups = names(rng, 5000)
    splits = split_groups(groups)
    assert splits == {group: split_of(group, 1) for group in groups}
    count = collections.Counter(splits.values())
    assert count["test"] / 5000 == pytest.approx(0.1, abs=0.025)
    assert count["validation"] / 5000 == pytest.approx(0.05, abs=0.02)


def test_new_groups_move_no_other(rng):
    groups = names(rng, 1000)
    before = split_groups(groups[:600])
    after = split_groups(groups)
    assert before == {group: after[group] for group in before}


def test_order_and_repetition_do_not_matter(rng):
    for count in (5, 12, 300):
        groups = names(rng, count)
        expected = split_groups(groups)
        assert split_groups(iter([*rng.permutation(groups), *groups])) == expected


def test_another_process_makes_the_same_splits(rng):
    groups = names(rng, 40)
    script = (
        "import sys; from input_pipeline.datasets.scanning.splits import split_groups;"
        "print(sorted(split_groups(sys.argv[1:]).items()))"
    )
    for seed in ("0", "1"):
        out = subprocess.run(
            [sys.executable, "-c", script, *groups],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.strip() == str(sorted(split_groups(groups).items()))


@pytest.mark.parametrize("held", [("validation", "test"), ("test", "validation"), ("validation",)])
def test_tiny_data_has_two_groups_of_each_held_out_split(rng, held):
    for extra in range(8):
        for _ in range(60):
            splits = split_groups(names(rng, 2 * len(held) + 1 + extra), held)
            count = collections.Counter(splits.values())
            assert set(count) == {"train", *held}
            assert all(count[split] >= 2 for split in held)


def test_held_out_groups_that_are_too_many_go_to_train(rng):
    """Also if all hashes are in the interval of test."""
    groups = [group for group in names(rng, 400) if split_of(group, 1) == "test"][:6]
    count = collections.Counter(split_groups(groups).values())
    assert count == {"test": 3, "validation": 2, "train": 1}


def test_who_moves_to_a_split_that_has_too_few_lay_nearest_to_it(rng):
    trained = [group for group in names(rng, 60) if split_of(group, 1) == "train"][:20]
    splits = split_groups(trained, ("validation",))
    moved = {group for group, split in splits.items() if split == "validation"}
    assert len(moved) == 2
    for other in moved:  # without one of them the next takes its place, and the other one stays
        rest = split_groups([group for group in trained if group != other], ("validation",))
        assert moved - {other} < {group for group, split in rest.items() if split == "validation"}


def test_without_a_test_split_its_share_is_trained_on(rng):
    groups = names(rng, 2000)
    both, one = split_groups(groups), split_groups(groups, ("validation",))
    for group in groups:
        assert one[group] == ("train" if both[group] == "test" else both[group])


@pytest.mark.parametrize(("held", "least"), [(("validation", "test"), 5), (("validation",), 3)])
def test_too_few_groups_end_in_one_sentence(rng, held, least):
    groups = names(rng, least - 1)
    with pytest.raises(UserError, match=rf"to split: {least - 1}; {least} or more are needed"):
        split_groups(groups + groups, held)
