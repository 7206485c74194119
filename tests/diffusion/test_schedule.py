"""Schedules against their definitions in float64, and zero terminal SNR."""

import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.diffusion.schedule import CLEAN, add_noise, finite_snr, levels, make_schedule
from ragaf_jax.errors import UserError

NAMES = ("linear", "scaled_linear", "cosine")


@pytest.mark.parametrize("zero_terminal_snr", (False, True))
@pytest.mark.parametrize("name", NAMES)
def test_preserves_variance_and_only_ever_loses_data(name, zero_terminal_snr):
    schedule = make_schedule(name, zero_terminal_snr=zero_terminal_snr)
    alpha, sigma = (np.asarray(a, np.float64) for a in schedule)
    assert schedule.alpha.dtype == schedule.sigma.dtype == jnp.float32
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)
    assert np.all(np.diff(alpha) < 0)
    assert alpha[0] < 1 and sigma[0] > 0 and alpha[-1] >= 0


def test_linear_is_the_product_of_one_minus_beta():
    schedule = make_schedule("linear", 50, 1e-3, 0.2)
    product = 1.0
    for t, beta in enumerate(np.linspace(1e-3, 0.2, 50)):
        product *= 1 - beta
        assert schedule.alpha[t] == pytest.approx(product**0.5, rel=1e-6)


def test_scaled_linear_is_linear_in_the_root_of_beta():
    alpha_bar = np.asarray(make_schedule("scaled_linear").alpha, np.float64) ** 2
    first, last = 1 - alpha_bar[0], 1 - alpha_bar[-1] / alpha_bar[-2]
    assert first == pytest.approx(0.00085, rel=1e-3) and last == pytest.approx(0.012, rel=1e-3)
    # How much of the image Stable Diffusion's last timestep still holds (Lin et al. 2023).
    assert alpha_bar[-1] ** 0.5 == pytest.approx(0.068265, abs=1e-5)


def test_cosine_follows_the_squared_cosine_until_beta_is_capped():
    alpha_bar = np.asarray(make_schedule("cosine", 1000).alpha, np.float64) ** 2
    angle = (np.arange(1000) / 1000 + 0.008) / 1.008 * np.pi / 2
    expected = (np.cos(angle[1:]) / np.cos(angle[0])) ** 2
    np.testing.assert_allclose(alpha_bar[:-1], expected, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_zero_terminal_snr_ends_in_noise_alone_and_keeps_the_start(name):
    plain, zero = make_schedule(name), make_schedule(name, zero_terminal_snr=True)
    assert zero.alpha[-1] == 0 and zero.sigma[-1] == 1
    assert zero.alpha[0] == pytest.approx(float(plain.alpha[0]), rel=1e-6)
    # Shifted and scaled: differences keep their proportions.
    ratio = np.diff(zero.alpha[::100]) / np.diff(plain.alpha[::100])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_finite_snr_moves_an_alpha_of_0_and_no_other(name):
    plain, zero = make_schedule(name), make_schedule(name, zero_terminal_snr=True)
    np.testing.assert_array_equal(finite_snr(plain).alpha, plain.alpha)
    finite = finite_snr(zero)
    assert finite.alpha[-1] ** 2 == 2.0**-24
    np.testing.assert_array_equal(finite.alpha[:-1], zero.alpha[:-1])
    np.testing.assert_array_equal(finite.sigma, zero.sigma)


def test_levels_read_clean_data_below_timestep_zero():
    schedule = make_schedule("linear")
    alpha, sigma = levels(schedule, jnp.array([CLEAN, 0, 999]))
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha[1], sigma[2]) == (schedule.alpha[0], schedule.sigma[999])


def test_add_noise_uses_each_examples_own_timestep(rng):
    schedule = make_schedule("scaled_linear")
    x0, noise = rng.normal(size=(2, 4, 3, 3, 2)).astype(np.float32)
    t = rng.integers(0, 1000, 4)
    noisy = add_noise(schedule, jnp.asarray(x0), jnp.asarray(noise), jnp.asarray(t))
    for i in range(4):
        one = float(schedule.alpha[t[i]]) * x0[i] + float(schedule.sigma[t[i]]) * noise[i]
        np.testing.assert_allclose(noisy[i], one, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"name": "sigmoid"}, '"sigmoid"'),
        ({"name": "linear", "steps": 1}, "steps is 1"),
        ({"name": "linear", "beta_start": 0.0}, "0.0"),
        ({"name": "scaled_linear", "beta_start": 0.5, "beta_end": 0.1}, "0.5"),
        ({"name": "linear", "beta_end": 1.0}, "1.0"),
    ],
)
def test_wrong_settings_are_named(arguments, words):
    with pytest.raises(UserError, match=words):
        make_schedule(**arguments)
