"""Stable Diffusion XL's networks in a model, and RAGAF in their deeper transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from published import UNET_XL

from ragaf_jax.batch import Text
from ragaf_jax.nets.autoencoder import HaarAutoencoder
from ragaf_jax.nets.blocks import Context, RegionSignal, SpatialTransformer
from ragaf_jax.nets.control import ControlNet
from ragaf_jax.nets.lora import LoraConfig, adapted, init_lora, merged
from ragaf_jax.nets.model import Conditioning, Model
from ragaf_jax.nets.ragaf import Ragaf, RagafConfig
from ragaf_jax.nets.text.clip import ClipTextConfig
from ragaf_jax.nets.text.sdxl import PooledClipText, SdxlText, SdxlTextConfig, second_tokens
from ragaf_jax.nets.unet import UNet, UNetConfig, injection_sites
from ragaf_jax.weights.configs.networks import unet_config

CLIP_L = ClipTextConfig(40, 8, 12, 2, 2, max_position_embeddings=9)
CLIP_G = dataclasses.replace(CLIP_L, hidden_size=16, hidden_act="gelu", projection_dim=6)
TINY = UNetConfig(
    sample_size=4,
    in_channels=12,
    out_channels=12,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=(2, 4),
    cross_attention_dim=24,
    use_linear_projection=True,
    norm_num_groups=4,
    transformer_layers_per_block=(1, 2),
    addition_embed_type="text_time",
    addition_time_embed_dim=2,
    projection_class_embeddings_input_dim=18,
)


def model():
    """A Stage 2 of SDXL's networks at the smallest sizes."""
    sites = tuple((site, width) for site, (_, width) in injection_sites(TINY).items())
    ragaf = Ragaf(RagafConfig(8, 1, 2), sites, 12, dtype=jnp.dtype("float32"))
    text, control = SdxlText(SdxlTextConfig(CLIP_L, CLIP_G)), ControlNet(TINY, (4, 8))
    return Model(UNet(TINY), control, text, HaarAutoencoder(1), 8, 9, 3, 4, ragaf)


