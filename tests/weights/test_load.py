"""What is in the files is in the parameters: every layout, and every way to be wrong."""

import json
import shutil

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from written import TEXT, UNET, VAE, abstract, assert_same, tensors

from ragaf_jax.errors import UserError
from ragaf_jax.weights.pretrained import open_control, open_pretrained

NETWORKS = ("unet", "vae", "text_encoder")
SHAPES = abstract()
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


def loaded(folder, network, variant=""):
    if network == "control":
        return open_control(str(folder / "controlnet")).load(SHAPES["control"])
    return getattr(open_pretrained(str(folder), variant), network).load(SHAPES[network])


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


@pytest.mark.parametrize("network", [*NETWORKS, "control"])
def test_what_is_written_is_read(folder, trees, network):
    assert_same(loaded(folder, network), trees[network])


def test_the_configurations_are_obeyed(folder):
    found = open_pretrained(str(folder))
    assert (found.unet.config, found.vae.config) == (UNET, VAE)
    assert found.text_encoder.config == TEXT
    assert found.diffusion["steps_offset"] == 1
    assert found.diffusion["schedule"] == "scaled_linear"
    assert found.diffusion["prediction"] == "epsilon"
    assert open_control(str(folder / "controlnet")).config.conditioning_channels == (4, 6, 8, 10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_come_in_the_dtype_that_is_asked_for(folder, trees, dtype):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), SHAPES["unet"])
    found = open_pretrained(str(folder)).unet.load(shapes)
    assert_same(found, cast(trees["unet"], dtype))


def test_weights_go_where_their_sharding_says(folder, trees):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.NamedSharding(mesh, jax.P())
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), SHAPES["unet"]
    )
    found = open_pretrained(str(folder)).unet.load(shapes)
    assert all(leaf.sharding == place for leaf in jax.tree.leaves(found))
    assert_same(found, trees["unet"])


@pytest.mark.parametrize(
    ("variant", "files"),
    [("fp16", ("fp16",)), ("", ("fp16",)), ("non_ema", ("", "non_ema")), ("fp16", ("", "fp16"))],
)
def test_variants(folder, trees, variant, files):
    """The one that is asked for, or the one that there is; the other networks have one file."""
    half = {k: v.astype(np.float16) for k, v in tensors(trees, "unet").items()}
    for name in filter(None, files):
        save_file(half, folder / f"unet/diffusion_pytorch_model.{name}.safetensors")
    if "" not in files:
        (folder / UNET_FILE).unlink()
    found = loaded(folder, "unet", variant)
    assert_same(found, cast(cast(trees["unet"], np.float16), np.float32))
    assert_same(loaded(folder, "vae", variant), trees["vae"])


def test_a_variant_that_no_network_has(folder):
    with pytest.raises(UserError, match="no file of the variant 'fp8'"):
        open_pretrained(str(folder), "fp8")


def test_a_network_that_is_linked(folder, trees):
    (folder / "vae").rename(folder.parent / "other")
    (folder / "vae").symlink_to(folder.parent / "other")
    assert_same(loaded(folder, "vae"), trees["vae"])


