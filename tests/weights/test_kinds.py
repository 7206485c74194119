"""Checkpoints of other models are refused by the name of what they are, before they are read."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from written import CONTROL, JSONS, SCHEDULER
from written import UNET as SIZES

from ragaf_jax.errors import UserError
from ragaf_jax.weights import compvis
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.modules import abstract_params, module_of
from ragaf_jax.weights.pretrained import open_control, open_pretrained
from ragaf_jax.weights.save import torch_tensors

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture
def folder(tmp_path):
    """A Stable Diffusion in diffusers' layout whose weights are empty files."""
    for network, file in WEIGHTS.items():
        (tmp_path / network).mkdir()
        (tmp_path / network / file).touch()
        (tmp_path / network / "config.json").write_text(json.dumps(JSONS[network]))
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return tmp_path


def change(folder, network, **fields):
    path = folder / network / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(open_it, path):
    """The one sentence with which `path` is refused."""
    with pytest.raises(UserError) as error:
        open_it(str(path))
    said = str(error.value)
    assert str(path) in said and "\n" not in said
    return said


def test_the_miniature_is_a_stable_diffusion(folder):
    assert open_pretrained(str(folder)).unet.config.in_channels == 4


@pytest.mark.parametrize(
    ("component", "kind"),
    [
        ("text_encoder_3", "Stable Diffusion 3"),
        ("image_noising_scheduler", "Stable unCLIP"),
        ("image_normalizer", "Stable unCLIP"),
        ("depth_estimator", "depth-to-image"),
        ("low_res_scheduler", "an upscaler"),
    ],
)
def test_folders_with_another_component(folder, component, kind):
    (folder / component).mkdir()
    (folder / component / "config.json").write_text("{}")
    said = refusal(open_pretrained, folder)
    assert kind in said and f"it has {component}/" in said


XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 40,
}


def index(folder, name):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("StableCascadeDecoderPipeline", "is a StableCascadeDecoderPipeline, as"),
        ("IFPipeline", "is an IFPipeline, as"),
        ("StableVideoDiffusionPipeline", "is a StableVideoDiffusionPipeline, as"),
        ("StableDiffusionLDM3DPipeline", "is a StableDiffusionLDM3DPipeline, as"),
        (["custom", "OwnPipeline"], "is an OwnPipeline, as"),
    ],
)
def test_a_pipeline_of_another_model_is_named_before_anything_is_missing(
    tmp_path, folder, name, said
):
    empty = tmp_path / "empty"
    empty.mkdir()
    for place in (empty, folder):
        index(place, name)
        assert said in refusal(open_pretrained, place)
        assert "expected a Stable Diffusion 1, 2 or XL" in refusal(open_pretrained, place)
    assert said in refusal(open_control, empty)


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionPipeline",
        "FlaxStableDiffusionPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline",
        "LatentConsistencyModelPipeline",
        "DiffusionPipeline",
        None,
        3,
    ],
)
def test_a_pipeline_that_may_be_a_stable_diffusion_is_judged_by_its_networks(folder, name):
    index(folder, name)
    assert open_pretrained(str(folder)).unet.config.in_channels == 4
    change(folder, "unet", in_channels=9)
    assert "it is for inpainting" in refusal(open_pretrained, folder)


@pytest.mark.parametrize(
    ("gone", "fields", "said"),
    [
        (("vae", "text_encoder"), {"addition_embed_type": "image"}, "another model (Kandinsky"),
        (("vae",), {"encoder_hid_dim_type": "text_proj"}, "another model (Kandinsky, DeepFloyd"),
        (
            ("text_encoder",),
            {"_class_name": "UNetSpatioTemporalConditionModel"},
            "the network is of Stable Video Diffusion",
        ),
        (("vae", "text_encoder"), {"in_channels": 9}, "it is for inpainting"),
        (("vae", "text_encoder"), {}, "vae/config.json is missing; give a whole Stable Diffusion"),
    ],
)
def test_what_a_folder_has_is_checked_before_what_it_has_not(folder, gone, fields, said):
    change(folder, "unet", **fields)
    for network in gone:
        shutil.rmtree(folder / network)
    assert said in refusal(open_pretrained, folder)


