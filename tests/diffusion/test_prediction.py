"""The three predictions are equivalent: each target gives back the data it was computed from."""

import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.diffusion.noise_grid import levels_at
from ragaf_jax.diffusion.prediction import PREDICTIONS, check_prediction, target, to_x0
from ragaf_jax.diffusion.schedule import add_noise, levels_like, make_schedule
from ragaf_jax.errors import UserError


def pair(rng, shape=(6, 5, 5, 3)):
    return (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))


@pytest.mark.parametrize("name", ("scaled_linear", "cosine"))
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_round_trip(rng, name, kind):
    schedule = make_schedule(name)
    x0, noise = pair(rng)
    t = jnp.array([0, 1, 250, 500, 800, 950])
    x_t = add_noise(schedule, x0, noise, t)
    prediction = target(kind, schedule, x0, noise, t)
    # Division by alpha magnifies float32's rounding; nothing else may be lost.
    np.testing.assert_allclose(to_x0(kind, prediction, x_t, levels_at(schedule, t)), x0, atol=1e-4)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_any_answer_is_consistent_with_x_t(rng, kind):
    """x_0 and the noise that is left of x_t have this prediction, whatever it is."""
    schedule = make_schedule("linear", 1000, 1e-4, 0.02)
    x_t, prediction = pair(rng)
    t = jnp.asarray(rng.integers(0, 700, 6))
    x0 = to_x0(kind, prediction, x_t, levels_at(schedule, t))
    alpha, sigma = levels_like(schedule, t, x0)
    noise = (x_t - alpha * x0) / sigma
    np.testing.assert_allclose(target(kind, schedule, x0, noise, t), prediction, atol=1e-3)


@pytest.mark.parametrize("kind", ("v_prediction", "sample"))
def test_noise_alone_still_has_an_answer(rng, kind):
    schedule = make_schedule("scaled_linear", zero_terminal_snr=True)
    x0, noise = pair(rng)
    t = jnp.full(6, 999)
    x_t = add_noise(schedule, x0, noise, t)
    np.testing.assert_array_equal(x_t, noise)
    prediction = target(kind, schedule, x0, noise, t)
    np.testing.assert_allclose(to_x0(kind, prediction, x_t, levels_at(schedule, t)), x0)


def test_v_is_the_derivative_along_the_angle(rng):
    """With alpha = cos φ and sigma = sin φ, v = dx/dφ (Salimans & Ho 2022, app. D)."""
    schedule = make_schedule("cosine")
    x0, noise = (np.asarray(a, np.float64) for a in pair(rng))
    t = jnp.asarray(rng.integers(0, 1000, 6))
    angle = np.arccos(np.asarray(schedule.alpha, np.float64)[t]).reshape(-1, 1, 1, 1)

    def at(a):
        return np.cos(a) * x0 + np.sin(a) * noise

    slope = (at(angle + 1e-5) - at(angle - 1e-5)) / 2e-5
    v = target(
        "v_prediction", schedule, jnp.asarray(x0, jnp.float32), jnp.asarray(noise, jnp.float32), t
    )
    np.testing.assert_allclose(v, slope, atol=1e-4)


def test_epsilon_and_zero_terminal_snr_are_refused_together():
    zero = make_schedule("scaled_linear", zero_terminal_snr=True)
    with pytest.raises(UserError, match="zero_terminal_snr"):
        check_prediction("epsilon", zero)
    check_prediction("v_prediction", zero)
    check_prediction("epsilon", make_schedule("scaled_linear"))


def test_an_unknown_kind_is_named(rng):
    schedule = make_schedule("linear")
    x0, noise = pair(rng)
    t = jnp.zeros(6, int)
    with pytest.raises(UserError, match='"velocity"'):
        target("velocity", schedule, x0, noise, t)
    with pytest.raises(UserError, match='"velocity"'):
        to_x0("velocity", noise, x0, levels_at(schedule, t))
    with pytest.raises(UserError, match='"velocity"'):
        check_prediction("velocity", schedule)
