"""Traces on held-out examples are those of the model, for any chunks and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import random_batch, random_params, tiny_config, tiny_tokenizer
from quarters import quarters

from ragaf_jax.conditioning import condition
from ragaf_jax.diffusion.build import schedule_of
from ragaf_jax.diffusion.noise import example_keys, example_noise
from ragaf_jax.diffusion.schedule import add_noise
from ragaf_jax.evaluation.held_out_trace import make_trace
from ragaf_jax.evaluation.metrics.attention import attention_scores
from ragaf_jax.evaluation.networks import chunks
from ragaf_jax.evaluation.statistics.fusion_balance import region_balance
from ragaf_jax.nets.build import build_model
from ragaf_jax.sampling.denoising import TRACE_LEVELS


def made(rng, **changes):
    """A model, its random parameters, and a function that returns its traces."""
    config = tiny_config(2)
    config.update_from_flattened_dict(changes)
    model = build_model(config)
    return config, model, random_params(model, rng), make_trace(model, schedule_of(config))


def test_it_is_the_models_trace_on_noised_pictures(rng):
    config, model, params, trace_of = made(rng)
    batch = random_batch(rng, config, 3)
    found = trace_of(params, batch, 5)
    assert found.levels == TRACE_LEVELS
    count, regions, tokens = len(TRACE_LEVELS), config.data.max_regions, config.data.text_length
    assert found.attention.shape == (count, 3, regions, tokens)
    assert found.fusion.shape == (count, 3, regions, 2)
    np.testing.assert_allclose(found.attention.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.fusion.sum(-1), 1, rtol=1e-5)
    hidden = ~batch.text.mask[None, :, None].repeat(count, 0).repeat(regions, 2)
    assert (found.attention[hidden] == 0).all()

    schedule, keys = schedule_of(config), example_keys(jax.random.key(5), 3)
    noise = example_noise(keys, model.latent_shape)
    level = int(rng.integers(count))

    @jax.jit
    def trace(params, batch):
        t = jnp.full(3, round(TRACE_LEVELS[level] * config.diffusion.steps))
        noisy = add_noise(schedule, model.encode_image(params, batch.image), noise, t)
        shown = condition(model, params, batch, jnp.ones(3))
        return model.predict(params, noisy, t.astype(jnp.float32), shown)[1]

    expected = trace(params, batch)
    np.testing.assert_allclose(found.attention[level], expected.attention, atol=1e-5)
    np.testing.assert_allclose(found.fusion[level], expected.fusion, atol=1e-5)
    assert np.abs(found.attention[0] - found.attention[-1]).max() > 1e-4
    again = trace_of(params, batch, 5)
    np.testing.assert_array_equal(again.attention, found.attention)
    assert np.abs(trace_of(params, batch, 6).attention - found.attention).max() > 1e-6


def test_chunks_change_nothing(rng, monkeypatch):
    config, _, params, trace_of = made(rng)
    batch = random_batch(rng, config, 5)
    whole = trace_of(params, batch, 0)
    monkeypatch.setattr(chunks, "CHUNK", 2)
    parts = trace_of(params, batch, 0)
    np.testing.assert_allclose(parts.attention, whole.attention, atol=1e-5)
    np.testing.assert_allclose(parts.fusion, whole.fusion, atol=1e-5)


def test_other_numbers_for_the_regions_number_the_rows(rng):
    config, _, params, trace_of = made(rng)
    batch = random_batch(rng, config, 2)
    labels = np.empty_like(batch.labels)
    orders, rows = [], []
    for i, count in enumerate(batch.graph.n_node[:, 0]):
        names = rng.permutation(count)
        labels[i] = names[batch.labels[i]]
        orders.append(names)
        node = np.arange(config.data.max_regions)
        node[names] = np.arange(count)
        rows.append(node)
    graph = batch.graph
    renamed = graph._replace(
        nodes=np.stack([x[row] for x, row in zip(graph.nodes, rows, strict=True)]),
        senders=_renamed(graph.senders, orders),
        receivers=_renamed(graph.receivers, orders),
    )
    one, other = (
        trace_of(params, batch, 0),
        trace_of(params, batch._replace(labels=labels, graph=renamed), 0),
    )
    for i, names in enumerate(orders):
        same = one.attention[:, i, : len(names)]
        np.testing.assert_allclose(other.attention[:, i, names], same, atol=1e-5)


def _renamed(ends, orders):
    """Senders or receivers by the new numbers; padding keeps its own."""
    full = [np.concatenate([names, np.arange(len(names), 99)]) for names in orders]
    return np.stack([names[x] for names, x in zip(full, ends, strict=True)]).astype(np.int32)


def test_the_heuristic_balance_is_its_formula(rng):
    config, _, params, trace_of = made(rng, **{"model.ragaf.fusion": "heuristic"})
    batch = random_batch(rng, config, 3)
    regions = region_balance(trace_of(params, batch, 0).fusion, batch.graph)
    expected = 0.3 + 0.6 * np.array(TRACE_LEVELS)
    np.testing.assert_allclose(
        regions.alpha, np.broadcast_to(expected[:, None], regions.alpha.shape), rtol=1e-6
    )


@pytest.mark.parametrize("trained", [False, True])
def test_a_model_that_cannot_tell_words_apart_is_at_chance(rng, trained):
    config, _, params, trace_of = made(rng)
    batch, truth = quarters(rng, config, 4)
    if not trained:  # parameters of 0 attend to every word alike
        params = jax.tree.map(np.zeros_like, params)
    attention = trace_of(params, batch, 0).attention.mean(0)
    scores = attention_scores(attention, batch, truth, tiny_tokenizer())
    assert len(scores.part) == 12 and scores.drawing.tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
        3,
        3,
        3,
    ]
    np.testing.assert_allclose(scores.phrase_chance, 2 / 9)
    np.testing.assert_allclose(scores.color_chance, 1 / 9)
    np.testing.assert_allclose(scores.pointing_chance, 1 / 3)
    for name in ("phrase", "color", "pointing"):
        found, chance = getattr(scores, name), getattr(scores, f"{name}_chance")
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1 + 1e-6
        if not trained:
            np.testing.assert_allclose(found, chance, rtol=1e-5)
