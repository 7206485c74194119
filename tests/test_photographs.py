"""Sketchy, COCO, a folder of one's own and a mixture, from the files to a picture."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import photo_trees
import pytest
from fakes import tiny_config
from flax.traverse_util import flatten_dict
from PIL import Image

from configs import stage1
from input_pipeline.configured import held_out
from input_pipeline.preparing import Options, prepare
from ragaf_jax.evaluation.scoring import parts_known

ROOT = Path(__file__).parents[1]
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
    """A miniature of each, prepared from the layout that it is downloaded in."""
    rng = np.random.default_rng(0)
    roots, data = tmp_path_factory.mktemp("downloaded"), tmp_path_factory.mktemp("data")
    for name in ("sketchy", "coco", "folder"):
        getattr(photo_trees, f"write_{name}")(roots / name, rng)
        prepare(name, data, Options(SIZE, root=roots / name))
    return data


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["sketchy", "coco", "folder", "both"])
def test_five_steps_and_samples(dataset, data_dir, tmp_path):
    config = tiny_config(1, dataset=dataset)
    config.update_from_flattened_dict({**CHANGES, "data.dir": str(data_dir)})
    before = flatten_dict(stage1.get_config(dataset).to_dict(), sep=".")
    tiny = flatten_dict(config.to_dict(), sep=".")
    command = [sys.executable, "main.py", f"--config=configs/stage1.py:{dataset}"]
    command += [f"--config.{name}={x}" for name, x in tiny.items() if x != before[name]]
    # A process of its own, because importing main defines its flags; as quick as the tests'.
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
    quick["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'stage1'}"],
        cwd=ROOT,
        env={**os.environ, **quick},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (grid,) = (tmp_path / "stage1" / "samples").glob("*.png")
    assert np.asarray(Image.open(grid)).std() > 0
    assert list((tmp_path / "stage1" / "checkpoints").iterdir())
    _, truth = held_out(config.data, "test", 2)
    assert not parts_known(truth)  # nobody said any colour