@pytest.mark.parametrize("field", ["in_channels", "out_channels"])
def test_a_vae_of_more_than_colours(folder, field):
    change(folder, "vae", **{field: 6})
    assert "expected the 3 of an RGB image: it is for another task (LDM3D" in refusal(
        open_pretrained, folder
    )


@pytest.mark.parametrize(
    ("network", "fields", "said"),
    [
        ("unet", {}, "is a UNet alone, expected a whole Stable Diffusion 1, 2 or XL; give the"),
        ("unet", {"addition_embed_type": "image"}, "the network is of another model (Kandinsky"),
        ("vae", {}, "is a VAE alone"),
        ("vae", {"_class_name": "VQModel"}, "is one network ('VQModel') alone"),
        ("text_encoder", {}, "is a text encoder alone"),
        ("vae", {"_class_name": "ControlNetModel"}, "ControlNet, expected a whole Stable"),
    ],
)
def test_the_folder_of_one_network(folder, network, fields, said):
    change(folder, network, **fields)
    assert said in refusal(open_pretrained, folder / network)


@pytest.mark.parametrize("name", [None, "StableDiffusionPipeline"])
def test_a_whole_stable_diffusion_is_no_controlnet(folder, name):
    if name is not None:
        index(folder, name)
        shutil.rmtree(folder / "unet")
    said = refusal(open_control, folder)
    assert "is a whole Stable Diffusion, expected a ControlNet; name it as config.init" in said


def test_folders_without_a_unet(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text("{}")
    assert "is a diffusion transformer, such as" in refusal(open_pretrained, tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (XL, "text_encoder_2/config.json is missing; give a whole Stable Diffusion"),
        (XL | {"projection_class_embeddings_input_dim": 2560}, "network is of SDXL's refiner"),
        ({"class_embed_type": "projection"}, "is 'projection': the network is of a Stable unCLIP"),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "the network is with an IP-Adapter in it"),
        ({"num_class_embeds": 1000, "in_channels": 7}, "is 1000: the network is of an upscaler"),
        ({"in_channels": 9}, "is 9, expected the 4 of a latent: it is for inpainting"),
        ({"in_channels": 8}, "is 8, expected the 4 of a latent: it is for editing (InstructPix"),
        ({"in_channels": 5}, "is 5, expected the 4 of a latent: it is for depth-to-image"),
        ({"in_channels": 6}, "is 6, expected the 4 of a latent: it is for another task"),
    ],
)
def test_unets_of_other_models(folder, fields, said):
    change(folder, "unet", **fields)
    assert said in refusal(open_pretrained, folder)
    # What it is comes before how its weights are stored.
    (folder / "unet" / WEIGHTS["unet"]).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    if "in_channels" not in fields:
        assert said in refusal(open_pretrained, folder)


@pytest.mark.parametrize(
    ("network", "file", "converted"),
    [
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("unet", "diffusion_pytorch_model.fp16", "diffusion_pytorch_model.fp16"),
        ("text_encoder", "pytorch_model", "model"),
        ("text_encoder", "pytorch_model.fp16", "model.fp16"),
    ],
)
def test_pickles_are_refused_with_what_converts_them(folder, network, file, converted):
    """The name that the command writes is one that is read afterwards."""
    weights = folder / network / WEIGHTS[network]
    weights.rename(folder / network / f"{file}.bin")
    said = refusal(open_pretrained, folder)
    assert f"{file}.bin is a pickle" in said
    assert f"torch.load('{file}.bin', weights_only=True), '{converted}.safetensors')" in said
    (folder / network / f"{converted}.safetensors").touch()
    open_pretrained(str(folder))