def drawn(rng, network, *inputs):
    """Random parameters of a network with these inputs."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape)), shapes)


def test_sites_follow_from_the_configuration():
    levels = {f"up_blocks_{i}": (2 - i, (1280, 640)[i]) for i in range(2)}
    mid = {"mid_block/attentions_0": (2, 1280)}
    up = {f"{name}/attentions_{i}": where for name, where in levels.items() for i in range(3)}
    config = unet_config(UNET_XL, "x")
    assert injection_sites(config) == mid | up
    # Without attention in the middle, as SSD-1B, there is no site.
    assert injection_sites(dataclasses.replace(config, mid_block_type="UNetMidBlock2D")) == up


def test_a_bias_acts_in_each_block_of_a_site(rng):
    """To hide a token from all regions is to leave it out, in a transformer of two blocks."""
    x, text = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((1, 3, 2, 8), (1, 5, 4)))
    network = SpatialTransformer(2, True, groups=4, depth=2)
    whole, cut = Context(text), Context(jnp.delete(text, 1, 1))
    params = drawn(rng, network, x, whole)
    signal = RegionSignal(
        np.ones((1, 6, 1), np.float32), *(np.zeros((1, 1, n), np.float32) for n in (8, 5))
    )
    hidden = np.float32([[[0, -1e9, 0, 0, 0]]])
    apply = jax.jit(network.apply)
    found = apply(params, x, whole, signal._replace(logit_bias=hidden))
    np.testing.assert_allclose(found, apply(params, x, cut), atol=1e-5)
    assert not np.allclose(found, apply(params, x, whole, signal), atol=1e-3)


def test_the_parameters_of_a_whole_stage_2():
    shapes = flatten_dict(model().shapes(), sep="/")
    assert {path.split("/")[1] for path in shapes if path.startswith("text")} == {
        "clip_l",
        "clip_g",
    }
    assert shapes["unet/add_embedding/linear_1/kernel"].shape == (18, 32)
    assert shapes["control/add_embedding/linear_1/kernel"].shape == (18, 32)
    assert shapes["text_encoder/clip_g/text_projection/kernel"].shape == (16, 6)
    assert {path for path in shapes if "gamma" in path} == {
        f"ragaf/gamma_{site.replace('/', '_')}" for site in model().sites
    }
    assert "unet/mid_block/attentions_0/transformer_blocks_1/attn1/to_q/kernel" in shapes


def test_a_network_without_its_added_conditions():
    inputs = jnp.zeros((1, 4, 4, 12)), jnp.zeros(1), jnp.zeros((1, 3, 24))
    with pytest.raises(ValueError, match="added is None, expected pooled text and sizes"):
        jax.eval_shape(UNet(TINY).init, jax.random.key(0), *inputs)


def test_text_that_does_not_fit():
    tokens = jnp.zeros((1, 10), jnp.int32)
    with pytest.raises(ValueError, match="the text has 10 tokens, expected at most"):
        jax.eval_shape(PooledClipText(CLIP_G).init, jax.random.key(0), tokens)
    text = SdxlText(SdxlTextConfig(CLIP_L, CLIP_G), clip_skip=1)
    with pytest.raises(ValueError, match="clip_skip is 2, expected 0 to below"):
        jax.eval_shape(text.init, jax.random.key(0), tokens[:, :9])
    with pytest.raises(ValueError, match="projection_dim of the second text encoder is None"):
        SdxlTextConfig(CLIP_L, CLIP_L)


def test_token_embeddings_of_both_encoders(rng):
    """The vectors of a textual inversion are those of both encoders, side by side."""
    network = SdxlText(SdxlTextConfig(CLIP_L, CLIP_G))
    tokens = jnp.asarray([[38, 5, 7, 39, 39]])
    params = drawn(rng, network, tokens)
    tables = [
        params["params"][name]["text_model"]["embeddings"]["token_embedding"]["embedding"]
        for name in ("clip_l", "clip_g")
    ]
    vectors = jnp.concatenate([table[tokens] for table in tables], -1)
    apply = jax.jit(network.apply)
    pair = (apply(params, x, None, vectors) for x in (tokens.at[0, 1:3].set(-1), tokens))
    for one, other in zip(*pair, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_adapters_of_one_text_encoder(rng):
    """A LoRA of the second encoder and its projection, beside the weights and merged into them."""
    network = SdxlText(SdxlTextConfig(CLIP_L, CLIP_G))
    tokens = jnp.asarray([[38, 5, 7, 39, 39]])
    params = drawn(rng, network, tokens)["params"]
    config = LoraConfig((r"text_encoder/clip_g/.*/(q_proj|fc2)", ".*/text_projection"), 2, 3.0)
    adapters = init_lora(config, {"text_encoder": params}, jax.random.key(0))["text_encoder"]
    adapters = jax.tree.map(lambda x: x + 0.5 * np.float32(rng.standard_normal(x.shape)), adapters)
    paths = {path.rpartition("/")[0] for path in flatten_dict(adapters, sep="/")}
    layers = [f"clip_g/text_model/encoder/layers/{i}" for i in range(2)]
    assert paths == {
        "clip_g/text_projection",
        *(f"{layer}/{name}" for layer in layers for name in ("self_attn/q_proj", "mlp/fc2")),
    }

    @jax.jit
    def run(params, adapters):
        with adapted(adapters):
            return network.apply({"params": params}, tokens)

    (states, pooled), (plain, plain_pooled) = (run(params, given) for given in (adapters, {}))
    joined = run(merged(params, adapters), {})
    np.testing.assert_allclose(states, joined[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pooled, joined[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(states[..., :8], plain[..., :8])
    assert np.abs(states - plain)[..., 8:].max() > 0.1 < np.abs(pooled - plain_pooled).max()


def test_texts_of_several_owners(rng):
    """Each has the states that it has alone, and the first is pooled, packed or in windows."""
    stage = model()
    alone = jnp.asarray([[38, 5, *[39] * 7], [38, 6, 7, *[39] * 6]])
    params = {"text_encoder": drawn(rng, stage.text_encoder, alone)["params"]}
    whole = stage.encode_text(params, Text(alone, alone < 39))
    # As region prompts: no start and end token, or a mask that hides theirs.
    packed = jnp.asarray([[38, 5, 39, 6, 7, *[39] * 4]])
    ids = jnp.asarray([[0, 0, 0, 1, 1, 0, 0, 0, 0]])
    found = stage.encode_text(params, Text(packed, packed < 39, ids))
    windows = alone.reshape(1, 18)
    shown = windows < 38
    other = stage.encode_text(params, Text(windows, shown, jnp.repeat(jnp.arange(2), 9)[None]))
    np.testing.assert_allclose(found.states[0, :3], whole.states[0, :3], atol=1e-5)
    np.testing.assert_allclose(found.states[0, 3:5], whole.states[1, 1:3], atol=1e-5)
    np.testing.assert_allclose(other.states.reshape(whole.states.shape), whole.states, atol=1e-5)
    for text in (found, other):
        np.testing.assert_allclose(text.pooled, whole.pooled[:1], atol=1e-5)
    config = stage.text_encoder.config
    assert second_tokens(config, packed, ids).tolist() == [[38, 5, 39, 6, 7, 0, 0, 0, 0]]
    assert second_tokens(config, alone).tolist()[0] == [38, 5, 39, 0, 0, 0, 0, 0, 0]
    assert (
        second_tokens(config, alone[:1], 0 * ids).tolist()
        == second_tokens(config, alone[:1]).tolist()
    )


def test_an_empty_text_is_zeros(rng):
    """As in the base model's training: the whole text, of all its windows, and no other."""
    stage, empty = model(), [38, *[39] * 8]
    rows = jnp.asarray([[*empty, *empty], [38, 5, *[39] * 7, *empty], [*empty, 38, 6, *[39] * 7]])
    params = {"text_encoder": drawn(rng, stage.text_encoder, rows[:, :9])["params"]}
    found = stage.encode_text(params, Text(rows, rows < 38))
    assert not found.states[0].any() and not found.pooled[0].any()
    assert found.states[1:].reshape(4, -1).any(1).all() and found.pooled[1:].any(1).all()
    ids = jnp.repeat(jnp.arange(2), 9)[None]
    apart = stage.encode_text(params, Text(rows[2:], rows[2:] < 38, ids))
    assert not apart.states[0, :9].any() and not apart.pooled.any()
    np.testing.assert_array_equal(apart.states[0, 9:], found.states[2, 9:])
    config = dataclasses.replace(stage.text_encoder.config, zero_empty=False)
    kept = dataclasses.replace(stage, text_encoder=SdxlText(config))
    encoded = kept.encode_text(params, Text(rows, rows < 38))
    assert encoded.states[0].any() and encoded.pooled[0].any()
    np.testing.assert_array_equal(encoded.states[1:], found.states[1:])


@pytest.mark.parametrize("missing", ["text.pooled", "sizes"])
def test_a_missing_condition_is_named(missing):
    text = Text(*[jnp.zeros((1, 9), int)] * 2, pooled=jnp.zeros((1, 6)))
    given = Conditioning(text, jnp.zeros((1, 8, 8, 3)), sizes=jnp.zeros((1, 6)))
    lacking = {"sizes": None} if missing == "sizes" else {"text": text._replace(pooled=None)}
    with pytest.raises(ValueError, match=f"Conditioning.{missing} is None"):
        model().predict({}, jnp.zeros((1, 4, 4, 12)), jnp.zeros(1), given._replace(**lacking))
