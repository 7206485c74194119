"""Checkpoints in the original layout: diffusers' own converter reads the names that we expect."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import torch_models  # noqa: E402
from diffusers.loaders import single_file_utils  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from ragaf_jax.errors import UserError  # noqa: E402
from ragaf_jax.weights import compvis, save  # noqa: E402
from ragaf_jax.weights.configs import compvis_sizes  # noqa: E402
from ragaf_jax.weights.modules import abstract_params, module_of  # noqa: E402
from ragaf_jax.weights.pretrained import open_control, open_pretrained  # noqa: E402

# Single files leave heads and groups unsaid: eight heads, or 64 channels each; 32 groups.
SIZES = {
    "sd1": {"block_out_channels": (32, 64, 64), "attention_head_dim": 8},
    "sd2": {"block_out_channels": (64, 128, 128), "attention_head_dim": (1, 2, 2)},
}
TEXT = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 3}
VAE = {"block_out_channels": (32, 32, 64), "norm_num_groups": 32}


def networks(kind, rng):
    unet = torch_models.unet(kind, rng, norm_num_groups=32, cross_attention_dim=128, **SIZES[kind])
    levels = {f"{x}_block_types": (y,) * 3 for x, y in BLOCKS.items()}
    return {
        "unet": unet,
        "vae": torch_models.vae(rng, **VAE, **levels),
        "text_encoder": torch_models.text_encoder(kind, rng, **TEXT),
        "control": torch_models.control(unet, rng, channels=(16, 24, 32, 48)),
    }


BLOCKS = {"down": "DownEncoderBlock2D", "up": "UpDecoderBlock2D"}


def trees(ours, control):
    """The abstract parameters of each network."""
    networks = {name: getattr(ours, name) for name in ("unet", "vae", "text_encoder")}
    networks["control"] = control
    return {name: abstract_params(module_of(x.config)) for name, x in networks.items()}


def original(network, tree, naming, known, prefix):
    """A network's tensors under the names of `naming`, as original checkpoints have them."""
    state, tensors = network.state_dict(), {}
    for path in flatten_dict(tree, sep="/"):
        (place,) = naming(path)
        tensor = next(state[p.name] for p in known(path) if p.name in state)
        if place.part is None:
            tensors[prefix + place.name] = tensor
        else:
            tensors.setdefault(prefix + place.name, [None] * 3)[place.part[0]] = tensor
    return {k: torch.cat(v) if isinstance(v, list) else v.clone() for k, v in tensors.items()}


