"""Every parameter is trainable or frozen, and a pattern that does nothing is a mistake."""

import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.partition import merge, partition


@pytest.fixture
def params(rng):
    return {
        "unet": {"conv_in": {"kernel": rng.random(3)}, "mid": {"bias": rng.random(2)}},
        "ragaf": {"gamma": rng.random(())},
    }


def test_every_leaf_is_in_exactly_one_tree_and_merge_puts_them_together(params):
    trainable, frozen = partition(params, ("ragaf/.*", ".*/conv_in/.*"), (".*",))
    assert trainable == {
        "unet": {"conv_in": params["unet"]["conv_in"]},
        "ragaf": params["ragaf"],
    }
    assert frozen == {"unet": {"mid": params["unet"]["mid"]}}
    assert merge(trainable, frozen) == params


def test_everything_trainable(params):
    trainable, frozen = partition(params, (".*",), ())
    assert trainable == params
    assert frozen == {}
    np.testing.assert_equal(merge(trainable, frozen), params)


def test_a_leaf_without_a_pattern_is_named(params):
    with pytest.raises(UserError, match="unet/mid/bias matches no pattern"):
        partition(params, ("ragaf/.*",), (".*/kernel",))


def test_a_pattern_without_a_leaf_is_named(params):
    with pytest.raises(UserError, match="'lora/.*' of config.train.trainable matches no"):
        partition(params, ("lora/.*",), (".*",))


def test_a_pattern_that_is_none_is_named(params):
    with pytest.raises(UserError, match=r"'unet/\(' of config.train.frozen is not a reg"):
        partition(params, (".*",), ("unet/(",))


def test_patterns_cover_whole_paths(params):
    with pytest.raises(UserError, match="'ragaf' of"):
        partition(params, ("ragaf",), (".*",))
