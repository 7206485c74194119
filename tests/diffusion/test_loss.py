"""One loss in three spaces: the weights agree with each other and with Hang et al. 2023."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.diffusion.loss import MAX_SNR, denoising_loss, loss_weight
from ragaf_jax.diffusion.prediction import PREDICTIONS, target
from ragaf_jax.diffusion.schedule import Schedule, make_schedule
from ragaf_jax.errors import UserError

SHAPE = (5, 4, 4, 3)


def normal(rng):
    return jnp.asarray(rng.normal(size=SHAPE), jnp.float32)


def loss_of_guess(kind, schedule, guess, x0, noise, t, gamma):
    """The loss where the network's x_0 is `guess`, said in the terms of `kind`."""
    alpha, sigma = (level[t].reshape(-1, 1, 1, 1) for level in schedule)
    implied_noise = noise + alpha / sigma * (x0 - guess)
    prediction = target(kind, schedule, guess, implied_noise, t)
    return denoising_loss(kind, schedule, prediction, x0, noise, t, gamma)


def test_min_snr_weights_one_error_alike_in_every_space(rng):
    schedule = make_schedule("scaled_linear")
    t = jnp.array([3, 150, 400, 700, 950])
    inputs = normal(rng), normal(rng), normal(rng), t, 5.0
    losses = [loss_of_guess(kind, schedule, *inputs) for kind in PREDICTIONS]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)
    np.testing.assert_allclose(losses[2], losses[0], rtol=2e-3)


def test_sample_without_gamma_is_the_v_loss(rng):
    schedule = make_schedule("scaled_linear")
    t = jnp.array([0, 150, 400, 700, 999])
    inputs = normal(rng), normal(rng), normal(rng), t, None
    v_loss = loss_of_guess("v_prediction", schedule, *inputs)
    np.testing.assert_allclose(loss_of_guess("sample", schedule, *inputs), v_loss, rtol=2e-3)


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("epsilon", lambda snr, gamma: np.minimum(snr, gamma) / snr),
        ("v_prediction", lambda snr, gamma: np.minimum(snr, gamma) / (snr + 1)),
        ("sample", lambda snr, gamma: np.minimum(snr, gamma)),
    ],
)
def test_min_snr_follows_the_paper(rng, kind, expected):
    schedule = make_schedule("scaled_linear")
    gamma = float(rng.uniform(1, 20))
    t = np.arange(1000)
    alpha = np.asarray(schedule.alpha, np.float64)
    weight = loss_weight(kind, schedule, jnp.asarray(t), gamma)
    np.testing.assert_allclose(weight, expected(alpha**2 / (1 - alpha**2), gamma), rtol=1e-3)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_without_gamma_the_plain_error_counts(rng, kind):
    schedule = make_schedule("cosine")
    x0, noise, prediction = normal(rng), normal(rng), normal(rng)
    t = jnp.array([100, 300, 500, 700, 900])
    loss = denoising_loss(kind, schedule, prediction, x0, noise, t)
    assert loss.shape == (5,) and loss.dtype == jnp.float32
    error = np.asarray(prediction - target(kind, schedule, x0, noise, t), np.float64)
    plain = (error**2).mean((1, 2, 3))
    if kind == "sample":
        plain = plain / np.asarray(schedule.sigma, np.float64)[t] ** 2
    np.testing.assert_allclose(loss, plain, rtol=1e-4)


@pytest.mark.parametrize("gamma", (None, 5.0))
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_weights_are_finite_from_no_noise_to_noise_alone(kind, gamma):
    schedule = Schedule(jnp.array([1.0, 0.6, 0.0]), jnp.array([0.0, 0.8, 1.0]))
    weight = loss_weight(kind, schedule, jnp.arange(3), gamma)
    assert np.all(np.isfinite(weight)) and np.all(weight >= 0) and np.all(weight <= MAX_SNR + 1)
    if gamma is not None and kind != "epsilon":
        assert weight[2] == 0


def test_the_weight_grows_no_further_than_max_snr():
    schedule = make_schedule("scaled_linear", zero_terminal_snr=True)
    t = jnp.arange(1000)
    capped = loss_weight("sample", schedule, t, None, max_snr=5.0)
    whole = np.asarray(loss_weight("sample", schedule, t, None))
    np.testing.assert_allclose(capped, np.minimum(whole, 6), rtol=1e-6)
    assert capped[0] == 6 and capped[-1] == 1


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_prediction_costs_nothing_and_its_gradient_is_zero(rng, kind):
    schedule = make_schedule("linear")
    x0, noise = normal(rng), normal(rng)
    t = jnp.asarray(rng.integers(0, 1000, 5))

    def loss(prediction):
        return denoising_loss(kind, schedule, prediction, x0, noise, t, 5.0).sum()

    value, gradient = jax.value_and_grad(loss)(target(kind, schedule, x0, noise, t))
    assert value == 0 and not gradient.any()


def test_half_precision_predictions_are_compared_in_float32(rng):
    schedule = make_schedule("linear")
    x0, noise = normal(rng), normal(rng)
    t = jnp.asarray(rng.integers(0, 1000, 5))
    loss = denoising_loss("epsilon", schedule, noise.astype(jnp.bfloat16), x0, noise, t)
    assert loss.dtype == jnp.float32 and np.all(loss > 0) and np.all(loss < 1e-4)


def test_an_unknown_kind_is_named(rng):
    schedule = make_schedule("linear")
    with pytest.raises(UserError, match='"score"'):
        denoising_loss("score", schedule, *[normal(rng)] * 3, jnp.zeros(5, int))
