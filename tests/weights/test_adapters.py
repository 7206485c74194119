"""Adapters of every kind and name: against the published formulas, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file
from written import UNET, XL_UNET, abstract, abstract_xl

from ragaf_jax.errors import UserError
from ragaf_jax.weights.adapters.opening import open_adapter
from ragaf_jax.weights.adapters.reading import read_adapters
from ragaf_jax.weights.adapters.tensor_names import Module, leaf_shapes, modules_by_name
from ragaf_jax.weights.adapters.training_facts import training_facts
from ragaf_jax.weights.adapters.updates import added
from ragaf_jax.weights.compvis import unet_naming
from ragaf_jax.weights.names import to_torch

SHAPES = {name: abstract()[name] for name in ("control", "text_encoder", "unet")}
SDXL = abstract_xl()
COMFY_G, PROJECTION = "text_encoders.clip_g.transformer.", "lora_te2_text_projection"
DENSE = "down_blocks_0/attentions_0/transformer_blocks_0/ff/net_0/proj"  # 8 → 64
CONV = "down_blocks_0/resnets_0/conv1"  # 8 → 8, 3 × 3
NAMES = {path: f"lora_unet_{path.replace('/', '_')}" for path in (DENSE, CONV)}
R = 3


def read(folder, tensors, metadata=None, name="x.safetensors", shapes=SHAPES):
    """The adapters of a file with these tensors."""
    path = folder / name
    tensors = {k: np.asarray(v, np.float32, order="C") for k, v in tensors.items()}
    save_file(tensors, path, metadata)
    return read_adapters(open_adapter(path), shapes)


def merged(adapters, rng, path, leaf="kernel", network="unet", strength=1.0, shapes=SHAPES):
    """A random W and W + strength · ΔW, both in PyTorch's order of axes."""
    full = f"{path}/{leaf}"
    shape = flatten_dict(shapes[network], sep="/")[full].shape
    weight = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    result = added(weight, weight, adapters[network][full], np.float32(strength))
    return (np.float64(to_torch(full, np.asarray(x))) for x in (weight, result))


def tucker(core, left, right):
    """Σ core[i, j, h, w] left[i, o] right[j, n], with loops."""
    out = np.zeros((left.shape[1], right.shape[1], *core.shape[2:]))
    for i in range(core.shape[0]):
        for j in range(core.shape[1]):
            out += np.multiply.outer(np.outer(left[i], right[j]), core[i, j])
    return out


def cases(rng, kind):
    """(path, tensors by part, ΔW) of a kind, in float64 NumPy; alpha is 2."""
    n = rng.standard_normal
    scale = 2 / R
    match kind:
        case "lora":
            down, up = n((R, 8)), n((64, R))
            return DENSE, {"lora_down.weight": down, "lora_up.weight": up}, scale * up @ down
        case "convolution":
            down, up = n((R, 8, 3, 3)), n((8, R, 1, 1))
            delta = (up[..., 0, 0] @ down.reshape(R, -1)).reshape(8, 8, 3, 3)
            return CONV, {"lora_down.weight": down, "lora_up.weight": up}, scale * delta
        case "locon with a core":
            down, up, mid = n((R, 8, 1, 1)), n((8, R, 1, 1)), n((R, R, 3, 3))
            parts = {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid}
            return CONV, parts, scale * tucker(mid, up[..., 0, 0].T, down[..., 0, 0])
        case "loha":
            a, b, c, d = n((64, R)), n((R, 8)), n((64, R)), n((R, 8))
            parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
            return DENSE, parts, scale * (a @ b) * (c @ d)
        case "loha of a convolution":
            a, b, c, d = n((8, R)), n((R, 72)), n((8, R)), n((R, 72))
            parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
            return CONV, parts, scale * ((a @ b) * (c @ d)).reshape(8, 8, 3, 3)
        case "loha with cores":
            a, b, c, d = n((R, 8)), n((R, 8)), n((R, 8)), n((R, 8))
            t, u = n((R, R, 3, 3)), n((R, R, 3, 3))
            parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
            parts |= {"hada_t1": t, "hada_t2": u}
            return CONV, parts, scale * tucker(t, a, b) * tucker(u, c, d)
        case "lokr, whole":  # without a rank, alpha has no effect
            one, two = n((4, 2)), n((16, 4))
            return DENSE, {"lokr_w1": one, "lokr_w2": two}, np.kron(one, two)
        case "lokr":
            one, a, b = n((4, 2)), n((16, R)), n((R, 4))
            parts = {"lokr_w1": one, "lokr_w2_a": a, "lokr_w2_b": b}
            return DENSE, parts, scale * np.kron(one, a @ b)
        case "lokr of two pairs":
            a, b, c, d = n((4, R)), n((R, 2)), n((16, R)), n((R, 4))
            parts = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2_a": c, "lokr_w2_b": d}
            return DENSE, parts, scale * np.kron(a @ b, c @ d)
        case "lokr of a convolution":
            one, two = n((2, 4)), n((4, 2, 3, 3))
            return CONV, {"lokr_w1": one, "lokr_w2": two}, np.kron(one[..., None, None], two)
        case "lokr with a core":
            one, a, b, t = n((2, 4)), n((R, 4)), n((R, 2)), n((R, R, 3, 3))
            parts = {"lokr_w1": one, "lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": t}
            return CONV, parts, scale * np.kron(one[..., None, None], tucker(t, a, b))
        case "full":
            return CONV, {"diff": (delta := n((8, 8, 3, 3)))}, delta
    raise AssertionError(kind)


