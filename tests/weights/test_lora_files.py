"""LoRA in both formats and under every name there was, and every way for a file to be wrong."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file
from written import abstract, abstract_xl

from ragaf_jax.errors import UserError
from ragaf_jax.nets.lora import LoraConfig, adapters_by_path, init_lora
from ragaf_jax.weights.lora_files import FORMATS, load_lora, lora_tensors, save_lora

SHAPES = {name: abstract()[name] for name in ("unet", "text_encoder", "control")}
SDXL = abstract_xl()
# The dense layers of attention, a projection, convolutions with a stride and with one cell.
CONFIG = LoraConfig(
    (
        "(unet|control)/.*/(to_[qkv]|to_out_0|proj_in|net_0/proj|conv1|conv|conv_shortcut)",
        "text_encoder/.*/([qkv]_proj|fc1)",
    ),
    rank=3,
    alpha=7.0,
)
TO_Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "unet.down_blocks.0.resnets.0.conv1"
Q_PROJ = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


def trained(rng, config, params):
    """Adapters with random values."""
    shapes = jax.eval_shape(lambda key: init_lora(config, params, key), jax.random.key(0))
    flat = flatten_dict(shapes, sep="/")
    for path, leaf in flat.items():
        alpha = path.endswith("/alpha")
        drawn = rng.uniform(1, 9) if alpha else rng.standard_normal(leaf.shape)
        flat[path] = np.asarray(drawn, np.float32)
    return unflatten_dict(flat, sep="/")


@pytest.fixture
def lora(rng):
    """Trained adapters of three networks."""
    return trained(rng, CONFIG, SHAPES)


@pytest.fixture
def tensors(lora):
    """What a file of diffusers holds of them, alphas folded in."""
    return lora_tensors(lora, "diffusers")


def updates(lora):
    """{network/module: (alpha / rank) · down·up}."""
    found = {}
    for network, tree in lora.items():
        for path, a in adapters_by_path(tree).items():
            up = a["up"].reshape(a["up"].shape[-2:])
            scale = a["alpha"] / a["down"].shape[-1]
            found[f"{network}/{path}"] = scale * (a["down"] @ up)
    return found


def assert_same_updates(one, two):
    one, two = updates(one), updates(two)
    assert set(one) == set(two)
    for path in one:
        np.testing.assert_allclose(one[path], two[path], rtol=1e-5, atol=1e-5, err_msg=path)


def write(path, tensors, metadata=None):
    """A file of these tensors."""
    save_file({k: np.asarray(v, order="C") for k, v in tensors.items()}, path, metadata)
    return path


def of(tensors, *modules):
    return {k: v for k, v in tensors.items() if k.startswith(tuple(f"{m}." for m in modules))}


def loaded_alpha(path, module="down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q"):
    return float(adapters_by_path(load_lora(path, SHAPES)["unet"])[module]["alpha"])


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_saved_is_loaded(tmp_path, lora, kind):
    save_lora(tmp_path / "a.safetensors", lora, kind)
    found = load_lora(tmp_path / "a.safetensors", SHAPES)
    assert_same_updates(found, lora)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))
    if kind == "kohya":  # which keeps each alpha
        jax.tree.map(np.testing.assert_array_equal, found, lora)
    else:
        assert all(a["alpha"] == 3 for a in adapters_by_path(found["unet"]).values())


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_saved_of_sdxl_is_loaded(rng, tmp_path, kind):
    """Both text encoders under the names that diffusers and kohya's trainers give them."""
    patterns = "unet/.*/(to_q|proj_in|linear_2)", "text_encoder/.*/(q_proj|fc1|text_projection)"
    lora = trained(rng, LoraConfig(patterns, 3, 7.0), SDXL)
    names = set(lora_tensors(lora, kind))
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    if kind == "kohya":
        layer = layer.replace(".", "_")
        expected = f"lora_te1_{layer}.alpha", f"lora_te2_{layer}.alpha"
        assert {*expected, "lora_te2_text_projection.lora_up.weight"} <= names
    else:
        expected = f"text_encoder.{layer}.lora_A.weight", f"text_encoder_2.{layer}.lora_A.weight"
        assert {*expected, "text_encoder_2.text_projection.lora_B.weight"} <= names
    save_lora(tmp_path / "a.safetensors", lora, kind)
    found = load_lora(tmp_path / "a.safetensors", SDXL)
    assert set(found["text_encoder"]) == {"clip_l", "clip_g"}
    assert_same_updates(found, lora)
    if kind == "kohya":
        jax.tree.map(np.testing.assert_array_equal, found, lora)


