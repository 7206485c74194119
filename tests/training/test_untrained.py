"""A Stable Diffusion and its ControlNet become a stage that draws, with their very numbers."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_tokenizer import write_folder
from written import configured, random_trees, tensors, write, write_xl

from ragaf_jax.checkpoints.reading import load_params
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.training.adopt import adopted
from ragaf_jax.training.initial import initial_params
from ragaf_jax.training.untrained import write_untrained


@pytest.fixture
def asked(rng, tmp_path):
    folder = write(tmp_path / "sd", random_trees(rng))
    write_folder(folder / "tokenizer")
    return configured(folder, **{"init.control": str(folder / "controlnet")})


def test_it_has_the_weights_and_draws(rng, asked, tmp_path):
    workdir = tmp_path / "run"
    write_untrained(asked, workdir)
    pipeline = Pipeline.restore(workdir)
    config, tokenizer = adopted(asked, tmp_path / "other")
    stage = pipeline.stages[1]
    expected = initial_params(config, build_model(config), None)
    # They are kept in the dtype that they are computed in.
    narrow = jax.tree.map(lambda x: np.asarray(x, config.model.dtype), expected)
    jax.tree.map(np.testing.assert_array_equal, stage.params, narrow)
    assert stage.step == 0 and stage.tokenizer.to_json() == tokenizer.to_json()
    # Another VAE takes the place of the stage's own, and is named in the metadata.
    vae = tmp_path / "vae.safetensors"
    changed = random_trees(rng)
    save_file(tensors(changed, "vae"), vae)
    other = Pipeline.restore(workdir, vae=vae)
    digest = hashlib.sha256(vae.read_bytes()).hexdigest()
    assert other.vae == (str(vae), digest) and pipeline.vae is None
    params = other.stages[1].params
    jax.tree.map(np.testing.assert_array_equal, params["autoencoder"], changed["vae"])
    jax.tree.map(np.testing.assert_array_equal, params["unet"], stage.params["unet"])
    page = rng.integers(0, 256, (pipeline.page_size,) * 2).astype(np.uint8)
    picture = pipeline(page, "a house", steps=2).images[0]
    assert picture.shape == (config.data.image_size, config.data.image_size, 3)


def test_the_vae_of_sdxl_is_stored_in_float32(rng, tmp_path):
    """Which it computes in."""
    folder = write_xl(tmp_path / "xl", rng)
    write_untrained(configured(folder), tmp_path / "run", {"init.control"})
    params, _ = load_params(tmp_path / "run")
    for name, rounded in (("autoencoder", False), ("unet", True)):
        leaves = jax.tree.leaves(params[name])
        assert all((x.astype(jnp.bfloat16) == x).all() for x in leaves) == rounded


def test_what_cannot_be_adopted_leaves_nothing(asked, tmp_path):
    workdir = tmp_path / "run"
    for name, value in (("stage", 2), ("init.checkpoint", "")):
        config = asked.copy_and_resolve_references()
        config.update_from_flattened_dict({name: value})
        with pytest.raises(UserError, match="becomes a Stage 1"):
            write_untrained(config, workdir)
    asked.init.checkpoint = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no folder or file"):
        write_untrained(asked, workdir)
    assert not workdir.exists()


def test_a_branch_that_says_nothing_and_a_run_that_is_there_are_refused(asked, tmp_path):
    workdir = tmp_path / "run"
    write_untrained(asked, workdir)
    with pytest.raises(UserError, match="holds a run already"):
        write_untrained(asked, workdir)
    asked.init.control = "unet"
    with pytest.raises(UserError, match="a ControlNet without effect until it is trained"):
        write_untrained(asked, tmp_path / "other")
    # Not where the command asks for it.
    with pytest.raises(UserError, match="holds a run already"):
        write_untrained(asked, workdir, {"init.control"})


def test_another_model_is_named_before_a_controlnet_is_asked_for(asked, tmp_path):
    asked.init.control = "unet"
    index = tmp_path / "sd" / "model_index.json"
    index.write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(UserError, match="sd is a StableDiffusion3Pipeline, as"):
        write_untrained(asked, tmp_path / "run")
