"""Samplers against the exact solution for Gaussian data.

For x_0 ~ N(mean, spread²) the optimal denoiser is linear in x_t, and the probability-flow ODE
carries `x_t = alpha mean + √(alpha² spread² + sigma²) · z` with constant z.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.diffusion.guidance import guided
from ragaf_jax.diffusion.samplers import SAMPLERS, ddim, dpm_solver_pp_2m, timestep_grid
from ragaf_jax.diffusion.schedule import CLEAN, Schedule, add_noise, make_schedule
from ragaf_jax.errors import UserError

MEAN, SPREAD = 0.7, 0.4


def gaussian_denoiser(schedule):
    def denoise(x, t):
        alpha, sigma = (level[t].reshape(-1, *(1,) * (x.ndim - 1)) for level in schedule)
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return denoise


def exact(alpha, sigma, z):
    return alpha * MEAN + np.sqrt(alpha**2 * SPREAD**2 + sigma**2) * z


def fine_cosine(steps=20_000):
    """alpha = cos φ in float64, fine enough that rounding a timestep moves nothing."""
    angle = np.linspace(0.02, 1.5, steps)
    return np.cos(angle), np.sin(angle)


def error_on(sampler, steps, z, first, last):
    """|sampled − exact| at timestep `last`, in float64, with `steps` steps from `first`."""
    with jax.enable_x64(True):
        tables = fine_cosine()
        schedule = Schedule(*map(jnp.asarray, tables))
        alpha, sigma = tables
        grid = np.round(np.linspace(first, last, steps + 1)).astype(int)
        start = jnp.asarray(exact(alpha[first], sigma[first], z))
        sampled = sampler(gaussian_denoiser(schedule), start, schedule, jnp.asarray(grid))
        assert sampled.dtype == np.float64
        return np.abs(np.asarray(sampled) - exact(alpha[last], sigma[last], z)).max()


@pytest.mark.parametrize("sampler, order", [(ddim, 1), (dpm_solver_pp_2m, 2)])
def test_converges_at_its_order(rng, sampler, order):
    z = rng.normal(size=(3, 4)) + 0.1
    errors = [error_on(sampler, steps, z, 18_400, 6_400) for steps in (50, 100, 200, 400)]
    measured = np.log2(errors[:-1]) - np.log2(errors[1:])
    np.testing.assert_allclose(measured, order, atol=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_reaches_the_data_from_noise(rng, name):
    schedule = make_schedule("cosine", zero_terminal_snr=True)
    z = rng.normal(size=(2, 50))
    start = jnp.asarray(z, jnp.float32)
    sampled = SAMPLERS[name](gaussian_denoiser(schedule), start, schedule, timestep_grid(1000, 200))
    np.testing.assert_allclose(sampled, MEAN + SPREAD * z, atol=0.02)


@pytest.mark.parametrize("zero_terminal_snr", (False, True))
@pytest.mark.parametrize("steps", (1, 2, 3, 7))
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_answers_the_networks_own_data(rng, name, steps, zero_terminal_snr):
    schedule = make_schedule("scaled_linear", zero_terminal_snr=zero_terminal_snr)
    answers = jnp.asarray(rng.normal(size=(1000, 2, 3)), jnp.float32)
    grid = timestep_grid(1000, steps)
    sampled = SAMPLERS[name](
        lambda x, t: answers[t[0]] + 0 * x, jnp.ones((2, 3), jnp.float32), schedule, grid
    )
    np.testing.assert_array_equal(sampled, answers[grid[-2]])


@pytest.mark.parametrize("name", SAMPLERS)
def test_perfect_knowledge_of_the_data_is_never_lost(rng, name):
    """A denoiser that knows x_0 keeps x on the line `alpha x_0 + sigma noise` all the way."""
    schedule = make_schedule("scaled_linear")
    x0, noise = (jnp.asarray(rng.normal(size=(2, 6)), jnp.float32) for _ in range(2))
    grid = timestep_grid(1000, 20)[:12]
    start = add_noise(schedule, x0, noise, jnp.full(2, grid[0]))
    sampled = SAMPLERS[name](lambda x, t: x0, start, schedule, grid)
    expected = add_noise(schedule, x0, noise, jnp.full(2, grid[-1]))
    np.testing.assert_allclose(sampled, expected, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_that_repeat_do_no_harm(rng, name):
    schedule = make_schedule("scaled_linear")
    grid = timestep_grid(1000, 50, 0.01)
    assert len(np.unique(grid)) < 15
    start = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
    once = jnp.asarray(np.unique(grid)[::-1].copy())
    denoise = gaussian_denoiser(schedule)
    repeated = SAMPLERS[name](denoise, start, schedule, grid)
    np.testing.assert_allclose(repeated, SAMPLERS[name](denoise, start, schedule, once), atol=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_the_number_of_steps_recompiles(name):
    schedule = make_schedule("scaled_linear")
    traces = 0

    @jax.jit
    def sample(seed, strength, text_scale, sketch_scale):
        nonlocal traces
        traces += 1
        grid = timestep_grid(1000, 4, strength)
        x = jax.random.normal(jax.random.key(seed), (2, 3))
        one = gaussian_denoiser(schedule)
        return SAMPLERS[name](guided(one, text_scale, sketch_scale), x, schedule, grid)

    settings = [(1, 1.0, 7.5, 1.0), (2, 0.6, 3.0, 1.5), (3, 0.3, 1.0, 0.0)]
    results = [sample(*setting) for setting in settings]
    assert traces == 1
    assert all(np.all(np.isfinite(result)) for result in results)
    assert not np.allclose(results[0], results[1])


def test_grid_spans_the_schedule():
    grid = np.asarray(timestep_grid(1000, 10))
    assert grid.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99, CLEAN]
    every = np.asarray(timestep_grid(50, 50))
    np.testing.assert_array_equal(every, np.arange(49, -2, -1))


def test_grid_starts_at_the_strength(rng):
    strength, steps = rng.uniform(0.2, 1), int(rng.integers(1, 40))
    grid = np.asarray(timestep_grid(1000, steps, jnp.float32(strength)))
    assert grid.shape == (steps + 1,) and grid[-1] == CLEAN
    assert abs(grid[0] - strength * 999) <= 1.5
    assert np.all(np.diff(grid) < 0)
    # Evenly: rounding moves no gap by more than one.
    assert np.ptp(np.diff(grid)) <= 1


def test_grid_of_no_strength_stays_on_the_schedule():
    assert np.asarray(timestep_grid(1000, 3, 0.0)).tolist() == [0, 0, 0, CLEAN]


@pytest.mark.parametrize("steps", (0, 1001))
def test_a_wrong_number_of_steps_is_named(steps):
    with pytest.raises(UserError, match=f"steps are {steps}"):
        timestep_grid(1000, steps)