SD_FILE = "is of Stable Diffusion 1 or 2, as its tensor {} shows, expected a LoRA of Stable Diff"
XL_FILE = "is of Stable Diffusion XL, as its tensor {} shows, expected a LoRA of Stable Diffusion 1"
OTHER_GENERATIONS = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.alpha": (SDXL, SD_FILE),
    "lora_unet_output_blocks_9_1_proj_in.lora_down.weight": (SDXL, SD_FILE),
    "unet.up_blocks.3.resnets.0.conv1.lora_A.weight": (SDXL, SD_FILE),
    "diffusion_model.input_blocks.1.1.proj_in.lora_A.weight": (SDXL, SD_FILE),
    "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": (SHAPES, XL_FILE),
    "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (SHAPES, XL_FILE),
    "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2.alpha": (SHAPES, XL_FILE),
}


@pytest.mark.parametrize("name", OTHER_GENERATIONS)
def test_a_lora_of_the_other_generation_is_named(rng, tmp_path, name):
    params, said = OTHER_GENERATIONS[name]
    known = "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"
    path = write(tmp_path / "x.safetensors", {known: np.ones(1), name: np.ones((2, 2))})
    with pytest.raises(UserError, match=re.escape(f"x.safetensors {said.format(name)}")) as error:
        load_lora(path, params)
    assert "\n" not in str(error.value)
    # A wrong tensor of its own generation is named by itself.
    stored = {"lora_te2_x.alpha" if params is SDXL else "lora_unet_up_blocks_3_x.alpha": SQUARE}
    with pytest.raises(UserError, match=r"x\.alpha in .* belongs to no module of this model"):
        load_lora(write(tmp_path / "x.safetensors", stored), params)


def test_settings_of_the_second_text_encoder(tmp_path):
    """diffusers keeps alpha by the encoder's name in the header."""
    module = "text_model.encoder.layers.0.mlp.fc1"
    header = {"text_encoder.lora_alpha": 2, "text_encoder_2.lora_alpha": 5}
    header |= {"text_encoder_2.alpha_pattern": {module: 7}}
    stored = {}
    for name, width in (("text_encoder", 12), ("text_encoder_2", 16)):
        stored[f"{name}.{module}.lora_A.weight"] = np.ones((2, width), np.float32)
        stored[f"{name}.{module}.lora_B.weight"] = np.ones((20, 2), np.float32)
    metadata = {"lora_adapter_metadata": json.dumps(header)}
    found = load_lora(write(tmp_path / "x.safetensors", stored, metadata), SDXL)["text_encoder"]
    alphas = {path: adapter["alpha"] for path, adapter in adapters_by_path(found).items()}
    path = module.replace(".", "/")
    assert alphas == {f"clip_l/{path}": 2, f"clip_g/{path}": 7}


def test_the_names_that_are_saved(lora):
    names = set(lora_tensors(lora, "diffusers"))
    assert {f"{CONV}.lora_A.weight", f"{TO_Q}.lora_B.weight", f"{Q_PROJ}.lora_A.weight"} <= names
    assert not any("alpha" in name for name in names)
    names = set(lora_tensors(lora, "kohya"))
    block = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
    assert {f"{block}_attn1_to_q.alpha", f"{block}_ff_net_0_proj.lora_up.weight"} <= names
    assert "lora_te_text_model_encoder_layers_1_mlp_fc1.lora_down.weight" in names
    assert lora_tensors(lora, "kohya")[f"{block}_attn1_to_q.alpha"].shape == ()
    assert "lora_controlnet_down_blocks_0_downsamplers_0_conv.lora_down.weight" in names


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision(tmp_path, lora, dtype):
    half = {k: v.astype(dtype) for k, v in lora_tensors(lora, "kohya").items()}
    found = load_lora(write(tmp_path / "a.safetensors", half), SHAPES)
    expected = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), lora)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def endings(down, up):
    return lambda name: name.replace("lora_A.weight", down).replace("lora_B.weight", up)


