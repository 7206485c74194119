"""The metrics' weights: every file that is read, and every way to be wrong, in words."""

import dataclasses
import json
import shlex

import flax.serialization
import huggingface_hub
import jax
import metric_weights
import numpy as np
import pytest
from huggingface_hub import constants
from metric_weights import CLIP, SIDE
from safetensors.numpy import load_file, save_file

from ragaf_jax.errors import UserError
from ragaf_jax.evaluation.networks.clip import DEVIATION, MEAN
from ragaf_jax.evaluation.networks.clip_files import clip_config
from ragaf_jax.evaluation.networks.weights import HEADS, load_clip, load_inception, load_lpips

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INCEPTION_METRICS = "FID, KID and the Inception score cannot be computed: "
LOADERS = {
    "inception": load_inception,
    "alex": lambda where: load_lpips(where, "alex"),
    "vgg": lambda where: load_lpips(where, "vgg"),
}
METRICS = {
    "inception": INCEPTION_METRICS,
    "alex": "LPIPS with 'alex' cannot be computed: ",
    "vgg": "LPIPS with 'vgg' cannot be computed: ",
}
PUBLISHED = {
    "inception": "weights-inception-2015-12-05-6726825d",
    "alex": "alexnet-owt-7be5be79",
    "vgg": "vgg16-397923af",
}


@pytest.fixture(scope="module")
def trees(seed):
    rng = np.random.default_rng(seed)
    return {
        "inception": metric_weights.inception_params(rng),
        "alex": metric_weights.lpips_params(rng, "alex"),
        "clip": metric_weights.clip_params(rng),
    }


@pytest.fixture
def folder(tmp_path, trees):
    return metric_weights.write_clip(tmp_path / "clip", trees["clip"])


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Whoever asks the hub fails the test; its cache is empty."""

    def asked(*_, **__):
        pytest.fail("the hub was asked")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", asked)
    for name, value in (
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ("ENDPOINT", "http://127.0.0.1:9"),
    ):
        monkeypatch.setattr(constants, name, value)


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def alexnet(trees):
    """torchvision's file: features and classifier."""
    stored = metric_weights.tensors({"features": trees["alex"]["features"]})
    return stored | {"classifier.1.weight": np.zeros((3, 2)), "classifier.6.bias": np.zeros(3)}


def test_inception(tmp_path, trees):
    stored = metric_weights.tensors(trees["inception"])
    assert {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_1a_3x3.bn.running_mean": (32,),
        "Mixed_5b.branch1x1.bn.weight": (64,),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_7c.branch3x3dbl_3a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch_pool.bn.num_batches_tracked": (),
        "fc.weight": (1008, 2048),
        "fc.bias": (1008,),
    }.items() <= {name: x.shape for name, x in stored.items()}.items()
    save_file(stored, tmp_path / "file.safetensors")
    assert_same(load_inception(str(tmp_path / "file.safetensors")), trees["inception"])


def test_lpips(tmp_path, trees):
    """The backbone is the file's, the rest the package's."""
    save_file(alexnet(trees), tmp_path / "file.safetensors")
    found = load_lpips(str(tmp_path / "file.safetensors"), "alex")
    assert_same(found["features"], trees["alex"]["features"])
    own = load_file(HEADS)
    for i in range(5):
        kernel = own[f"alex.lin{i}.model.1.weight"].reshape(1, 1, -1, 1)
        np.testing.assert_array_equal(found[f"lin{i}"]["kernel"], kernel)


def test_clip(folder, trees):
    found = load_clip(str(folder))
    assert found.config == CLIP
    assert_same(found.params, trees["clip"])
    assert found.tokenizer.encode(["a house"], 5)[0][0, -1] == CLIP.eos_token_id


def test_clip_in_flax(folder, trees):
    (folder / "model.safetensors").unlink()
    stored = flax.serialization.to_bytes({**trees["clip"], "logit_scale": np.array(1, np.float32)})
    (folder / "flax_model.msgpack").write_bytes(stored)
    assert_same(load_clip(str(folder)).params, trees["clip"])


