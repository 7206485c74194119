"""The first parameters are the files', Stage 1's or fresh, frozen ones in the compute dtype."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import random_params, tiny_config
from flax.traverse_util import flatten_dict, unflatten_dict
from test_tokenizer import write_folder
from written import assert_same, configured, random_trees, write, write_xl

from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.lora import LoraConfig, init_lora, merged
from ragaf_jax.training.adopt import adopted
from ragaf_jax.training.initial import initial_params, stored_shapes
from ragaf_jax.training.optim import optimizer
from ragaf_jax.training.setup import initial_state
from ragaf_jax.weights.lora_files import save_lora
from ragaf_jax.weights.modules import load_network
from ragaf_jax.weights.pretrained import open_pretrained

ENCODER = ("conv_in", "time_embedding", "mid_block", "down_blocks_0", "down_blocks_1")
PATTERNS = ("unet/.*/attn1/to_[qk]", "text_encoder/.*/fc1")
ADAPT = {
    "model.lora.patterns": PATTERNS,
    "model.lora.rank": 3,
    "model.lora.alpha": 5.0,
    "train.trainable": ("lora/.*",),
}


@pytest.fixture
def trees(rng):
    return random_trees(rng)


@pytest.fixture
def folder(tmp_path, trees):
    folder = write(tmp_path / "sd", trees)
    write_folder(folder / "tokenizer")
    return folder


@pytest.fixture
def lora(rng, trees):
    """Trained adapters of the UNet and of the text encoder."""
    config = LoraConfig(PATTERNS, rank=3, alpha=5.0)
    shapes = jax.eval_shape(lambda key: init_lora(config, trees, key), jax.random.key(0))

    def draw(leaf):
        return np.asarray(rng.standard_normal(leaf.shape) if leaf.shape else 5, np.float32)

    return jax.tree.map(draw, shapes)


def begun(folder, **changes):
    """Configuration and first parameters of a run, the ControlNet in `folder` as its branch."""
    changes = {"init.control": str(folder / "controlnet"), "model.dtype": "float32"} | changes
    config, _ = adopted(configured(folder, **changes), folder / "run")
    return config, initial_params(config, build_model(config), None)


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def assert_the_rest_are_the_files(params, trees, *but):
    names = {"unet": "unet", "text_encoder": "text_encoder", "autoencoder": "vae"}
    for ours, theirs in names.items():
        if ours not in but:
            assert_same(params[ours], trees[theirs])


@pytest.mark.slow
def test_a_branch_that_copies_the_unet(folder, trees):
    """Its encoder; the zero convolutions silent, the sketch's embedding random but for its last."""
    _, params = begun(folder, **{"init.control": "unet", "model.dtype": "bfloat16"})
    assert_the_rest_are_the_files(params, cast(trees, jnp.bfloat16))
    control = params["control"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(control))
    assert_same({k: control[k] for k in ENCODER}, {k: trees["unet"][k] for k in ENCODER})
    embedding = control["controlnet_cond_embedding"]
    added = {k: v for k, v in control.items() if k not in ENCODER and v is not embedding}
    assert set(added) == {
        *(f"controlnet_down_blocks_{i}" for i in range(4)),
        "controlnet_mid_block",
    }
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(added))
    kernels = {k: np.std(v["kernel"]) for k, v in embedding.items()}
    assert kernels.pop("conv_out") == 0
    assert len(kernels) == 7 and min(kernels.values()) > 0


def test_a_branch_from_files(folder, trees):
    _, params = begun(folder)
    assert_the_rest_are_the_files(params, trees)
    assert_same(params["control"], trees["control"])
    assert set(params) == {"unet", "text_encoder", "autoencoder", "control"}


def test_sdxl(tmp_path, rng):
    """The branch copies the embedding of pooled text and sizes too; the VAE keeps float32."""
    folder = write_xl(tmp_path / "xl", rng)
    _, params = begun(folder, **{"init.control": "unet", "model.dtype": "bfloat16"})
    unet, control = params["unet"], cast(params["control"], jnp.bfloat16)
    for name in (*ENCODER, "add_embedding"):
        assert_same(control[name], unet[name])
    pretrained = open_pretrained(str(folder))
    for name, network in (("unet", pretrained.unet), ("text_encoder", pretrained.text_encoder)):
        assert_same(params[name], network.load(params[name]))
    assert set(params["text_encoder"]) == {"clip_l", "clip_g"}
    assert_same(params["autoencoder"], load_network(pretrained.vae)[1])
    assert {leaf.dtype for leaf in jax.tree.leaves(params["autoencoder"])} == {np.dtype("float32")}


@pytest.mark.parametrize("trained", ["control/.*", ".*/conv_in/kernel"])
def test_what_trains_is_kept_in_float32(folder, trained):
    """And the frozen rest in the compute dtype."""
    changes = {"model.dtype": "bfloat16", "train.trainable": (trained,)}
    _, params = begun(folder, **changes)
    for path, leaf in flatten_dict(params, sep="/").items():
        assert leaf.dtype == ("float32" if re.fullmatch(trained, path) else "bfloat16"), path