def processor(name):
    """Until 2023, diffusers' LoRA was a processor of the UNet's attention."""
    m = re.fullmatch(r"(unet\..+)\.(to_[qkv]|to_out)(\.0)?\.lora_([AB])\.weight", name)
    return m and f"{m[1]}.processor.{m[2]}_lora.{'down' if m[4] == 'A' else 'up'}.weight"


def text_processor(name):
    """Likewise of the text encoder's."""
    m = re.fullmatch(r"(text_encoder\..+)\.(q|k|v|out)_proj\.lora_([AB])\.weight", name)
    return m and f"{m[1]}.to_{m[2]}_lora.{'down' if m[3] == 'A' else 'up'}.weight"


def bare(network):
    return lambda name: name.startswith(network) and name.replace(network, "base_model.model", 1)


# From diffusers' names of today to others; nothing for what had none.
OTHERS = {
    "processors": processor,
    "processors of a bare UNet": lambda name: (processor(name) or "").removeprefix("unet."),
    "processors of the text encoder": text_processor,
    "compatible layers": endings("lora.down.weight", "lora.up.weight"),
    "linear layers": endings("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    "adapters with a name": endings("lora_A.default_0.weight", "lora_B.default_0.weight"),
    "peft's UNet": bare("unet"),
    "peft's text encoder": bare("text_encoder"),
    "transformers 5": lambda name: name.replace("text_model.", ""),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_names(tmp_path, tensors, kind):
    known = {name: x for name, x in tensors.items() if OTHERS[kind](name)}
    renamed = {OTHERS[kind](name): x for name, x in known.items()}
    assert len(renamed) == len(known) >= 8
    assert set(renamed) != set(known)
    files = write(tmp_path / "a.safetensors", known), write(tmp_path / "b.safetensors", renamed)
    assert_same_updates(*(load_lora(path, SHAPES) for path in files))


PEFT = {
    "lora_alpha": ({"lora_alpha": 6}, 6),
    "its pattern": ({"lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 2.5}}, 2.5),
    "an expression": ({"lora_alpha": 6, "alpha_pattern": {r"down_blocks\..*to_[qk]": 2}}, 2),
    "the first pattern": ({"alpha_pattern": {"to_q": 4, "attn1.to_q": 5}}, 4),
    "part of a name": ({"lora_alpha": 6, "alpha_pattern": {"o_q": 2}}, 6),
    "another module": ({"lora_alpha": 6, "alpha_pattern": {"attn2.to_q": 2}}, 6),
    "no pattern": ({"lora_alpha": 6, "alpha_pattern": None}, 6),
    "stabilised": ({"lora_alpha": 6, "use_rslora": True}, 6 * 3**0.5),
    "nothing": ({}, 3),
}


@pytest.mark.parametrize("case", PEFT)
def test_what_peft_says_of_alpha(tmp_path, tensors, case):
    """In adapter_config.json beside the tensors, or in their header."""
    settings, alpha = PEFT[case]
    stored = of(tensors, TO_Q)
    bare = {name.replace("unet.", "base_model.model."): x for name, x in stored.items()}
    write(tmp_path / "adapter_model.safetensors", bare)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert loaded_alpha(tmp_path) == pytest.approx(alpha)
    said = {f"unet.{name}": value for name, value in settings.items()}
    header = {"lora_adapter_metadata": json.dumps(said | {"text_encoder.lora_alpha": 99})}
    path = write(tmp_path / "pytorch_lora_weights.safetensors", stored, header)
    assert loaded_alpha(path) == pytest.approx(alpha)
    assert loaded_alpha(tmp_path) == pytest.approx(alpha)
    stored[f"{TO_Q}.alpha"] = np.full(1, 8, np.float32)  # what the file itself says counts
    assert loaded_alpha(write(path, stored, header)) == 8


# What is done to the tensors of one module, and what is said of it.
SQUARE = np.zeros((4, 4), np.float32)
DAMAGES = {
    "of no module": ({"unet.nothing.lora_A.weight": SQUARE}, "unet.nothing.lora_A.weight in"),
    "of another format": ({f"{TO_Q}.hada_w1_a": SQUARE}, f"{TO_Q}.hada_w1_a in"),
    "DoRA": ({f"{TO_Q}.lora_magnitude_vector": SQUARE}, f"{TO_Q}.lora_magnitude_vector in"),
    "of SDXL": ({"lora_te1_x.alpha": SQUARE}, "lora_te1_x.alpha in"),
    "a whole kernel": ({TO_Q: SQUARE}, f"tensor {TO_Q} in .* belongs to no module"),
    "down alone": ({f"{CONV}.lora_A.weight": SQUARE}, rf"{CONV}.lora_A.weight without .* \(up\)"),
    "up alone": ({f"{CONV}.lora_B.weight": SQUARE}, rf"{CONV}.lora_B.weight without .* \(down\)"),
    "alpha alone": ({f"{CONV}.alpha": SQUARE}, rf"{CONV}.alpha without .* \(down, up\)"),
    "two": ({f"{TO_Q}.lora_down.weight": SQUARE}, f"both {TO_Q}.lora_A.weight and {TO_Q}.lora_d"),
    "wide": ({f"{TO_Q}.lora_A.weight": SQUARE}, r"lora_A.weight .* \(4, 4\), expected \(4, 8\)"),
    "high": ({f"{TO_Q}.lora_B.weight": SQUARE}, r"lora_B.weight .* \(4, 4\), expected \(8, 3\)"),
    "no matrix": ({f"{TO_Q}.lora_A.weight": SQUARE[0, 0]}, r"A.weight .* \(\), expected \(1, 8\)"),
    "no rank": ({f"{TO_Q}.lora_A.weight": SQUARE[:0]}, r"A.weight .* \(0, 4\), expected \(1, 8\)"),
    "many alphas": ({f"{TO_Q}.alpha": SQUARE[0]}, rf"{TO_Q}.alpha in .* \(4,\), expected \(\)"),
    "NaN": ({f"{TO_Q}.alpha": np.float32([np.nan])}, f"{TO_Q}.alpha in .* NaN or infinite"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_named(tmp_path, tensors, damage):
    changes, said = DAMAGES[damage]
    path = write(tmp_path / "a.safetensors", of(tensors, TO_Q) | changes)
    with pytest.raises(UserError, match=said) as error:
        load_lora(path, SHAPES)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"lora_alpha": "x"}', '{"alpha_pattern": [1]}'])
def test_damaged_settings(tmp_path, tensors, text):
    path = write(tmp_path / "adapter_model.safetensors", of(tensors, TO_Q))
    config = tmp_path / "adapter_config.json"
    config.write_text(text)
    with pytest.raises(
        UserError, match=rf"{config} is no JSON|the LoRA {path} have no valid alpha for"
    ):
        load_lora(tmp_path, SHAPES)
    header = {"lora_adapter_metadata": text.replace('{"', '{"unet.')}
    write(path, load_file(path), header)
    config.unlink()
    with pytest.raises(
        UserError, match=rf"in the header of {path} is no|LoRA {path} have no valid alpha"
    ):
        load_lora(tmp_path, SHAPES)


def test_folders_and_files_that_are_none(tmp_path, tensors):
    with pytest.raises(UserError, match="no pytorch_lora_weights.safetensors and no adapter_model"):
        load_lora(tmp_path, SHAPES)
    for name in ("a.bin", "a.msgpack", "b.safetensors"):
        (tmp_path / name).write_bytes(b"\x80")
        with pytest.raises(UserError, match=f"{name} .*is (a pickle|no (complete )?safetensors)"):
            load_lora(tmp_path / name, SHAPES)
    with pytest.raises(UserError, match=r"c\.safetensors is missing"):
        load_lora(tmp_path / "c.safetensors", SHAPES)


def test_peft_settings_lie_beside_their_file(tensors, tmp_path):
    """And are not for another file that happens to lie there."""
    stored = {
        f"base_model.model.{k.removeprefix('unet.')}": v for k, v in of(tensors, TO_Q).items()
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 12}))
    for name, alpha in (("adapter_model.safetensors", 12), ("other.safetensors", 3)):
        assert loaded_alpha(write(tmp_path / name, stored)) == alpha


@pytest.mark.parametrize("name", ["lora_mid.weight", "dora_scale", "hada_w1_a", "lokr_w2", "diff"])
def test_other_kinds_of_adapters_are_named(tensors, tmp_path, name):
    stored = of(tensors, TO_Q) | {f"{TO_Q}.{name}": np.ones((2, 2), np.float32)}
    said = rf"to_q\.{re.escape(name)} in .* adapter with {name.split('.')[0]}, expected LoRA's"
    with pytest.raises(UserError, match=said):
        load_lora(write(tmp_path / "x.safetensors", stored), SHAPES)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("base_model.model.attn1.to_k.ia3_l", "an IA³ adapter"),
        ("lora_unet_mid_block_attentions_0.a1.weight", "a GLoRA adapter"),
        ("lllite_unet_down_blocks_0.conditioning1.0.weight", "a ControlNet-LLLite"),
        ("emb_params", "a textual inversion"),
        ("clip_l", "a textual inversion"),
        ("body.0.resnets.0.block1.weight", "a T2I-Adapter"),
        ("control_model.input_hint_block.0.weight", "a ControlNet"),
        ("lora_controlnet", "a control-LoRA"),
        ("ip_adapter.1.to_k_ip.weight", "an IP-Adapter"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", "of Stable Diffusion XL"),
        ("lora_unet_double_blocks_0_img_attn_qkv.alpha", "of a diffusion transformer"),
        ("model.diffusion_model.out.2.bias", "a whole Stable Diffusion"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, name, kind):
    # A control-LoRA's first tensor could be anything's.
    tensors = {"input_blocks.0.0.bias": np.ones(2), name: np.ones((2, 2), np.float32)}
    path = write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(UserError, match=rf"x.safetensors is {kind}.*, as its tensor .* shows, exp"):
        load_lora(path, SHAPES)


@pytest.mark.parametrize(
    "name",
    [
        f"{TO_Q}.lora_B.bias",
        f"{TO_Q}.base_layer.bias",
        "unet.conv_norm_out.weight",
        "unet.down_blocks.0.resnets.0.norm1.bias",
        "base_model.model.conv_in.modules_to_save.weight",
    ],
)
def test_biases_and_norms_beside_a_lora_are_named(tensors, tmp_path, name):
    stored = of(tensors, TO_Q) | {name: np.ones(2, np.float32)}
    with pytest.raises(UserError, match=rf"{name} in .* is a bias, a norm or a whole module, exp"):
        load_lora(write(tmp_path / "x.safetensors", stored), SHAPES)


def test_a_lora_in_a_pickle_is_named(tmp_path):
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"weights\.bin is a pickle.*'pytorch_lora_weights.safet"):
        load_lora(tmp_path, SHAPES)


def test_a_bundled_embedding_is_left_out(tensors, tmp_path, caplog):
    stored = of(tensors, TO_Q)
    bundled = stored | {"bundle_emb.cat.string_to_param.*": np.ones((2, 8), np.float32)}
    files = write(tmp_path / "a.safetensors", stored), write(tmp_path / "b.safetensors", bundled)
    assert_same_updates(*(load_lora(path, SHAPES) for path in files))
    assert "holds the embedding bundle_emb.cat" in caplog.text


def test_trainers_that_number_the_text_encoders(lora, tmp_path):
    text = {"text_encoder": lora["text_encoder"]}
    stored = {k.replace("lora_te_", "lora_te1_"): v for k, v in lora_tensors(text, "kohya").items()}
    found = load_lora(write(tmp_path / "x.safetensors", stored), SHAPES)
    assert_same_updates(found, text)


def test_a_file_without_tensors(tmp_path):
    with pytest.raises(UserError, match="holds no tensors, expected a LoRA"):
        load_lora(write(tmp_path / "x.safetensors", {}), SHAPES)