# A few names of tensors as each kind's files have them.
UNET = "model.diffusion_model."
FILES = {
    "of a diffusion transformer": ["text_encoders.clip_l.x", f"{UNET}joint_blocks.0.x_block.attn"],
    "of a diffusion transformer, such as": ["double_blocks.0.img_attn.norm.key_norm.scale"],
    "a Stable unCLIP": [f"{UNET}label_emb.0.0.weight", "noise_augmentor.betas"],
    "a model whose UNet reads a class": [f"{UNET}label_emb.weight", "low_scale_model.betas"],
    "a LoRA or LyCORIS adapter": ["lora_unet_mid_block_attentions_0_proj_in.alpha"],
    "a LoRA or LyCORIS": ["lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha"],  # of SDXL
    "an IP-Adapter": ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"],
    "a ControlNet": ["control_model.input_hint_block.0.weight"],
    "a ControlNet-union": ["task_embedding", "controlnet_cond_embedding.conv_in.weight"],
    "a control-LoRA": ["lora_controlnet", "input_hint_block.0.weight"],
    "a T2I-Adapter": ["body.0.resnets.0.block1.weight"],
    "a textual inversion": ["emb_params"],
    "a motion module": ["down_blocks.0.motion_modules.0.norm.weight"],
    "a VAE alone": ["decoder.conv_in.weight", "encoder.down.0.block.0.conv1.bias"],
    "a text encoder alone": ["text_model.final_layer_norm.weight"],
}


@pytest.mark.parametrize("kind", FILES)
def test_single_files_of_other_models(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    save_file({name: np.zeros((2, 2), np.float32) for name in FILES[kind]}, path)
    assert f"is {kind}" in refusal(open_pretrained, path)
    if kind not in ("a ControlNet", "a model whose UNet reads a class"):
        assert f"is {kind}" in refusal(open_control, path)


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        (9, "is 9, expected the 4 of a latent: it is for inpainting"),
        (4, "is a UNet alone in the original layout, expected a whole Stable Diffusion"),
    ],
)
def test_single_files_cut_to_their_unet(tmp_path, channels, said):
    sizes = dataclasses.replace(
        SIZES,
        in_channels=channels,
        block_out_channels=(64, 128),
        attention_head_dim=(1, 2),
        norm_num_groups=32,
    )
    shapes = abstract_params(module_of(sizes))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    tensors = torch_tensors(zeros, compvis.unet_naming(sizes), "float32")
    path = tmp_path / "x.safetensors"
    save_file({UNET + name: tensor for name, tensor in tensors.items()}, path)
    assert said in refusal(open_pretrained, path)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("num_control_type", 6, "is 6: the network is a ControlNet-union"),
        ("_class_name", "T2IAdapter", "expected 'ControlNetModel'"),
        ("_class_name", "ControlNetUnionModel", "expected 'ControlNetModel'"),
    ],
)
def test_controlnets_of_other_models(tmp_path, field, value, kind):
    fields = configs.control_json(CONTROL) | {field: value}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    assert kind in refusal(open_control, tmp_path)


@pytest.mark.parametrize(
    ("file", "head", "said"),
    [
        ("x.gguf", b"GGUF", "is GGUF, whose weights are quantised, expected .safetensors"),
        ("x.onnx", b"", "is an ONNX graph, expected .safetensors"),
        ("x.npy", b"", "is a file with the suffix '.npy', expected .safetensors"),
        ("x.pt", b"PK\x03\x04", "is a pickle, which can run any program"),
        ("x.safetensors", b"GGUF\x03", "is GGUF, whose weights are quantised"),
        ("x.safetensors", b"PK\x03\x04", "is a pickle of PyTorch under another name"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("x.safetensors", b"<!doctype html>", "is an HTML page and not the weights"),
    ],
)
def test_files_that_are_no_safetensors(tmp_path, file, head, said):
    (tmp_path / file).write_bytes(head)
    assert said in refusal(open_pretrained, tmp_path / file)
    assert said in refusal(open_control, tmp_path / file)