KINDS = (
    *("lora", "convolution", "locon with a core", "loha", "loha of a convolution"),
    *("loha with cores", "lokr, whole", "lokr", "lokr of two pairs", "lokr of a convolution"),
    *("lokr with a core", "full"),
)


def assert_near(found, expected):
    """Within 1e-5 of the norm."""
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_changes_weights_by_its_formula(rng, tmp_path, kind):
    path, parts, delta = cases(rng, kind)
    tensors = {f"{NAMES[path]}.{part}": array for part, array in parts.items()}
    adapters = read(tmp_path, tensors | {f"{NAMES[path]}.alpha": np.float32(2)})
    weight, result = merged(adapters, rng, path, strength=0.7)
    assert_near(result - weight, 0.7 * delta)


@pytest.mark.parametrize("part", ["dora_scale", "dora_scale of inputs", "lora_magnitude_vector"])
@pytest.mark.parametrize("kind", ["lora", "convolution", "loha", "lokr", "full"])
def test_dora_rescales_the_changed_weight(rng, tmp_path, kind, part):
    path, parts, delta = cases(rng, kind)
    inputs = part == "dora_scale of inputs"
    axes = tuple(i for i in range(delta.ndim) if i != int(inputs))
    size = delta.shape[int(inputs)]
    magnitude = rng.uniform(1, 2, [1 if i in axes else size for i in range(delta.ndim)])
    stored = magnitude.swapaxes(0, 1) if part == "lora_magnitude_vector" else magnitude
    stored = stored.ravel() if part == "lora_magnitude_vector" and stored.ndim == 2 else stored
    tensors = {f"{NAMES[path]}.{name}": array for name, array in parts.items()}
    tensors |= {f"{NAMES[path]}.alpha": np.float32(2), f"{NAMES[path]}.{part.split()[0]}": stored}
    weight, result = merged(read(tmp_path, tensors), rng, path, strength=0.5)
    whole = weight + delta
    norm = np.sqrt((whole**2).sum(axes, keepdims=True))
    assert_near(result, weight + 0.5 * (magnitude * whole / norm - weight))


def test_norms_and_biases_are_changed_by_whole_tensors(rng, tmp_path):
    norm = "down_blocks_0/resnets_0/norm1"
    name = f"lora_unet_{norm.replace('/', '_')}"
    tensors = {f"{name}.w_norm": rng.standard_normal(8), f"{name}.b_norm": rng.standard_normal(8)}
    tensors |= {f"{NAMES[CONV]}.diff_b": rng.standard_normal(8)}
    adapters = read(tmp_path, tensors)
    for path, leaf, part in (
        (norm, "scale", f"{name}.w_norm"),
        (norm, "bias", f"{name}.b_norm"),
        (CONV, "bias", f"{NAMES[CONV]}.diff_b"),
    ):
        weight, result = merged(adapters, rng, path, leaf)
        assert_near(result - weight, np.float64(tensors[part]))


def test_every_name_of_a_module_finds_it():
    """Names of other programs for all dense layers and convolutions of UNet and text encoder."""
    known, naming = modules_by_name(leaf_shapes(SHAPES)), unet_naming(UNET)
    for network in ("unet", "text_encoder"):
        flat = flatten_dict(SHAPES[network], sep="/")
        for path in (name.removesuffix("/kernel") for name in flat if name.endswith("/kernel")):
            joined, torch_path = path.replace("/", "_"), Module(network, path).torch_path
            if network == "unet":
                original = naming(f"{path}/kernel")[0].name.removesuffix(".weight")
                names = [f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}"]
                names += [f"lora_unet_{joined}", f"lycoris_{joined}", f"unet.{torch_path}"]
            else:
                names = [f"lora_te_{joined}", f"lora_te1_{joined}"]
                prefixes = ("", "text_encoder.", "text_encoders.clip_l.transformer.")
                names += [prefix + torch_path for prefix in prefixes]
            assert {known[name] for name in names} == {(network, path)}
    to_q = "down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q"
    found = known["lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"]
    assert found == ("unet", to_q)
    assert known["lora_unet_middle_block_1_proj_in"] == ("unet", "mid_block/attentions_0/proj_in")
    # Names without a network are the UNet's, not the sketch branch's.
    assert known[Module("unet", to_q).torch_path] == ("unet", to_q)