def test_a_lora_is_merged(folder, trees, lora):
    path = folder / "lora.safetensors"
    save_lora(path, lora, "kohya")
    _, params = begun(folder, **{"init.lora": str(path)})
    assert "lora" not in params
    assert_the_rest_are_the_files(params, trees, "unet", "text_encoder")
    for name in ("unet", "text_encoder"):
        assert_same(params[name], merged(trees[name], lora[name]))
    fc1 = (tree["text_encoder"]["text_model"]["encoder"]["layers"]["0"] for tree in (trees, params))
    before, after = (layer["mlp"]["fc1"]["kernel"] for layer in fc1)
    assert np.abs(after - before).max() > 0.1


def test_a_lora_goes_on_where_its_modules_are_chosen(folder, trees, lora):
    path = folder / "lora.safetensors"
    save_lora(path, lora, "kohya")
    _, params = begun(folder, **ADAPT, **{"init.lora": str(path), "model.dtype": "bfloat16"})
    assert_same(params["lora"], lora)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params["lora"]))
    assert_the_rest_are_the_files(params, cast(trees, jnp.bfloat16))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.lora.rank": 4}, r"fc1/down is \(12, 3\) in the LoRA .* and \(12, 4\) by config"),
        ({"model.lora.patterns": PATTERNS[:1]}, r"fc1/alpha is \(\) in the LoRA .* and missing by"),
        (
            {"model.lora.patterns": (*PATTERNS, "unet/.*/to_v")},
            r"to_v/alpha is missing in the LoRA .* and \(\) by config.model.lora; choose",
        ),
    ],
)
def test_a_lora_of_other_modules(folder, lora, changes, said):
    save_lora(folder / "lora.safetensors", lora, "diffusers")
    with pytest.raises(UserError, match=said):
        begun(folder, **{**ADAPT, "init.lora": str(folder / "lora.safetensors"), **changes})


def test_a_fresh_lora(folder, trees):
    _, params = begun(folder, **ADAPT)
    assert_the_rest_are_the_files(params, trees)
    for path, leaf in flatten_dict(params["lora"], sep="/").items():
        expected = {"up": 0, "alpha": 5}.get(path.rpartition("/")[2])
        assert np.std(leaf) > 0 if expected is None else np.all(leaf == expected)


def test_a_fresh_lora_that_nobody_trains(folder):
    with pytest.raises(UserError, match="does not train; add 'lora/"):
        begun(folder, **{**ADAPT, "train.trainable": ("control/.*",)})


def test_a_lora_of_nothing(folder):
    with pytest.raises(
        UserError, match="'unet/nothing', which matches no dense layer or convolution"
    ):
        begun(folder, **{**ADAPT, "model.lora.patterns": ("unet/nothing",)})
    with pytest.raises(UserError, match="no folder or file 'nowhere'"):
        begun(folder, **{"init.lora": "nowhere"})


def test_the_autoencoder_is_not_trained(folder):
    config, params = begun(folder, **{"train.trainable": ("(control|autoencoder)/.*",)})
    with pytest.raises(UserError, match="matches the autoencoder, which is always frozen"):
        initial_state(config, build_model(config), optimizer(config.train), params)


def zeros(model):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), model.shapes())


@pytest.mark.parametrize(
    ("path", "shape", "said"),
    [
        ("unet/conv_in/kernel", (3, 3, 48, 7), r"\(3, 3, 48, 7\) there and \(3, 3, 48, 32\) here"),
        ("control/conv_in/bias", None, r"missing there and \(32,\) here"),
        ("text_encoder/more/kernel", (2, 2), r"\(2, 2\) there and missing here"),
    ],
)
def test_a_stage_1_of_other_sizes(path, shape, said):
    flat = flatten_dict(zeros(build_model(tiny_config(1))), sep="/")
    flat[path] = np.zeros(shape or ())
    if shape is None:
        del flat[path]
    config = tiny_config(2)
    config.stage1 = "runs/one"
    network = path.split("/")[0]
    with pytest.raises(
        UserError, match=rf"The {network} of Stage 1 \(runs/one\).*\({path}: {said}"
    ):
        initial_params(config, build_model(config), unflatten_dict(flat, sep="/"))


def test_stage_2_adds_what_stage_1_has_not(rng):
    """A LoRA of its own; Stage 1's weights come along in the dtype that they have here."""
    config = tiny_config(2)
    config.update_from_flattened_dict(
        {**ADAPT, "model.dtype": "bfloat16", "train.trainable": ("(lora|ragaf)/.*",)}
        | {"train.frozen": (".*",)}
    )
    stage1 = random_params(build_model(tiny_config(1)), rng)
    params = initial_params(config, build_model(config), stage1)
    assert set(params) == {"unet", "control", "text_encoder", "ragaf", "lora"}
    for name, tree in stage1.items():
        assert_same(params[name], cast(tree, jnp.bfloat16))
    shapes = stored_shapes(config, build_model(config))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), dict(shapes)
    )