def test_half_precision_is_widened(folder, trees):
    file = folder / "model.safetensors"
    half = {name: np.asarray(x, np.float16) for name, x in load_file(file).items()}
    save_file(half, file)
    expected = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), trees["clip"])
    found = load_clip(str(folder)).params
    assert_same(found, expected)
    assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype("float32")}


def test_what_is_in_the_hubs_cache(tmp_path, folder, trees):
    repository = tmp_path / "cache" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.parent.mkdir()
    folder.rename(snapshot)
    save_file(alexnet(trees), snapshot / "alex.safetensors")
    assert_same(load_clip("owner/name").params, trees["clip"])
    found = load_lpips("owner/name/alex.safetensors", "alex")
    assert_same(found["features"], trees["alex"]["features"])
    with pytest.raises(UserError, match="there is no file .owner/name/vgg.safetensors"):
        load_lpips("owner/name/vgg.safetensors", "vgg")


@pytest.mark.parametrize("network", LOADERS)
def test_a_file_that_is_not_there(tmp_path, network):
    for where in (str(tmp_path / "none.safetensors"), "some/where.safetensors", "x", ""):
        with pytest.raises(UserError) as error:
            LOADERS[network](where)
        said = str(error.value)
        assert said.startswith(f"{METRICS[network]}there is no file {where!r}, expected")
        assert f"/{PUBLISHED[network]}.pth and convert it once with PyTorch: python -c" in said
    with pytest.raises(UserError, match=f"{tmp_path} is a folder, expected a safetensors file"):
        LOADERS[network](str(tmp_path))


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".pkl"])
def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path, ending):
    file = tmp_path / f"weights{ending}"
    file.write_bytes(b"\x80\x04")
    for network, load in LOADERS.items():
        with pytest.raises(UserError) as error:
            load(str(file))
        said = str(error.value)
        assert said.startswith(f"{METRICS[network]}{file} is a pickle, ")
        python, flag, code = shlex.split(said.partition("with PyTorch: ")[2])
        assert (python, flag) == ("python", "-c")
        compile(code, "command", "exec")
        assert str(file) in code and str(file.with_suffix(".safetensors")) in code


# What is wrong with a file: how to make it so, and what is said.
NAME = "features.3.weight"
DAMAGES = {
    "missing": (lambda x: x.pop(NAME), f"has no tensor {NAME}"),
    "surplus": (
        lambda x: x.update({"features.4.weight": np.zeros(2, np.float32)}),
        r"holds the tensor features.4.weight of shape \(2,\), expected no such",
    ),
    "mis-shaped": (
        lambda x: x.update({NAME: np.zeros((192, 64, 5, 4), np.float32)}),
        rf"{NAME} in .* has shape \(192, 64, 5, 4\), expected \(192, 64, 5, 5\)",
    ),
    "not finite": (
        lambda x: x.update({NAME: np.full((192, 64, 5, 5), np.inf, np.float32)}),
        f"{NAME} in .* NaN or infinite",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_named(tmp_path, trees, damage):
    change, said = DAMAGES[damage]
    stored, file = alexnet(trees), tmp_path / "alex.safetensors"
    change(stored)
    save_file(stored, file)
    with pytest.raises(UserError, match=said) as error:
        load_lpips(str(file), "alex")
    assert str(file) in str(error.value) and str(error.value).startswith(METRICS["alex"])


def test_another_network(tmp_path, trees):
    file = tmp_path / "alex.safetensors"
    save_file(alexnet(trees), file)
    for network in ("inception", "vgg"):
        with pytest.raises(UserError, match="of another network|not the weights of this network"):
            LOADERS[network](str(file))


@pytest.mark.parametrize("network", [*LOADERS, "clip"])
@pytest.mark.parametrize("keep", [0, 5, -40])
def test_truncated_files(tmp_path, folder, trees, network, keep):
    whole = folder / "model.safetensors"
    file = whole if network == "clip" else tmp_path / "file.safetensors"
    file.write_bytes(whole.read_bytes()[:keep])
    load = LOADERS.get(network, lambda _: load_clip(str(folder)))
    with pytest.raises(UserError, match=rf"{file.name} \(\d+ bytes\) is no complete safetensors"):
        load(str(file))


def test_a_clip_that_is_not_there(tmp_path):
    for where in (str(tmp_path / "none"), "some/where", ""):
        with pytest.raises(UserError) as error:
            load_clip(where)
        assert str(error.value).startswith(
            f"The CLIP score cannot be computed: there is no folder {where!r}"
        )


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "expected model.safetensors"),
        ("vocab.json", "has no vocab.json"),
    ],
)
def test_a_clip_in_part(folder, file, said):
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"The CLIP score cannot be computed: .*{said}"):
        load_clip(str(folder))