def test_every_name_of_a_module_of_sdxl_finds_it():
    """The names of both text encoders, which are one network here, and of the UNet's depths."""
    known, naming = modules_by_name(leaf_shapes(SDXL)), unet_naming(XL_UNET)
    encoders = {
        "clip_l": ("lora_te1_", "lora_te_", "text_encoder.", "text_encoders.clip_l.transformer."),
        "clip_g": ("lora_te2_", "text_encoder_2.", COMFY_G),
    }
    for part, prefixes in encoders.items():
        flat = flatten_dict(SDXL["text_encoder"][part], sep="/")
        for path in (name.removesuffix("/kernel") for name in flat if name.endswith("/kernel")):
            for prefix in prefixes:
                name = prefix + path.replace("/", "_" if prefix.endswith("_") else ".")
                assert known[name] == ("text_encoder", f"{part}/{path}")
    assert known[PROJECTION] == ("text_encoder", "clip_g/text_projection")
    for leaf in flatten_dict(SDXL["unet"], sep="/"):
        path, _, kind = leaf.rpartition("/")
        if kind == "kernel":
            original = naming(leaf)[0].name.removesuffix(".weight")
            names = f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}"
            assert {known[name] for name in names} == {("unet", path)}
    deep = known["lora_unet_input_blocks_3_1_transformer_blocks_1_attn1_to_q"]
    assert deep.path == "down_blocks_1/attentions_0/transformer_blocks_1/attn1/to_q"
    assert known["lora_unet_label_emb_0_2"].path == "add_embedding/linear_2"


def test_kinds_in_all_networks_of_sdxl(rng, tmp_path):
    """LoHa, LoKr, DoRA and full updates of both text encoders and of a linear projection."""
    n = rng.standard_normal
    a, b, c, d = n((20, R)), n((R, 12)), n((20, R)), n((R, 12))
    one, two, down, up = n((4, 2)), n((5, 8)), n((R, 16)), n((8, R))
    magnitude, whole = rng.uniform(1, 2, (8, 1)), n((16, 16, 1, 1))
    fc1 = "text_model/encoder/layers/0/mlp/fc1"
    loha, lokr = f"lora_te1_{fc1.replace('/', '_')}", f"{COMFY_G}{fc1.replace('/', '.')}"
    tensors = {f"{loha}.hada_w1_a": a, f"{loha}.hada_w1_b": b, f"{loha}.alpha": np.float32(2)}
    tensors |= {f"{loha}.hada_w2_a": c, f"{loha}.hada_w2_b": d}
    tensors |= {f"{lokr}.lokr_w1": one, f"{lokr}.lokr_w2": two}
    tensors |= {f"{PROJECTION}.lora_down.weight": down, f"{PROJECTION}.lora_up.weight": up}
    tensors |= {f"{PROJECTION}.dora_scale": magnitude}
    tensors |= {"lora_unet_middle_block_1_proj_in.diff": whole}
    adapters = read(tmp_path, tensors, shapes=SDXL)
    assert {name: len(leaves) for name, leaves in adapters.items()} == {
        "text_encoder": 3,
        "unet": 1,
    }
    for network, path, delta in (
        ("text_encoder", f"clip_l/{fc1}", 2 / R * (a @ b) * (c @ d)),
        ("text_encoder", f"clip_g/{fc1}", np.kron(one, two)),
        ("unet", "mid_block/attentions_0/proj_in", whole[..., 0, 0]),
    ):
        weight, result = merged(adapters, rng, path, network=network, shapes=SDXL)
        assert_near(result - weight, delta)
    path = "clip_g/text_projection"
    weight, result = merged(adapters, rng, path, network="text_encoder", shapes=SDXL)
    whole = weight + up @ down
    assert_near(result, magnitude * whole / np.linalg.norm(whole, axis=1, keepdims=True))


