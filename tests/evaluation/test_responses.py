"""Measured on tiny models: what is connected is heard, and what is cut off is exactly 0."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import mixed, random_batch, random_params, tiny_config, tiny_tokenizer
from flax.traverse_util import flatten_dict, unflatten_dict

from ragaf_jax.batch import Truth
from ragaf_jax.conditioning import condition
from ragaf_jax.evaluation import responses as responses_module
from ragaf_jax.evaluation.responses import make_responses
from ragaf_jax.losses.validation import single_changes
from ragaf_jax.monitoring.response import observe
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Model


def configured(stage):
    config = tiny_config(stage)
    config.response.update(examples=4, sample_steps=2)
    return config


def drawings(rng, config, count, shape=None):
    batch = random_batch(rng, config, count, shape)
    ink = (255 - 255 * batch.sketch[..., 0]).astype(np.uint8)
    nothing = np.zeros_like(ink)
    image = np.repeat(nothing[..., None], 3, -1)
    return batch, Truth(image, ink, nothing, nothing[:, 0], ("",) * count, ("",) * count)


def without(params, pattern):
    """The parameters with those at the paths that match set to zero."""
    flat = flatten_dict(params, sep="/")
    chosen = {name for name in flat if re.fullmatch(pattern, name)}
    assert chosen, "the pattern matches nothing"
    zeroed = {name: x * np.float32(name not in chosen) for name, x in flat.items()}
    return unflatten_dict(zeroed, sep="/")


@pytest.fixture(scope="module", params=[1, 2])
def stage(request):
    """A configuration, random parameters, six drawings, and responses on the first four."""
    config = configured(request.param)
    rng = np.random.default_rng(11)
    batch, truth = drawings(rng, config, 6)
    params = random_params(build_model(config), rng)
    return config, params, batch, make_responses(config, tiny_tokenizer(), batch, truth)


def test_every_condition_of_an_open_network_matters(stage):
    config, params, _, responses = stage
    values = responses(params)
    assert values == responses(params)
    assert all(isinstance(value, float) and np.isfinite(value) for value in values.values())
    kinds = {"sketch", "text"} | ({"graph"} if config.stage == 2 else set())
    variants = {"true", "blank_sketch"} | {f"shuffled_{kind}" for kind in kinds}
    variants |= {"empty_graph"} if config.stage == 2 else set()
    expected = {f"response/{kind}{x}" for kind in kinds for x in ("", "_error")}
    expected |= {f"response/{name}{x}" for name in variants for x in ("_loss", "_edge_f1")}
    assert set(values) == expected | {"response/sketch_edge_f1"}
    assert len({values[f"response/{name}_loss"] for name in variants}) == len(variants)
    for kind in kinds:
        assert values[f"response/{kind}"] != 0 and values[f"response/{kind}_error"] > 0


NO_SKETCH = r"control/controlnet_cond_embedding/conv_out/.*"
NO_GRAPH = r"ragaf/(feature|gamma)_.*"
NO_TEXT = r"(unet|control)/.*/attn2/to_v/.*"


def test_a_condition_that_is_cut_off_has_a_response_of_exactly_zero(stage):
    config, params, _, responses = stage
    cut = responses(without(params, NO_SKETCH))
    assert (cut["response/sketch"], cut["response/sketch_error"]) == (0.0, 0.0)
    assert cut["response/sketch_edge_f1"] == 0.0
    assert cut["response/blank_sketch_loss"] == cut["response/true_loss"]
    assert cut["response/text"] != 0.0
    _, [sentence] = observe({}, 200, {k: v for k, v in cut.items() if "sketch" in k}, 200)
    assert sentence.startswith("response/sketch is 0.0 after 200 steps: ")
    if config.stage == 1:
        # As ControlNet begins: the branch sees the sketch, and its zero convolutions pass nothing.
        begun = responses(without(params, r"control/controlnet_(down|mid)_block.*"))
        assert begun["response/sketch"] == begun["response/sketch_error"] == 0.0
    unplaced = without(params, NO_GRAPH) if config.stage == 2 else params
    cut = responses(without(unplaced, NO_TEXT))
    assert (cut["response/text"], cut["response/text_error"]) == (0.0, 0.0)
    assert cut["response/sketch"] != 0.0
    if config.stage == 2:
        assert (cut["response/graph"], cut["response/graph_error"]) == (0.0, 0.0)
        assert cut["response/empty_graph_loss"] == cut["response/true_loss"]


def test_an_empty_graph_is_one_whose_regions_are_dropped(rng):
    config = configured(2)
    model = build_model(config)
    params, batch = random_params(model, rng), random_batch(rng, config, 2)
    batch = jax.tree.map(jnp.asarray, batch)
    noise = jnp.asarray(rng.standard_normal((2, *model.latent_shape)), jnp.float32)
    predict = jax.jit(lambda shown: model.predict(params, noise, jnp.full(2, 500.0), shown)[0])
    shown = condition(model, params, batch, jnp.ones(2))
    dropped = shown._replace(regions=shown.regions._replace(active=jnp.zeros(2)))
    empty = jax.tree.map(jnp.asarray, single_changes(batch, True)["empty_graph"])
    got = predict(condition(model, params, empty, jnp.ones(2)))
    np.testing.assert_array_equal(got, predict(dropped))
    assert np.abs(got - predict(shown)).max() > 1e-3


class Draughtsman(Model):
    """Draws the sketch that it is shown, and nothing else."""

    def predict(self, params, latents, timesteps, conditioning, rng=None, **others):
        return self.encode_image(params, 0.9 - 1.8 * conditioning.sketch), None


class Dreamer(Model):
    """Draws a blank page, whatever it is shown."""

    def predict(self, params, latents, timesteps, conditioning, rng=None, **others):
        return jnp.full(latents.shape, 0.5), None


@pytest.mark.parametrize("kind", [Draughtsman, Dreamer])
def test_losses_and_lines_are_those_of_each_own_drawing(rng, monkeypatch, kind):
    """A line down the page, of every drawing elsewhere, is drawn or is not."""
    config = configured(1)
    batch, truth = drawings(rng, config, 4)
    ink = np.zeros((4, 16, 16), np.float32)
    ink[np.arange(4), :, rng.permutation([1, 5, 10, 14])] = 1
    sketch = np.repeat(ink[..., None], 3, -1)
    batch = batch._replace(sketch=sketch, image=1 - 2 * sketch)
    truth = truth._replace(sketch_u8=(255 - 255 * ink).astype(np.uint8))
    model = kind(**vars(build_model(config)))
    params = {"text_encoder": random_params(model, rng)["text_encoder"]}
    monkeypatch.setattr(responses_module, "build_model", lambda config: model)
    values = make_responses(config, tiny_tokenizer(), batch, truth)(params)
    state, said = observe({}, 100, values, 200)
    said += observe(state, 200, values, 200)[1]
    sketch_said = [sentence for sentence in said if "sketch" in sentence]
    assert values["response/text"] == values["response/text_error"] == 0.0
    if kind is Dreamer:
        assert values["response/sketch"] == values["response/true_edge_f1"] == 0.0
        assert len(sketch_said) == 1 and "the model ignores the sketch" in sketch_said[0]
        return
    assert values["response/sketch"] > 1
    assert values["response/true_edge_f1"] == values["response/sketch_edge_f1"] == 1.0
    assert (
        values["response/shuffled_sketch_edge_f1"] == values["response/blank_sketch_edge_f1"] == 0
    )
    assert values["response/true_loss"] < values["response/blank_sketch_loss"]
    assert len(sketch_said) == 1 and "follows the sketch from step 100 on" in sketch_said[0]
    assert sketch_said[0].endswith("the edge F1 of samples is 0.00 instead of 1.00.")


@pytest.mark.products
def test_drawings_of_several_sizes_are_compared_with_others_of_their_size(rng):
    """Each example's loss is that of a measurement of its size alone."""
    config = configured(1)
    config.response.examples = 5
    params = random_params(build_model(config), rng)
    groups = [
        drawings(rng, config, n, shape) for n, shape in ((3, (16, 16)), (2, (8, 24)), (1, (24, 8)))
    ]
    batch = mixed(*(batch for batch, _ in groups))
    sketches = mixed(*(truth.sketch_u8 for _, truth in groups))
    truth = Truth(sketches, sketches, sketches, None, ("",) * 6, ("",) * 6)
    values = make_responses(config, tiny_tokenizer(), batch, truth)(params)
    alone = [make_responses(config, tiny_tokenizer(), *group)(params) for group in groups[:2]]
    for name in ("true", "shuffled_sketch", "blank_sketch", "shuffled_text"):
        for what in ("loss", "edge_f1"):
            three, two = (each[f"response/{name}_{what}"] for each in alone)
            expected = (3 * three + 2 * two) / 5
            assert values[f"response/{name}_{what}"] == pytest.approx(expected, rel=1e-5)
    cut = make_responses(config, tiny_tokenizer(), batch, truth)(without(params, NO_SKETCH))
    assert (cut["response/sketch"], cut["response/sketch_error"]) == (0.0, 0.0)
