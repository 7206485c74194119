"""Messages about measured responses: followed or ignored, once each, and across a resumption."""

import json

import numpy as np
import pytest
from scipy.stats import sem

from ragaf_jax.monitoring.response import observe, response


def measured(value, error=0.0, condition="sketch"):
    return {f"response/{condition}": value, f"response/{condition}_error": error}


def observed(series, warn_after=200):
    """Every sentence, with its step; the state goes through JSON as it does in a checkpoint."""
    state, said = {}, []
    for step, values in series:
        state, sentences = observe(json.loads(json.dumps(state)), step, values, warn_after)
        said += [(step, sentence) for sentence in sentences]
    return said


def test_the_response_is_the_paired_relative_growth(rng):
    true = rng.uniform(0.1, 10, 12).astype(np.float32)
    growth = rng.normal(0.2, 0.1, 12)
    got = response(true, (true * (1 + growth)).astype(np.float32))
    np.testing.assert_allclose(got.mean, growth.mean(), rtol=1e-5)
    np.testing.assert_allclose(got.error, sem(growth), rtol=1e-4)
    assert response(true, true.copy()) == (0.0, 0.0)
    # Losses a hundredfold apart: pairing sees what unpaired means would lose in their spread.
    true = np.float32(10.0) ** rng.uniform(-1, 1, 12).astype(np.float32)
    got = response(true, true * np.float32(1.05))
    assert got.mean > 100 * got.error


def test_a_condition_that_stays_at_zero_is_said_once_and_at_warn_after():
    said = observed([(step, measured(0.0)) for step in range(50, 601, 50)])
    [(step, sentence)] = said
    assert step == 200
    assert sentence == (
        "response/sketch is 0.0 after 200 steps: with another image's sketch the held-out loss is "
        "bit-identical, so the model ignores the sketch. Check that "
        "config.train.trainable trains control/.* and that config.train.sketch_dropout is below 1."
    )
    # A measurement at warn_after alone is enough.
    assert [step for step, _ in observed([(500, measured(0.0))])] == [500]


def test_what_may_be_chance_is_called_so():
    [(step, sentence)] = observed([(100, measured(-0.01, 0.02)), (200, measured(0.001, 0.002))])
    assert step == 200
    assert sentence.startswith(
        "response/sketch is 0.001 ± 0.002 after 200 steps, which may be chance: "
    )


def test_no_wolf_is_cried_over_zero_convolutions():
    """Exact zeros, then a response that is tiny and certain, then one that chance has spoiled."""
    tiny = [(step, measured(1e-5 * step, 1e-7 * step)) for step in (100, 150, 200, 250)]
    spoiled = [(300, measured(1e-3, 1e-2)), (350, measured(4e-3, 1e-4))]
    assert observed([(0, measured(0.0)), (50, measured(0.0)), *tiny, *spoiled]) == []


def test_sudden_convergence_is_reported_once_with_the_step_it_began_at():
    values = {"response/true_edge_f1": 0.8, "response/shuffled_sketch_edge_f1": 0.3}
    rises = [(300, 0.4), (400, 0.5), (500, 0.6), (600, 0.0), (700, 0.6), (800, 0.6)]
    series = [(100, measured(1e-4, 1e-5)), (200, measured(0.3, 0.2))]
    series += [(step, measured(value, 0.05) | values) for step, value in rises]
    [(step, sentence)] = observed(series)
    assert step == 400
    assert sentence == (
        "The model follows the sketch from step 300 on: with another image's sketch the held-out "
        "loss is 50.0 ± 5.0 % higher, and the edge F1 of samples is 0.30 instead of 0.80."
    )


@pytest.mark.parametrize(("value", "error"), [(0.009, 1e-6), (0.2, 0.07), (0.0, 0.0)])
def test_neither_small_nor_uncertain_is_obeyed(value, error):
    said = observed([(step, measured(value, error)) for step in range(100, 1000, 100)], 10**6)
    assert said == []


def test_twice_in_a_row_means_in_a_row():
    series = [(step, measured(0.5 * (step % 200 == 0), 0.01)) for step in range(100, 1000, 100)]
    assert observed(series, 10**6) == []


def test_conditions_are_told_apart_and_a_lost_measurement_is_passed_over():
    zero, much = measured(0.0, condition="graph"), measured(0.5, 0.01)
    lost = measured(float("nan"), float("nan"))
    said = observed([(100, zero | much), (150, lost), (200, zero | much)])
    assert [(step, sentence[:33]) for step, sentence in said] == [
        (200, "The model follows the sketch from"),
        (200, "response/graph is 0.0 after 200 s"),
    ]
    assert "step 100 on" in said[0][1] and "ragaf/.*" in said[1][1]
    [(_, sentence)] = observed([(200, measured(0.0, condition="text"))])
    assert "ignores the text" in sentence


def test_one_that_stops_listening_is_noticed():
    series = [(100, measured(0.5, 0.01)), (200, measured(0.5, 0.01))]
    series += [(step, measured(0.0)) for step in (300, 400, 500)]
    assert [(s, x[:19]) for s, x in observed(series)] == [
        (200, "The model follows t"),
        (400, "response/sketch is "),
    ]


def test_the_state_that_was_given_is_left_alone():
    state, _ = observe({}, 100, measured(0.0), 200)
    copy = json.loads(json.dumps(state))
    observe(state, 200, measured(0.0), 200)
    assert state == copy
