"""Samplers against the exact solution for Gaussian data, and what all of them promise.

For x_0 ~ N(mean, spread²) the optimal denoiser is linear in x_t, and the probability-flow ODE
carries `x_t = alpha mean + √(alpha² spread² + sigma²) · z` with constant z.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.diffusion.ancestral_samplers import ddpm
from ragaf_jax.diffusion.guidance import guided
from ragaf_jax.diffusion.noise import example_keys, example_noise, step_noise
from ragaf_jax.diffusion.noise_grid import levels_at, noise_grid
from ragaf_jax.diffusion.ode_samplers import ddim, dpm_solver_pp_2m, euler, heun, unipc
from ragaf_jax.diffusion.samplers import SAMPLERS, sampler_for, spacing_of
from ragaf_jax.diffusion.schedule import (
    Schedule,
    add_noise,
    finite_snr,
    make_schedule,
    shaped_like,
)
from ragaf_jax.diffusion.timesteps import CONSISTENCY, Spacing, timestep_grid

MEAN, SPREAD = 0.7, 0.4
KEY = jax.random.key(0)
TWO, THREE, FOUR = (example_keys(KEY, count) for count in (2, 3, 4))
SHAPE, ROOM = (2, 6), 200
DETERMINISTIC = ("ddim", "pndm", "dpm_solver_pp_2m", "unipc", "euler", "heun")


def gaussian_denoise(x, level):
    alpha, sigma = shaped_like(level.alpha, level.sigma, x)
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


@functools.cache
def compiled(sampler):
    """`advance` of a sampler, compiled for latents of `SHAPE` and grids of `ROOM` steps."""

    @jax.jit
    def advance(state, levels, until):
        return sampler.advance(gaussian_denoise, state, levels, TWO, until)

    return advance


def compiled_advance(name):
    """A sampler, and its `advance` from `compiled`."""
    # PNDM of ε has no first step at zero terminal SNR.
    sampler = sampler_for(name, "v_prediction")
    return sampler, compiled(sampler)


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
        sampled = sampler(gaussian_denoise, start, levels_at(schedule, jnp.asarray(grid)))
        assert sampled.dtype == np.float64
        return np.abs(np.asarray(sampled) - exact(alpha[last], sigma[last], z)).max()


@pytest.mark.parametrize(
    "sampler, order, many",
    [
        (ddim, 1, (50, 100, 200, 400)),
        (euler, 1, (50, 100, 200, 400)),
        (dpm_solver_pp_2m, 2, (50, 100, 200, 400)),
        (heun, 2, (50, 100, 200, 400)),
        # Its first step is of lower order, which more steps make insignificant.
        (unipc, 3, (750, 1500)),
    ],
)
def test_converges_at_its_order(rng, sampler, order, many):
    z = rng.normal(size=(3, 4)) + 0.1
    errors = [error_on(sampler, steps, z, 18_400, 6_400) for steps in many]
    measured = np.log2(errors[:-1]) - np.log2(errors[1:])
    np.testing.assert_allclose(measured, order, atol=0.02)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_reaches_the_data_from_noise(rng, name):
    schedule = make_schedule("cosine", zero_terminal_snr=True)
    z = rng.normal(size=SHAPE)
    sampler, advance = compiled_advance(name)
    levels = levels_at(schedule, timestep_grid(1000, ROOM))
    sampled = advance(sampler.begin(jnp.asarray(z, jnp.float32)), levels, ROOM).x
    np.testing.assert_allclose(sampled, MEAN + SPREAD * z, atol=0.02)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "pndm"])
def test_the_last_step_answers_the_networks_own_data(rng, name):
    answers = jnp.asarray(rng.normal(size=(1000, 2, 3)), jnp.float32)
    sampler = SAMPLERS[name]

    @jax.jit
    def sample(levels, steps):
        begun = sampler.begin(jnp.ones((2, 3), jnp.float32))
        answer = lambda x, level: answers[jnp.int32(level.t[0])] + 0 * x  # noqa: E731
        return sampler.advance(answer, begun, levels, TWO, steps).x

    # LCM's boundary condition leaves 1e-7 of x.
    tolerance = 1e-5 if name == "lcm" else 0
    for zero_terminal_snr, steps in itertools.product((False, True), (1, 2, 3, 7)):
        schedule = make_schedule("scaled_linear", zero_terminal_snr=zero_terminal_snr)
        grid = timestep_grid(1000, steps, room=7)
        sampled = sample(levels_at(schedule, grid), steps)
        np.testing.assert_allclose(
            sampled, answers[grid[steps - 1]], rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_perfect_knowledge_of_the_data_is_never_lost(rng, name):
    """A denoiser that knows x_0 keeps x on the line `alpha x_0 + sigma noise` all the way."""
    schedule = make_schedule("scaled_linear")
    x0, noise = (jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for _ in range(2))
    grid = timestep_grid(1000, 20)[:12]
    start = add_noise(schedule, x0, noise, jnp.full(2, grid[0]))
    sampled = SAMPLERS[name](lambda x, t: x0, start, levels_at(schedule, grid))
    expected = add_noise(schedule, x0, noise, jnp.full(2, grid[-1]))
    np.testing.assert_allclose(sampled, expected, atol=1e-5)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_timesteps_that_repeat_do_no_harm(rng, name):
    schedule = make_schedule("scaled_linear")
    grid = np.asarray(timestep_grid(1000, 50, 0.01))
    once = np.unique(grid)[::-1]
    assert len(once) < 15
    start = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    sampler = SAMPLERS[name]

    def sampled(grid):
        levels = levels_at(schedule, np.pad(grid, (0, ROOM + 1 - len(grid)), "edge"))
        return compiled(sampler)(sampler.begin(start), levels, len(grid) - 1).x

    np.testing.assert_allclose(sampled(grid), sampled(once), atol=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_stands_still_on_a_timestep_that_repeats(rng, name):
    schedule = make_schedule("scaled_linear")
    start = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    sampler, advance = compiled_advance(name)
    for t in (0, int(rng.integers(1, 999)), 999):
        levels = levels_at(schedule, np.full(ROOM + 1, t))
        np.testing.assert_array_equal(advance(sampler.begin(start), levels, 3).x, start)


@pytest.mark.parametrize("zero_terminal_snr", (False, True))
@pytest.mark.parametrize("name", SAMPLERS)
def test_first_steps_do_not_know_what_follows(rng, name, zero_terminal_snr):
    """A prefix of the timesteps gives what the whole way passes through, on one call or many."""
    schedule = make_schedule("scaled_linear", zero_terminal_snr=zero_terminal_snr)
    start = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    sampler, advance = compiled_advance(name)
    grid = np.asarray(timestep_grid(1000, 6, room=ROOM))
    levels = levels_at(schedule, grid)
    state = sampler.begin(start)
    for k in range(7):
        state = advance(state, levels, k)
        assert state.step == k
        others = np.where(np.arange(ROOM + 1) > k, grid[k], grid)
        prefix = advance(sampler.begin(start), levels_at(schedule, others), k)
        np.testing.assert_allclose(prefix.x, state.x, rtol=1e-5, atol=1e-6)
    assert (advance(state, levels, 6).x == state.x).all()


def test_ancestral_sampling_has_the_marginals_of_the_schedule(rng):
    """Knowing x_0, `x_t − alpha x_0` is N(0, sigma²) at every timestep, however long the steps."""
    schedule = make_schedule("scaled_linear", zero_terminal_snr=True)
    x0, noise = (jnp.asarray(rng.normal(size=(4, 10_000)), jnp.float32) for _ in range(2))
    grid = timestep_grid(1000, 7)
    for last in range(1, 7):
        x = ddpm(lambda x, t: x0, noise, levels_at(schedule, grid[: last + 1]), FOUR)
        rest = (x - schedule.alpha[grid[last]] * x0) / schedule.sigma[grid[last]]
        assert abs(float(rest.mean())) < 0.03 and abs(float(rest.std()) - 1) < 0.02
        # The noise of a step is new: some of the noise before is gone.
        assert abs(float((rest * noise).mean())) < 0.95


def test_noise_of_an_example_does_not_depend_on_its_batch(rng):
    levels = levels_at(make_schedule("scaled_linear"), timestep_grid(1000, 5))
    start = jnp.asarray(rng.normal(size=(3, 4, 4, 2)), jnp.float32)
    three = ddpm(gaussian_denoise, start, levels, THREE)
    two = ddpm(gaussian_denoise, start[1:], levels, THREE[1:])
    np.testing.assert_allclose(three[1:], two, rtol=1e-5, atol=1e-6)
    others = example_keys(jax.random.key(1), 3)
    assert np.abs(ddpm(gaussian_denoise, start, levels, others) - three).max() > 0.1


def test_noise_differs_between_examples_and_steps():
    noises = [step_noise(THREE, step, (50,)) for step in range(4)]
    together = np.corrcoef(np.concatenate([*noises, example_noise(THREE, (50,))]))
    assert np.abs(together - np.eye(15)).max() < 0.7

    # And this noise is added: after the first, the sampler's x shows it.
    schedule, x = make_schedule("scaled_linear"), jnp.zeros((3, 50))
    grid = jnp.array([999, 600, 200])
    one = ddpm(lambda x, t: 0 * x, x, levels_at(schedule, grid[:2]), THREE)
    two = ddpm(lambda x, t: 0 * x, x, levels_at(schedule, grid), THREE)
    assert np.corrcoef(one.ravel(), noises[0].ravel())[0, 1] > 0.999
    assert np.corrcoef(two.ravel(), noises[1].ravel())[0, 1] > 0.8


def test_second_order_begins_a_step_later_at_an_infinite_log_snr(rng):
    zero = make_schedule("scaled_linear", zero_terminal_snr=True)
    start = jnp.asarray(rng.normal(size=(2, 60)), jnp.float32)
    grid = timestep_grid(1000, 10)

    def after(sampler, schedule, steps):
        return sampler(gaussian_denoise, start, levels_at(schedule, grid[: steps + 1]))

    np.testing.assert_allclose(after(dpm_solver_pp_2m, zero, 2), after(ddim, zero, 2), atol=1e-6)
    for schedule, steps in ((zero, 3), (finite_snr(zero), 2)):
        other = after(ddim, schedule, steps)
        assert np.abs(after(dpm_solver_pp_2m, schedule, steps) - other).max() > 1e-5


@pytest.mark.parametrize("zero_terminal_snr", (False, True))
def test_heun_evaluates_twice_a_step_but_once_at_infinite_slopes(zero_terminal_snr):
    """And from a timestep to itself; x_0 is that of the last evaluation."""
    schedule = make_schedule("scaled_linear", zero_terminal_snr=zero_terminal_snr)
    grid, seen = jnp.array([999, 600, 600, 250, -1]), []

    def denoise(x, level):
        seen.append(int(level.t[0]))
        return x + len(seen)

    state = heun.begin(jnp.ones((2, 3)))
    with jax.disable_jit():
        state = heun.advance(denoise, state, levels_at(schedule, grid), None, 1)
        assert seen == [999] + [600] * (not zero_terminal_snr)
        assert float(state.x0[0, 0]) > len(seen)
        heun.advance(denoise, state, levels_at(schedule, grid), None, 4)
    assert seen[-4:] == [600, 600, 250, 250]


@pytest.mark.parametrize("zero_terminal_snr", (False, True))
def test_dpm_solver_sde_evaluates_between_two_levels(zero_terminal_snr):
    """At their mean log-SNR; once where that is infinite. The noise is Brownian over σ/α."""
    schedule = make_schedule("scaled_linear", zero_terminal_snr=zero_terminal_snr)
    levels, seen = levels_at(schedule, jnp.array([999, 600, 250, -1])), []

    def denoise(x, level):
        seen.append(jax.tree.map(lambda entry: float(entry[0]), level))
        return 0 * x

    sampler = SAMPLERS["dpm_solver_pp_sde"]
    with jax.disable_jit():
        sampler(denoise, jnp.ones((2, 50_000)), levels, TWO)
    pairs = [*[0] * (not zero_terminal_snr), 1]
    assert len(seen) == 3 + len(pairs)
    middles = [level for level in seen if level.t not in (999, 600, 250)]
    for k, middle in zip(pairs, middles, strict=True):
        ratio = np.asarray(levels.sigma / levels.alpha)
        expected = (ratio[k] * ratio[k + 1]) ** 0.5
        assert middle.sigma / middle.alpha == pytest.approx(expected, rel=1e-5)
        table = np.asarray(schedule.sigma / schedule.alpha)
        assert np.interp(middle.t, np.arange(1000), np.log(table)) == pytest.approx(
            np.log(expected), abs=1e-4
        )


def test_ancestral_samplers_reach_the_distribution_of_the_data(rng):
    schedule = make_schedule("cosine", zero_terminal_snr=True)
    noise = jnp.asarray(rng.normal(size=(4, 5_000)), jnp.float32)
    for name in ("ddpm", "dpm_solver_pp_2m_sde", "dpm_solver_pp_sde"):
        levels = levels_at(schedule, timestep_grid(1000, 250))
        sampled = SAMPLERS[name](gaussian_denoise, noise, levels, FOUR)
        assert float(sampled.mean()) == pytest.approx(MEAN, abs=0.02), name
        assert float(sampled.std()) == pytest.approx(SPREAD, abs=0.02), name


def test_each_sampler_has_the_spacing_of_its_scheduler():
    for name in ("ddim", "pndm", "ddpm"):
        assert spacing_of(name, "leading", 1, True) == Spacing("leading", 1, False, True)
    for name in ("euler", "euler_ancestral", "heun", "dpm_solver_pp_sde"):
        assert spacing_of(name, "leading", 1, True) == Spacing("leading", 1, False, True, True)
    for name in ("dpm_solver_pp_2m", "dpm_solver_pp_2m_sde", "unipc"):
        assert spacing_of(name, "leading", 1, True) == Spacing("leading", 1, True, True)
    assert spacing_of("lcm", "leading", 1, True, 40) == Spacing(CONSISTENCY, 1, original_steps=40)
    # DDIM and PNDM alone may leave timestep 0's noise in place.
    ends = {name: spacing_of(name, "trailing", 0, False).clean_end for name in SAMPLERS}
    assert [name for name, clean in ends.items() if not clean] == ["ddim", "pndm"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_way_in_parts_is_the_whole_way(rng, name):
    schedule = make_schedule("scaled_linear", zero_terminal_snr=bool(rng.integers(2)))
    start = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    sampler, advance = compiled_advance(name)
    steps = int(rng.integers(3, 9))
    # What there is room for behind the end changes nothing.
    grid = timestep_grid(1000, steps, room=ROOM)
    np.testing.assert_array_equal(grid[: steps + 1], timestep_grid(1000, steps))
    assert len(grid) == ROOM + 1 and len(set(grid[steps:].tolist())) == 1
    whole = sampler(gaussian_denoise, start, levels_at(schedule, grid[: steps + 1]), TWO)
    state = sampler.begin(start)
    for until in (1, 2, 2, steps):
        state = advance(state, levels_at(schedule, grid), until)
    assert advance._cache_size() == 1
    np.testing.assert_allclose(state.x, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_recompiles(name):
    schedule, sampler = make_schedule("scaled_linear"), SAMPLERS[name]
    traces = 0

    @jax.jit
    def sample(seed, levels, steps, text_scale, sketch_scale):
        nonlocal traces
        traces += 1
        x = jax.random.normal(jax.random.key(seed), (2, 3))
        denoise = guided(gaussian_denoise, text_scale, sketch_scale)
        keys = example_keys(jax.random.key(seed), 2)
        return sampler.advance(denoise, sampler.begin(x), levels, keys, steps).x

    settings = [(1, 4, 1.0, 7.5, 1.0), (2, 9, 0.6, 3.0, 1.5), (3, 1, 0.3, 1.0, 0.0)]
    results = [
        sample(
            seed, levels_at(schedule, timestep_grid(1000, steps, strength, room=9)), steps, *scales
        )
        for seed, steps, strength, *scales in settings
    ]
    if sampler.sigmas:
        levels, steps = noise_grid(schedule, 7, 0.9, sigmas="karras", room=9)
        results.append(sample(4, levels, steps, 3.0, 1.0))
    assert traces == 1
    assert all(np.all(np.isfinite(result)) for result in results)
    assert not np.allclose(results[0], results[1])