SETTINGS = {
    "LoHa's alpha": ("loha", {"alpha": 6}, 6 / R),
    "a pattern": ("loha", {"alpha": 6, "alpha_pattern": {"net.0.proj": 3}}, 1.0),
    "whole LoKr's rank": ("lokr, whole", {"alpha": 6, "r": 4}, 1.5),
    "its pattern": ("lokr, whole", {"alpha": 6, "r": 4, "rank_pattern": {"proj": 3}}, 2.0),
    "nothing": ("lokr, whole", {}, 1.0),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_pefts_settings_scale_lycoris_kinds(rng, tmp_path, case):
    kind, settings, scale = SETTINGS[case]
    path, parts, delta = cases(rng, kind)
    unscaled = delta / (1 if kind == "lokr, whole" else 2 / R)
    module = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {f"{module}.{part}": array for part, array in parts.items()}
    adapters = read(tmp_path, tensors, name="adapter_model.safetensors")
    weight, result = merged(adapters, rng, path)
    assert_near(result - weight, scale * unscaled)


SQUARE = np.zeros((4, 4))
D, C = NAMES[DENSE], NAMES[CONV]
DAMAGES = {
    "half a LoHa": ({f"{D}.hada_w1_a": SQUARE}, r"hada_w1_a without .* \(hada_w1_b, hada_w2_a, ha"),
    "half a LoKr": ({f"{D}.lokr_w1": SQUARE}, r"lokr_w1 without its other half \(lokr_w2\)"),
    "two kinds": (
        {f"{D}.lora_down.weight": SQUARE, f"{D}.lora_up.weight": SQUARE, f"{D}.lokr_w1": SQUARE},
        "which are of different kinds of adapters",
    ),
    "a magnitude alone": ({f"{D}.dora_scale": SQUARE}, r"dora_scale without its other half \(down"),
    "another base's width": (
        {f"{D}.lora_down.weight": SQUARE, f"{D}.lora_up.weight": SQUARE},
        r"lora_up.weight .* \(4, 4\), expected \(64, 4\); the LoRA belongs to another network",
    ),
    "LoKr's blocks": (
        {f"{D}.lokr_w1": np.zeros((5, 2)), f"{D}.lokr_w2": SQUARE},
        r"lokr_w1 .* \(5, 2\), expected divisors of \(64, 8\)",
    ),
    "no blocks": (
        {f"{D}.lokr_w1": np.zeros((4, 0)), f"{D}.lokr_w2": SQUARE},
        r"lokr_w1 .* \(4, 0\), expected \(4, 1\)",
    ),
    "a wrong core": (
        {f"{C}.lora_down.weight": np.zeros((3, 8, 1, 1)), f"{C}.lora_up.weight": np.zeros((8, 3))}
        | {f"{C}.lora_mid.weight": np.zeros((3, 3, 2, 2))},
        r"lora_mid.weight .* \(3, 3, 2, 2\), expected \(3, 27\)",
    ),
    "a wrong magnitude": (
        {f"{D}.lora_down.weight": np.zeros((3, 8)), f"{D}.lora_up.weight": np.zeros((64, 3))}
        | {f"{D}.dora_scale": SQUARE},
        r"dora_scale .* \(4, 4\), expected \(64, 1\)",
    ),
    "NaN": ({f"{D}.diff": np.full((64, 8), np.nan)}, "diff in .* NaN or infinite"),
    "OFT": ({f"{D}.oft_blocks": SQUARE}, "an adapter with oft_blocks, expected LoRA, LoCon, LoHa"),
    "no such module": ({"lora_unet_x.hada_w1_a": SQUARE}, "hada_w1_a in .* belongs to no module"),
    "a kernel for a norm": (
        {"lora_unet_down_blocks_0_resnets_0_norm1.lokr_w1": SQUARE}
        | {"lora_unet_down_blocks_0_resnets_0_norm1.lokr_w2": SQUARE},
        "norm1.lokr_w1 in .* belongs to no module",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_named(tmp_path, damage):
    tensors, said = DAMAGES[damage]
    with pytest.raises(UserError, match=said) as error:
        read(tmp_path, tensors)
    assert str(tmp_path / "x.safetensors") in str(error.value)


def test_training_facts_of_kohyas_header():
    tags = {"10_sks dog": {"sks dog": 30, "grass": 12}, "reg": {"grass": 30, "dog": 1}}
    facts = training_facts(
        {
            "ss_output_name": "dogs",
            "ss_base_model_version": "sd_v1",
            "ss_resolution": "(512, 512)",
            "ss_clip_skip": "2",
            "ss_tag_frequency": json.dumps(tags),
        }
    )
    assert facts.triggers == ("sks dog",)
    assert facts.tags == (("grass", 42), ("sks dog", 30), ("dog", 1))
    assert facts.sentence == (
        "title 'dogs'; trained on sd_v1; at 512x512 px; with clip skip 2; trigger words: sks dog; "
        "frequent tags: grass, sks dog, dog"
    )
    named = training_facts({"modelspec.trigger_phrase": "a sks", "ss_dataset_dirs": '{"1_x": {}}'})
    assert named.sentence == "trigger words: a sks"


@pytest.mark.parametrize("text", ["{", "[1]", '{"10_a": 3}', '{"10_a": {"b": "c"}}', "[" * 9999])
def test_damaged_facts_are_left_out(text):
    facts = training_facts({"ss_tag_frequency": text, "ss_output_name": "a\x1b[31m\nb" + "c" * 999})
    assert facts.tags == ()
    assert facts.title.startswith("a [31m bccc") and len(facts.title) == 201
