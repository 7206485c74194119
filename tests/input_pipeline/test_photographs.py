"""Sketchy, COCO, a folder and a mixture, from files to a sample."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import photo_trees
import pytest
from fakes import tiny_config
from flax.traverse_util import flatten_dict
from PIL import Image

from configs import photos, stage1
from input_pipeline.configured import held_out, open_split, shapes
from input_pipeline.datasets.registry import DATASETS
from input_pipeline.extraction.augment import AugmentSketch
from input_pipeline.loader import train_iterator
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from ragaf_jax.evaluation.examples import parts_known

ROOT = Path(__file__).parents[2]
SIZE = 32
# Shared by all data sets, so that they compile once.
CHANGES = {
    "data.image_size": SIZE,
    "data.max_regions": 33,
    "data.max_edges": 320,
    "model.text_encoder.vocab_size": 4096,
    "train.steps": 5,
    "sample.steps": 2,
    "validation_examples": 2,
    "sample_examples": 2,
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A miniature of each, prepared from the layout of its download."""
    rng = np.random.default_rng(0)
    roots, data = tmp_path_factory.mktemp("downloaded"), tmp_path_factory.mktemp("data")
    for name in (name for name, entry in DATASETS.items() if entry.scan):
        getattr(photo_trees, f"write_{name}")(roots / name, rng)
        prepare(name, data, Options(SIZE, root=roots / name))
    return data


def config_of(dataset, data_dir):
    config = tiny_config(1, dataset=dataset)
    config.update_from_flattened_dict({**CHANGES, "data.dir": str(data_dir)})
    return config


@pytest.mark.parametrize("dataset", photos.DATASETS)
def test_batches_and_held_out_drawings(dataset, data_dir):
    config = config_of(dataset, data_dir)
    source = open_split(config.data, "train")
    augment = AugmentSketch(**config.data.augment)
    batches = train_iterator(source, 4, 0, **shapes(config.data), augment=augment)
    batch = next(batches)
    assert not any(source[i]["mirrors"] for i in range(len(source)))
    config.data.mirror = "captions"
    other = open_split(config.data, "train")
    assert all(other[i]["mirrors"] for i in range(len(other)))
    assert batch.image.shape == batch.sketch.shape == (4, SIZE, SIZE, 3)
    assert all(image.std() > 0 for image in batch.image)
    # Each has lines and words, and some have several regions.
    assert all(0 < ink.mean() < 1 for ink in batch.sketch)
    assert any(labels.max() > 0 for labels in batch.labels)
    assert (batch.text.mask.sum(-1) > 2).all()
    shown, truth = held_out(config.data, "test", 2)
    assert len(shown.image) == len(set(truth.keys)) == 2
    assert not parts_known(truth)  # nobody said any colour


@pytest.mark.products
@pytest.mark.parametrize("dataset", photos.DATASETS)
def test_five_steps_and_samples(dataset, data_dir, tmp_path):
    config = config_of(dataset, data_dir)
    before = flatten_dict(stage1.get_config(dataset).to_dict(), sep=".")
    tiny = flatten_dict(config.to_dict(), sep=".")
    command = [sys.executable, "main.py", f"--config=configs/stage1.py:{dataset}"]
    command += [f"--config.{name}={x}" for name, x in tiny.items() if x != before[name]]
    command += [f"--workdir={tmp_path / 'stage1'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (grid,) = (tmp_path / "stage1" / "samples").glob("*.png")
    assert np.asarray(Image.open(grid)).std() > 0
    assert list((tmp_path / "stage1" / "checkpoints").iterdir())