def test_a_clip_in_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle.*'model.safetensors'"):
        load_clip(str(folder))


def test_a_tokenizer_of_another_clip(folder):
    config = dataclasses.replace(CLIP, text=dataclasses.replace(CLIP.text, vocab_size=100))
    (folder / "config.json").write_text(json.dumps(metric_weights.clip_json(config)))
    stored = load_file(folder / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    save_file(stored | {name: stored[name][:100]}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"has \d+ tokens, expected at most .* vocab_size 100"):
        load_clip(str(folder))


PREPROCESSOR = {
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(MEAN),
    "image_std": list(DEVIATION),
    "resample": 3,
    "size": {"shortest_edge": SIDE},
}


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"height": SIDE, "width": SIDE}},
        {"size": 2 * SIDE},
        {"crop_size": {"height": SIDE, "width": SIDE + 1}},
        {"image_mean": [0.5, 0.5, 0.5]},
        {"image_std": [0.5, 0.5, 0.5]},
        {"resample": 2},
        {"do_center_crop": False},
    ],
    ids=str,
)
def test_pictures_that_are_prepared_otherwise(folder, change):
    file = folder / "preprocessor_config.json"
    for same in (PREPROCESSOR, PREPROCESSOR | {"size": SIDE, "crop_size": SIDE}):
        file.write_text(json.dumps(same))
        load_clip(str(folder))
    file.write_text(json.dumps(PREPROCESSOR | change))
    ((name, value),) = change.items()
    with pytest.raises(UserError) as error:
        load_clip(str(folder))
    assert f"{name} in {file} is {value!r}, expected" in str(error.value)


# openai/clip-vit-large-patch14's, in part.
LARGE = {
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {
        "add_cross_attention": False,
        "attention_dropout": 0.0,
        "chunk_size_feed_forward": 0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "length_penalty": 1.0,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "top_k": 50,
        "vocab_size": 49408,
    },
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 224,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "top_p": 1.0,
    },
}


def test_published_configurations():
    large = clip_config(LARGE, "x")
    assert dataclasses.astuple(large.vision) == (
        *(1024, 4096, 24, 16, 224, 14),
        *("quick_gelu", 1e-5),
    )
    assert (large.text.hidden_size, large.projection_dim, large.eos_token_id) == (768, 768, 2)
    # ViT-B/32 is what transformers takes for granted.
    small = clip_config({"model_type": "clip", "text_config_dict": None}, "x")
    assert (small.text.hidden_size, small.text.num_attention_heads) == (512, 8)
    assert (small.vision.patch_size, small.projection_dim, small.eos_token_id) == (32, 512, 49407)
    # The older files have some fields twice.
    twice = {**LARGE, "text_config_dict": {"hidden_size": 640}}
    assert clip_config(twice, "x").text.hidden_size == 640
    assert clip_config(twice, "x").text.intermediate_size == 2048


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "siglip"}, "model_type in x is 'siglip', expected 'clip'"),
        ({"text_config": 3}, "text_config in x is 3, expected an object"),
        ({"projection_dim": "wide"}, "projection_dim in x is 'wide', expected a value such as 512"),
        ({"vision_config": {"num_channels": 4}}, "num_channels in x is 4, expected 3"),
        ({"vision_config": {"image_size": [224, 224]}}, "image_size in x is .*such as 224"),
        ({"vision_config": {"hidden_act": "relu"}}, "x does not describe a network: hidden_act"),
        ({"text_config": {"hidden_size": 513}}, "x does not describe a network: hidden_size"),
    ],
)
def test_configurations_that_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        clip_config(LARGE | change, "x")