@pytest.fixture(scope="module", params=("sd1", "sd2"))
def both(request, tmp_path_factory, seed):
    """The same weights in diffusers' layout and, with its tensors, in the original."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    theirs = networks(kind, np.random.default_rng(seed))
    for name, network in theirs.items():
        network.save_pretrained(folder / "sd" / name)
    torch_models.scheduler(kind).save_pretrained(folder / "sd" / "scheduler")
    ours, control = open_pretrained(str(folder / "sd")), open_control(str(folder / "sd/control"))
    shapes = trees(ours, control)
    namings = {
        "unet": (compvis.unet_naming(ours.unet.config), ours.unet.naming, compvis.UNET),
        "vae": (compvis.vae_naming(ours.vae.config), ours.vae.naming, compvis.VAE),
        "control": (compvis.control_naming(control.config), control.naming, compvis.CONTROL),
        "text_encoder": (
            (ours.text_encoder.naming, ours.text_encoder.naming, compvis.CLIP)
            if kind == "sd1"
            else (compvis.open_clip_names, ours.text_encoder.naming, compvis.OPEN_CLIP)
        ),
    }
    if kind == "sd1":
        text = lambda path: ours.text_encoder.naming(path)[:1]  # noqa: E731
        namings["text_encoder"] = (text, ours.text_encoder.naming, compvis.CLIP)
    files = {
        name: original(theirs[name], shapes[name], *naming) for name, naming in namings.items()
    }
    if kind == "sd2":  # a last block that nobody uses, and OpenCLIP's head
        blocks = {k.replace(".2.", ".3."): v.clone() for k, v in files["text_encoder"].items()}
        files["text_encoder"] |= {k: v for k, v in blocks.items() if "resblocks.3" in k}
        files["text_encoder"][f"{compvis.OPEN_CLIP}text_projection"] = torch.randn(128, 128)
        files["text_encoder"][f"{compvis.OPEN_CLIP}logit_scale"] = torch.randn(())
    whole = files["unet"] | files["vae"] | files["text_encoder"]
    whole |= {"alphas_cumprod": torch.ones(1000), "model_ema.decay": torch.ones(())}
    save_file(whole, folder / "model.safetensors")
    save_file(files["control"], folder / "control.safetensors")
    return kind, theirs, folder, files, shapes


def same(converted, network):
    state = network.state_dict()
    assert set(converted) == set(state)
    for name, tensor in state.items():
        torch.testing.assert_close(converted[name].reshape(tensor.shape), tensor, rtol=0, atol=0)


def test_the_names_are_the_original_ones(both):
    kind, theirs, _, files, _ = both
    unet, vae, control, text = (theirs[n] for n in ("unet", "vae", "control", "text_encoder"))
    convert = single_file_utils
    same(convert.convert_ldm_unet_checkpoint(dict(files["unet"]), dict(unet.config)), unet)
    same(convert.convert_ldm_vae_checkpoint(dict(files["vae"]), dict(vae.config)), vae)
    same(
        convert.convert_controlnet_checkpoint(dict(files["control"]), dict(control.config)), control
    )
    if kind == "sd1":
        found = convert.convert_ldm_clip_checkpoint(dict(files["text_encoder"]))
    else:
        found = convert.convert_open_clip_checkpoint(text, dict(files["text_encoder"]))
        found = {k: v for k, v in found.items() if "layers.3." not in k and "projection" not in k}
    same({k.removeprefix("text_model."): v for k, v in found.items()}, text)


def test_a_single_file_holds_the_same_networks(both):
    kind, _, folder, _, shapes = both
    folders = open_pretrained(str(folder / "sd"))
    single = open_pretrained(str(folder / "model.safetensors"))
    assert single.diffusion == folders.diffusion
    assert single.tokenizer is folders.tokenizer is None
    assert single.padding == folders.padding == {"sd1": None, "sd2": "!"}[kind]
    assert bool(single.notice) == (kind == "sd2")
    pairs = {
        name: (getattr(folders, name), getattr(single, name))
        for name in shapes
        if name != "control"
    }
    pairs["control"] = tuple(
        open_control(str(folder / name)) for name in ("sd/control", "control.safetensors")
    )
    for name, (one, two) in pairs.items():
        a, b = one.load(shapes[name]), two.load(shapes[name])
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)
    assert pairs["vae"][1].config.block_out_channels == pairs["vae"][0].config.block_out_channels
    one, two = pairs["unet"][0].config, pairs["unet"][1].config
    assert one.heads == two.heads
    for field in ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block"):
        assert getattr(one, field) == getattr(two, field)
    one, two = pairs["text_encoder"][0].config, pairs["text_encoder"][1].config
    assert one == two


def variant(folder, name, change):
    """The single file with its tensors changed, opened."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / f"{name}.safetensors")
    return open_pretrained(str(folder / f"{name}.safetensors"))


def assert_text_encoder_is_whole(both, found):
    _, _, folder, _, shapes = both
    expected = open_pretrained(str(folder / "sd")).text_encoder
    assert found.text_encoder.config == expected.config
    a, b = (x.load(shapes["text_encoder"]) for x in (expected, found.text_encoder))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_text_encoders_that_other_programs_write(both):
    """Without OpenCLIP's unused block and head, or without the first module's name."""

    def change(tensors):
        for name in list(tensors):
            if "resblocks.3" in name or name.endswith(("text_projection", "logit_scale")):
                del tensors[name]
            elif ".transformer.text_model." in name:
                tensors[name.replace("text_model.", "")] = tensors.pop(name)

    assert_text_encoder_is_whole(both, variant(both[2], "other", change))


