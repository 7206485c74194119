"""The held-out loss: of every example, with fixed noise, and with what belongs to another."""

import numpy as np
import pytest
from fakes import random_batch, random_params, tiny_config, tiny_tokenizer

from ragaf_jax.nets.build import build_model
from ragaf_jax.training import monitor
from ragaf_jax.training.monitor import make_validate, shuffled, variants
from ragaf_jax.training.setup import objective_of


@pytest.fixture(scope="module")
def stage2():
    config = tiny_config(2)
    model = build_model(config)
    params = random_params(model, np.random.default_rng(3))
    return config, model, params, make_validate(model, objective_of(config, tiny_tokenizer()))


def test_shuffling_gives_every_example_the_fields_of_another(rng):
    batch = random_batch(rng, tiny_config(2), 5)
    other = shuffled(batch, "labels", "graph")
    np.testing.assert_array_equal(other.labels[1:], batch.labels[:-1])
    np.testing.assert_array_equal(other.graph.nodes[0], batch.graph.nodes[-1])
    np.testing.assert_array_equal(other.sketch, batch.sketch)
    assert set(variants(batch, False)) == {"true", "shuffled_sketch", "shuffled_text"}
    assert set(variants(batch, True)) - set(variants(batch, False)) == {"shuffled_graph"}


def test_the_seed_alone_decides_the_loss_and_what_is_shown_changes_it(rng, stage2):
    config, _, params, validate = stage2
    batch = random_batch(rng, config, 4)
    first, again, other = (validate(params, batch, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["true"] != other["true"]
    assert len(set(first.values())) == 4


@pytest.mark.parametrize("count", [2, 5, 9])
def test_every_held_out_example_counts_once(rng, stage2, monkeypatch, count):
    config, model, params, _ = stage2
    monkeypatch.setattr(monitor, "CHUNK", 4)
    batch = random_batch(rng, config, count)
    # In place of the loss, which depends on the noise of its piece: a number of each example.
    monkeypatch.setattr(
        monitor,
        "validation_losses",
        lambda model, objective, params, batch, shown, rng: batch.image.mean((1, 2, 3)),
    )
    validate = make_validate(model, objective_of(config, tiny_tokenizer()))
    expected = batch.image.mean()
    assert validate(params, batch, 0)["true"] == pytest.approx(expected, abs=1e-6)
