"""Sketchy, COCO, a folder of one's own and a mixture, from the files to a picture."""

import numpy as np
import photo_trees
import pytest
from fakes import tiny_config
from PIL import Image

import main
from input_pipeline.configured import held_out
from input_pipeline.preparing import Options, prepare
from ragaf_jax.evaluation.report import quality

SIZE = 32


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A miniature of each, prepared from the layout that it is downloaded in."""
    rng = np.random.default_rng(0)
    roots, data = tmp_path_factory.mktemp("downloaded"), tmp_path_factory.mktemp("data")
    for name in ("sketchy", "coco", "folder"):
        getattr(photo_trees, f"write_{name}")(roots / name, rng)
        prepare(name, data, Options(SIZE, root=roots / name))
    return data


def config_of(dataset, data_dir):
    config = tiny_config(1, dataset=dataset)
    config.update_from_flattened_dict(
        {
            "data.dir": str(data_dir),
            "data.image_size": SIZE,
            "data.max_regions": 33,
            "data.max_edges": 320,
            "model.text_encoder.vocab_size": 4096,
            "train.steps": 5,
            "sample.steps": 2,
            # The same of each data set, so that they compile once.
            "validation_examples": 2,
            "sample_examples": 2,
            "evaluation_examples": 2,
        }
    )
    return config


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["sketchy", "coco", "folder", "both"])
def test_five_steps_and_samples(dataset, data_dir, tmp_path):
    config = config_of(dataset, data_dir)
    main.train_stage(config, tmp_path / "stage1")
    (grid,) = (tmp_path / "stage1" / "samples").glob("*.png")
    assert np.asarray(Image.open(grid)).std() > 0
    _, truth = held_out(config.data, "test", 2)
    assert quality(np.asarray(truth.image_u8), truth).color_accuracy is None  # nobody said any