def test_what_may_lie_beside_the_networks(both):
    def change(tensors):
        tensors["first_stage_model.loss.logvar"] = torch.ones(())
        if both[0] == "sd1":  # of CLIP with its projection, which is not used
            tensors[f"{compvis.CLIP}text_projection.weight"] = torch.ones(2, 2)
        tensors["v_pred"] = tensors["ztsnr"] = torch.ones(1)
        tensors["ztsnr"] = torch.ones(1)

    found = variant(both[2], "marked", change)
    assert found.diffusion["prediction"] == "v_prediction" and not found.notice
    assert found.diffusion["zero_terminal_snr"]
    found.vae.load(both[4]["vae"])


def test_a_turbo_by_its_name(both):
    """Stability AI's sd_turbo.safetensors: of SD 2's sizes, but it predicts ε."""
    _, _, folder, _, _ = both
    (folder / "sd_turbo.safetensors").symlink_to(folder / "model.safetensors")
    found = open_pretrained(str(folder / "sd_turbo.safetensors"))
    assert found.diffusion["prediction"] == "epsilon" and not found.notice
    assert found.diffusion["timestep_spacing"] == "trailing" and found.distilled.steps == 4
    assert "distilled to few steps" in found.notices[0]


def test_a_file_without_its_autoencoder(both):
    def change(tensors):
        for name in [name for name in tensors if name.startswith(compvis.VAE)]:
            del tensors[name]

    with pytest.raises(UserError, match=r"has no VAE under first_stage_model\."):
        variant(both[2], "pruned", change)
    # One that is named takes its place, if its latents are Stable Diffusion's.
    pruned = str(both[2] / "pruned.safetensors")
    with pytest.raises(UserError, match="downscale of the VAE .* is 4 and of the one .* 8"):
        open_pretrained(pruned, vae=str(both[2] / "sd"))
    rng = np.random.default_rng(0)
    other = torch_models.vae(rng, block_out_channels=(32,) * 4, norm_num_groups=32)
    other.save_pretrained(both[2] / "vae")
    found = open_pretrained(pruned, vae=str(both[2] / "vae")).vae
    kernel = found.load(abstract_params(module_of(found.config)))["encoder"]["conv_in"]["kernel"]
    expected = other.encoder.conv_in.weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, expected)


def test_a_controlnet_of_differences(both):
    _, _, folder, files, _ = both
    save_file(files["control"] | {"difference": torch.ones(())}, folder / "diff.safetensors")
    with pytest.raises(UserError, match="differences to a UNet's weights"):
        open_control(str(folder / "diff.safetensors"))


def test_the_averaged_unet_is_the_one_of_diffusers(both):
    """With `extract_ema`, diffusers reads the same tensors."""
    _, theirs, folder, files, shapes = both
    names = {name: "model_ema." + "".join(name.split(".")[1:]) for name in files["unet"]}
    averaged = {names[name]: tensor + 1 for name, tensor in files["unet"].items()}

    plain = variant(folder, "averaged", lambda tensors: tensors.update(averaged))
    found = open_pretrained(str(folder / "averaged.safetensors"), ema=True)
    one, two = (x.unet.load(shapes["unet"]) for x in (plain, found))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a + np.float32(1), b)
    converted = single_file_utils.convert_ldm_unet_checkpoint(
        files["unet"] | averaged, dict(theirs["unet"].config), extract_ema=True
    )
    kernel = converted["conv_in.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(two["conv_in"]["kernel"], kernel)
    with pytest.raises(UserError, match="has no averaged UNet"):
        open_pretrained(str(folder / "model.safetensors"), ema=True)


def test_an_exported_branch_is_read_here_and_by_diffusers(both, tmp_path):
    """Bit for bit, from the file in the original layout."""
    import diffusers

    _, theirs, folder, files, shapes = both
    control = open_control(str(folder / "sd" / "control"))
    assert compvis_sizes.is_usual(control.config.unet)
    tree = control.load(shapes["control"])
    save._write_control(tmp_path / "x.safetensors", tree, control.config, "float32")
    again = open_control(str(tmp_path / "x.safetensors")).load(shapes["control"])
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    from safetensors.torch import load_file

    assert set(load_file(tmp_path / "x.safetensors")) == set(files["control"])
    loaded = diffusers.ControlNetModel.from_single_file(
        str(tmp_path / "x.safetensors"), config=str(folder / "sd" / "control")
    )
    same(loaded.state_dict(), theirs["control"])
