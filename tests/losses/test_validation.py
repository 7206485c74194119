"""The held-out loss: of every example, with fixed noise, and with what belongs to another."""

import functools

import jax
import numpy as np
import pytest
from fakes import mixed, random_batch, random_params, tiny_config, tiny_tokenizer

from ragaf_jax.losses import validation as monitor
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.losses.terms import validation_losses
from ragaf_jax.losses.validation import (
    GRAPH,
    alike,
    make_validate,
    shuffled,
    single_changes,
    variants,
)
from ragaf_jax.nets.build import build_model


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
    # The loss is that of the example's own image, so its sizes stay.
    assert all(wrong.sizes is batch.sizes for wrong in variants(batch, True).values())


def test_a_single_change_leaves_every_other_condition_in_place(rng):
    batch = random_batch(rng, tiny_config(2), 5)
    batch = batch._replace(sizes=batch.sizes + np.float32(rng.permutation(5)[:, None]))
    changed = {
        "shuffled_sketch": ("sketch",),
        "blank_sketch": ("sketch",),
        "shuffled_text": ("text",),
        "shuffled_graph": GRAPH,
        "empty_graph": ("labels",),
    }
    got = single_changes(batch, True)
    assert set(got) == {"true", *changed}
    assert set(single_changes(batch, False)) == set(got) - {"shuffled_graph", "empty_graph"}
    assert got.pop("true") is batch
    for name, shown in got.items():
        for field in batch._fields:
            pairs = jax.tree.map(np.array_equal, getattr(shown, field), getattr(batch, field))
            assert all(jax.tree.leaves(pairs)) == (
                field not in changed[name] or getattr(batch, field) is None
            ), (name, field)
    assert not got["blank_sketch"].sketch.any() and (got["empty_graph"].labels == -1).all()
    # Compiled for one, compiled for all.
    forms = [jax.tree.map(lambda x: (x.shape, x.dtype), shown) for shown in got.values()]
    assert all(form == forms[0] for form in forms)


def test_states_of_captions_go_with_their_captions(rng):
    batch = random_batch(rng, tiny_config(1), 3)
    states = rng.standard_normal((3, 12, 16)).astype(np.float32)
    text = batch.text._replace(states=states)
    for changed in (single_changes, variants):
        shown = changed(batch._replace(text=text), False)["shuffled_text"]
        np.testing.assert_array_equal(shown.text.states[1:], states[:-1])
        np.testing.assert_array_equal(shown.text.tokens[1:], batch.text.tokens[:-1])


def test_the_seed_alone_decides_the_loss(rng, stage2):
    config, _, params, validate = stage2
    batch = random_batch(rng, config, 4)
    first, again, other = (validate(params, batch, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["true"] != other["true"]


def test_what_is_shown_changes_the_losses(rng, stage2):
    config, model, params, _ = stage2
    batch = random_batch(rng, config, 4)
    losses = jax.jit(
        functools.partial(validation_losses, model, objective_of(config, tiny_tokenizer()))
    )
    # Of every example: two means can be the same float32 by chance.
    got = {
        name: tuple(map(float, losses(params, batch, shown, jax.random.key(0))))
        for name, shown in variants(batch, True).items()
    }
    assert len(set(got.values())) == len(got) == 4


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


def test_conditions_are_shuffled_between_examples_of_one_size(rng, stage2, monkeypatch):
    """All examples count but one that has no other of its size."""
    config, model, params, _ = stage2
    monkeypatch.setattr(monitor, "CHUNK", 2)
    monkeypatch.setattr(
        monitor,
        "validation_losses",
        lambda model, objective, params, batch, shown, rng: (batch.image * shown.sketch).mean(
            (1, 2, 3)
        ),
    )
    parts = [
        random_batch(rng, config, count, shape)
        for count, shape in ((3, (16, 16)), (2, (8, 24)), (1, (24, 8)))
    ]
    found = make_validate(model, objective_of(config, tiny_tokenizer()))(params, mixed(*parts), 0)
    for name, shift in (("true", 0), ("shuffled_text", 0), ("shuffled_sketch", 1)):
        products = [part.image * np.roll(part.sketch, shift, 0) for part in parts[:2]]
        expected = np.concatenate([x.mean((1, 2, 3)) for x in products]).mean()
        assert found[name] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("most", "counts"),
    [(None, [5, 3, 2]), (8, [3, 3, 2]), (5, [3, 2]), (3, [3]), (2, [2]), (99, [5, 3, 2])],
)
def test_the_first_examples_are_spread_over_the_sizes(rng, most, counts):
    shapes = {(16, 16): 3, (8, 24): 5, (24, 8): 2, (12, 20): 1}
    parts = [random_batch(rng, tiny_config(1), n, shape) for shape, n in shapes.items()]
    found = alike(mixed(*parts), most)
    assert [len(group.image) for group in found] == counts
    np.testing.assert_array_equal(found[0].image, parts[1].image[: counts[0]])
    assert [len(group.image) for group in alike(parts[1], most)] == [min(5, most or 5)]
