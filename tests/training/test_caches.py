"""A step that reads latents and text states is the step that computes them, but needs no network.

Nor their parameters, which says more than a count of operations.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import as_sdxl, random_batch, random_params, tiny_config, tiny_tokenizer
from jax.flatten_util import ravel_pytree
from test_tokenizer import write_folder
from written import configured, random_trees, write

from configs import stage1
from ragaf_jax.checkpoints.checkpointer import Checkpointer
from ragaf_jax.conditioning import encoded, latents_of
from ragaf_jax.errors import UserError
from ragaf_jax.losses.objective import drop_text, objective_of
from ragaf_jax.losses.terms import ragaf_only_loss
from ragaf_jax.monitoring.writers import Writer
from ragaf_jax.nets.build import build_model
from ragaf_jax.training.adopt import adopted
from ragaf_jax.training.caches import cache_keys, with_empty_states
from ragaf_jax.training.config_checks import check_config
from ragaf_jax.training.initial import initial_params
from ragaf_jax.training.loop import train
from ragaf_jax.training.optim import optimizer
from ragaf_jax.training.setup import check_same_run, initial_state
from ragaf_jax.training.step import train_step
from ragaf_jax.weights.fingerprint import latents_key, text_key


def kl_config(stage):
    """A stage on latents of a tiny VAE, of which only the sketch branch and RAGAF are trained."""
    config = tiny_config(stage)
    config.update_from_flattened_dict(
        {
            "data.cache": "latents,text",
            "model.autoencoder": "kl",
            "model.vae.block_out_channels": (4, 4, 8),
            "model.vae.layers_per_block": 1,
            "model.vae.norm_num_groups": 2,
            "train.trainable": ("control/.*", "ragaf/.*") if stage == 2 else ("control/.*",),
            "train.frozen": (".*",),
            "train.text_dropout": 0.5,
        }
    )
    if stage == 1:  # Words reach the middle of the UNet; the rest would take long to compile.
        config.model.unet.down_block_types = ("DownBlock2D",)
        config.model.unet.up_block_types = ("UpBlock2D",)
    return config


@functools.partial(jax.jit, static_argnums=0)
def computed(model, params, batch):
    """Moments of the latents, and text states."""
    moments = model.autoencoder.moments(params["autoencoder"], batch.image)
    text = model.encode_text(params, batch.text)
    return *moments, text.states, text.pooled


def cached(model, params, batch, dtype):
    """The batch as a loader with caches would give it."""
    outputs = computed(model, params, batch)
    mean, std, states, pooled = jax.tree.map(lambda x: jnp.asarray(x, dtype), outputs)
    text = batch.text._replace(states=states, pooled=pooled)
    return batch._replace(image=None, latent_mean=mean, latent_std=std, text=text)


def parts(number, rng, change=None):
    """Model, state, objective with and without the empty prompt's states, and a batch."""
    config = kl_config(number) if change is None else change(kl_config(number))
    model = build_model(config)
    state = initial_state(config, model, optimizer(config.train), random_params(model, rng))
    objective = objective_of(config, tiny_tokenizer())
    batch = jax.tree.map(jnp.asarray, random_batch(rng, config))
    return model, state, objective, with_empty_states(objective, model, state), batch


def without_networks(params):
    """The parameters but for those of the autoencoder and the text encoder."""
    few = {k: v for k, v in params.items() if k not in ("autoencoder", "text_encoder")}
    assert len(few) == len(params) - 2
    return few


@pytest.mark.slow
@pytest.mark.parametrize("change", [None, as_sdxl])
def test_a_step_is_the_same_without_the_networks(rng, change):
    model, state, objective, fast, batch = parts(1, rng, change)
    tx, key = optimizer(kl_config(1).train), jax.random.key(1)
    step = jax.jit(functools.partial(train_step, model, tx, 0.9, objective))
    expected, expected_scalars = step(key, state, batch)

    few = state.replace(frozen=without_networks(state.frozen))
    step = jax.jit(functools.partial(train_step, model, tx, 0.9, fast))
    after, scalars = step(key, few, cached(model, state.params, batch, jnp.float32))
    for name, value in expected_scalars.items():
        np.testing.assert_allclose(scalars[name], value, rtol=2e-5, err_msg=name)
    # Adam's averages are made of the gradients.
    a, b = (ravel_pytree(x.opt_state)[0] for x in (after, expected))
    assert jnp.linalg.norm(a - b) <= 1e-4 * jnp.linalg.norm(b)


def test_reading_is_the_same_without_the_networks(rng):
    model, state, _, _, batch = parts(2, rng)
    params = state.params
    times = jnp.asarray(rng.uniform(0, 999, len(batch.text.tokens)), jnp.float32)
    loss_of = jax.jit(functools.partial(ragaf_only_loss, model))
    expected = loss_of(params, batch, times)
    batch = cached(model, params, batch, jnp.float32)
    loss = loss_of(without_networks(params), batch, times)
    assert float(loss) == pytest.approx(float(expected), rel=2e-5)


def test_the_same_draw_up_to_rounding(rng):
    model, state, _, _, batch = parts(1, rng)
    params = state.params
    key = jax.random.split(jax.random.key(int(rng.integers(2**31))), len(batch.text.tokens))
    fast = cached(model, params, batch, jnp.bfloat16)
    _, std, computed_states, _ = computed(model, params, batch)
    latents = jax.jit(latents_of, static_argnums=0)
    mode, draw = (latents(model, params, batch, k) for k in (None, key))
    for k, expected in ((None, mode), (key, draw)):
        found = latents_of(model, {}, fast, k)
        assert found.dtype == jnp.float32
        # Half of bfloat16's last bit, of the mean and of the deviation.
        bound = 2**-8 * (np.abs(mode) + (np.abs(draw - mode) if k is key else 0)) + 1e-6
        assert (np.abs(found - expected) <= bound).all()
    assert np.abs(draw - mode).max() > 0.1 * std.max()
    states = encoded(model, {}, fast.text).states
    assert states.dtype == jnp.float32
    np.testing.assert_allclose(states, computed_states, rtol=2**-8, atol=1e-6)