@pytest.mark.parametrize("infix", ["", ".fp16"])
@pytest.mark.parametrize("form", ["safetensors.index{}.json", "safetensors{}.index.json"])
def test_shards(folder, trees, infix, form):
    stem = folder / "unet" / "diffusion_pytorch_model"
    names = sorted(load_file(f"{stem}.safetensors"))
    every = tensors(trees, "unet")
    (folder / UNET_FILE).unlink()
    parts = {f"{stem.name}{infix}-{i + 1:05}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, part in parts.items():
        save_file({name: every[name] for name in part}, stem.with_name(file))
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    stem.with_name(f"{stem.name}.{form.format(infix)}").write_text(json.dumps(index))
    assert_same(loaded(folder, "unet"), trees["unet"])
    stem.with_name(min(parts)).unlink()
    with pytest.raises(UserError, match="00001-of-00003.safetensors is missing"):
        loaded(folder, "unet")


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("network", NETWORKS)
def test_old_flax_files(folder, trees, network, dtype):
    """As FlaxUNet2DConditionModel.save_pretrained wrote them."""
    stem = "model" if network == "text_encoder" else "diffusion_pytorch_model"
    (folder / network / f"{stem}.safetensors").unlink()
    name = "flax_model.msgpack" if network == "text_encoder" else "diffusion_flax_model.msgpack"
    stored = cast(trees[network], dtype)
    file = folder / network / name
    file.write_bytes(flax.serialization.to_bytes(stored))
    assert_same(loaded(folder, network), cast(stored, np.float32))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{name} .* no complete Flax file"):
        loaded(folder, network)


def test_vaes_from_before_2023(folder, trees):
    """Their attention has the names that the Flax model kept."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    stored = {}
    for name, tensor in tensors(trees, "vae").items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        stored[name] = tensor
    assert any("proj_attn" in name for name in stored)
    save_file(stored, folder / "vae/diffusion_pytorch_model.safetensors")
    assert_same(loaded(folder, "vae"), trees["vae"])


def test_text_encoders_of_transformers_4_and_5(folder, trees):
    stored = tensors(trees, "text_encoder")
    assert all(name.startswith("text_model.") for name in stored)
    file = folder / "text_encoder/model.safetensors"
    buffer = {"text_model.embeddings.position_ids": np.arange(77)[None]}
    save_file(stored | buffer, file)
    assert_same(loaded(folder, "text_encoder"), trees["text_encoder"])
    save_file({name.removeprefix("text_model."): x for name, x in stored.items()}, file)
    assert_same(loaded(folder, "text_encoder"), trees["text_encoder"])


def test_projections_stored_as_convolutions(folder, trees):
    stored = tensors(trees, "unet")
    for name in stored:
        if "proj_in.weight" in name:
            stored[name] = stored[name][:, :, None, None]
    save_file(stored, folder / UNET_FILE)
    assert_same(loaded(folder, "unet"), trees["unet"])


# What is wrong with a file: how to make it so, and what is said.
NAME = "down_blocks.0.resnets.0.conv1.weight"
DAMAGES = {
    "missing": (lambda x: x.pop(NAME), f"has no tensor {NAME}"),
    "surplus": (
        lambda x: x.update({"controlnet.weight": np.zeros((2, 3), np.float32)}),
        r"holds the tensor controlnet.weight of shape \(2, 3\), expected no such",
    ),
    "mis-shaped": (
        lambda x: x.update({NAME: np.zeros((8, 8, 3, 1), np.float32)}),
        rf"{NAME} in .* has shape \(8, 8, 3, 1\), expected \(8, 8, 3, 3\)",
    ),
    "mis-shaped like a 1x1 convolution": (
        lambda x: x.update({NAME: np.zeros((8, 8, 1, 1), np.float32)}),
        rf"{NAME} in .* has shape \(8, 8, 1, 1\), expected \(8, 8, 3, 3\)",
    ),
    "mis-shaped like a matrix": (
        lambda x: x.update({NAME: np.zeros((8, 8), np.float32)}),
        rf"{NAME} in .* has shape \(8, 8\), expected \(8, 8, 3, 3\)",
    ),
    "no floats": (
        lambda x: x.update({NAME: np.zeros((8, 8, 3, 3), np.int8)}),
        f"{NAME} in .* is int8, expected floats",
    ),
    "not finite": (
        lambda x: x.update({NAME: np.full((8, 8, 3, 3), np.nan, np.float32)}),
        f"{NAME} in .* NaN or infinite",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_named(folder, trees, damage):
    change, said = DAMAGES[damage]
    stored = tensors(trees, "unet")
    change(stored)
    save_file(stored, folder / UNET_FILE)
    with pytest.raises(UserError, match=said) as error:
        loaded(folder, "unet")
    assert UNET_FILE in str(error.value)


@pytest.mark.parametrize("keep", [0, 5, 2000, -40])
def test_truncated_files(folder, keep):
    file = folder / UNET_FILE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        UserError, match=r"model.safetensors \(\d+ bytes\) is no complete safetensors"
    ):
        loaded(folder, "unet")


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "v1-5.ckpt"])
def test_pickles_are_refused(folder, name):
    (folder / UNET_FILE).unlink()
    (folder / "unet" / name).write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=rf"unet/{name} is a pickle.*save_file"):
        loaded(folder, "unet")
    with pytest.raises(UserError, match="is a pickle"):
        open_pretrained(str(folder / "unet" / name))


def test_a_folder_without_weights(folder):
    (folder / UNET_FILE).unlink()
    with pytest.raises(UserError, match="unet holds config.json, expected diffusion_pytorch_model"):
        loaded(folder, "unet")
    shutil.rmtree(folder / "vae")
    with pytest.raises(UserError, match=r"vae/config.json is missing"):
        open_pretrained(str(folder))


def test_a_single_file_that_is_none(folder):
    with pytest.raises(UserError, match="is one network in diffusers' layout"):
        open_pretrained(str(folder / UNET_FILE))
    with pytest.raises(UserError, match="holds no ControlNet in the original layout"):
        open_control(str(folder / UNET_FILE))
    save_file({"a.weight": np.zeros(2)}, folder / "other.safetensors")
    with pytest.raises(UserError, match=r"holds no tensor model.diffusion_model.…"):
        open_pretrained(str(folder / "other.safetensors"))


def test_folders_of_the_wrong_level(folder, tmp_path):
    with pytest.raises(
        UserError, match="is a UNet alone, expected a whole .*give the folder above it"
    ):
        open_pretrained(str(folder / "unet"))
    with pytest.raises(UserError, match=r"holds one; give .*sd/controlnet\."):
        open_control(str(folder))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="it is a workdir of this package"):
        open_pretrained(str(tmp_path / "run"))


@pytest.mark.parametrize("field", ["prediction_type", "timestep_spacing", "beta_schedule"])
def test_unknown_values_of_the_scheduler_are_named_with_their_file(folder, field):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: "banana"}))
    with pytest.raises(UserError, match=f"{field} in .*scheduler_config.json is 'banana'"):
        open_pretrained(str(folder))