def test_dropped_text_has_the_states_of_the_empty_prompt(rng):
    model, state, _, objective, batch = parts(1, rng)
    fast = cached(model, state.params, batch, jnp.bfloat16)
    dropped = jnp.arange(len(batch.text.tokens)) % 2 == 0
    result = drop_text(objective, fast, dropped)
    without = objective.empty_text._replace(states=None)
    plain = drop_text(dataclasses.replace(objective, empty_text=without), batch, dropped)
    expected = model.encode_text(state.params, plain.text).states
    np.testing.assert_allclose(result.text.states.astype(float), expected, rtol=2**-8, atol=1e-5)
    np.testing.assert_array_equal(result.text.states[1::2], fast.text.states[1::2])


def test_dropped_text_of_sdxl_is_zeros(rng):
    """States and pooled text, as the base model was trained; with caches and without."""
    model, state, _, objective, batch = parts(1, rng, as_sdxl)
    fast = cached(model, state.params, batch, jnp.bfloat16)
    dropped = jnp.arange(len(batch.text.tokens)) % 2 == 0
    without = dataclasses.replace(
        objective, empty_text=objective.empty_text._replace(states=None, pooled=None)
    )
    plain = model.encode_text(state.params, drop_text(without, batch, dropped).text)
    for text in (plain, drop_text(objective, fast, dropped).text):
        for found, full in ((text.states, fast.text.states), (text.pooled, fast.text.pooled)):
            assert not found[::2].any() and full.astype(float).any()
            expected = full[1::2].astype(float)
            np.testing.assert_allclose(found[1::2].astype(float), expected, rtol=2**-7, atol=1e-5)


def keys_of(config, *caches):
    """The keys that a run of this configuration would ask for, for each of `caches`."""
    model = build_model(config)
    params = random_params(model, np.random.default_rng(0))
    state = initial_state(config, model, optimizer(config.train), params)
    found = []
    for config.data.cache in caches:
        found.append(cache_keys(config, model, state, tiny_tokenizer()))
    return found


def test_only_what_is_asked_for():
    both, *rest = keys_of(kl_config(1), "latents,text", "latents", "text", "")
    assert set(both) == {"latents", "text"}
    assert rest == [{kind: both[kind]} for kind in ("latents", "text")] + [{}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.autoencoder": "haar"}, "autoencoder 'haar', whose latents need no cache; remove"),
        ({"train.trainable": ("text_encoder/.*",)}, "text encoder, or a LoRA of it, is trained"),
        ({"train.trainable": (".*final_layer_norm.*",)}, "text encoder, or a LoRA of it, is train"),
        ({"model.lora.patterns": ("text_encoder/.*/fc1",)}, "or a LoRA of it, is trained"),
    ],
)
def test_there_is_nothing_to_cache(changes, said):
    config = kl_config(1)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=rf"config\.data\.cache is 'latents,text' and .*{said}"):
        keys_of(config, "latents,text")


def test_a_lora_elsewhere_changes_no_text():
    config = kl_config(1)
    config.model.lora.patterns = ("unet/.*/to_q",)
    assert set(keys_of(config, "text")[0]) == {"text"}


def test_an_unknown_kind_is_refused_before_anything_is_read():
    config = stage1.get_config()
    config.data.cache = "latents,images"
    with pytest.raises(UserError, match="config.data.cache is 'latents,images', and 'images' cann"):
        check_config(config)


def test_a_run_may_go_on_with_and_without_caches(tmp_path):
    before = {"config": kl_config(1).to_dict(), "tokenizer": ""}
    after = kl_config(1)
    after.data.cache = ""
    check_same_run(before, {"config": after.to_dict(), "tokenizer": ""}, tmp_path)


class OnlyOpenedError(Exception):
    """Ends a run once it has asked for its batches."""


def test_a_run_asks_for_the_caches_of_its_own_weights(tmp_path, rng):
    """At its beginning, where being refused leaves nothing, and from a checkpoint in bfloat16."""
    trees, run = random_trees(rng), tmp_path / "run"
    folder = write(tmp_path / "sd", trees)
    write_folder(folder / "tokenizer")
    changes = {
        "data.cache": "latents,text",
        "model.dtype": "bfloat16",
        "init.control": str(folder / "controlnet"),
    }
    config, tokenizer = adopted(configured(folder, **changes), run)
    model = build_model(config)
    expected = {
        "latents": latents_key(trees["vae"], model.autoencoder.vae.config),
        "text": text_key(trees["text_encoder"], model.text_encoder.config, 0, tokenizer.to_json()),
    }
    held_out = random_batch(rng, tiny_config(1))

    def asked():
        found = {}

        def open_iterator(keys):
            found.update(keys)
            raise OnlyOpenedError

        with pytest.raises(OnlyOpenedError):
            train(config, run, open_iterator, held_out, tokenizer, lambda step: Writer())
        return found

    assert asked() == expected
    assert not run.exists()

    params = initial_params(config, model, None)
    state = initial_state(config, model, optimizer(config.train), params)
    assert {x.dtype for x in jax.tree.leaves(state.frozen)} == {jnp.dtype("bfloat16")}
    meta = {"config": config.to_dict(), "tokenizer": tokenizer.to_json()}
    checkpointer = Checkpointer(run)
    checkpointer.save(1, state, {}, meta)
    checkpointer.close()
    assert asked() == expected
