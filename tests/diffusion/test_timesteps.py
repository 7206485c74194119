"""Grids of timesteps, written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.diffusion.schedule import CLEAN
from ragaf_jax.diffusion.timesteps import SPACINGS, TRAILING, Spacing, timestep_grid
from ragaf_jax.errors import UserError


@pytest.mark.parametrize(
    "steps, spacing, expected",
    [
        (4, TRAILING, [999, 749, 499, 249]),
        (3, TRAILING, [999, 666, 332]),
        (1, TRAILING, [999]),
        (4, Spacing("leading"), [750, 500, 250, 0]),
        (4, Spacing("leading", 1), [751, 501, 251, 1]),
        (3, Spacing("leading", 1), [667, 334, 1]),
        (1, Spacing("leading", 1), [1]),
        (4, Spacing("linspace"), [999, 666, 333, 0]),
        (1, Spacing("linspace"), [0]),
        # The end has a place of its own.
        (4, Spacing("trailing", spans_end=True), [999, 749, 499, 249]),
        (4, Spacing("leading", 1, spans_end=True), [801, 601, 401, 201]),
        (1, Spacing("leading", 1, spans_end=True), [501]),
        (3, Spacing("linspace", spans_end=True), [999, 666, 333]),
        (1, Spacing("linspace", spans_end=True), [999]),
    ],
)
@pytest.mark.parametrize("clean_end, end", [(True, CLEAN), (False, 0)])
def test_grids(steps, spacing, expected, clean_end, end):
    grid = timestep_grid(1000, steps, spacing=spacing._replace(clean_end=clean_end))
    assert np.asarray(grid).tolist() == [*expected, end]


def test_as_many_steps_as_timesteps_are_every_timestep():
    for kind in SPACINGS:
        every = np.asarray(timestep_grid(50, 50, spacing=Spacing(kind)))
        np.testing.assert_array_equal(every, np.arange(49, -2, -1))


def test_halves_are_rounded_as_diffusers_rounds_them():
    # 937.5 and 687.5, less what float64 makes of 45 and 33 steps of 1000 / 48.
    grid = np.asarray(timestep_grid(1000, 48))
    assert grid[3] == 936 and grid[15] == 686
    # Where rounding gives diffusers a 62nd timestep, −1.
    assert len(timestep_grid(1000, 61)) == 62


@pytest.mark.parametrize("kind", SPACINGS)
@pytest.mark.parametrize("spans_end", (False, True))
def test_strength_draws_the_grid_together(rng, kind, spans_end):
    steps, spacing = int(rng.integers(1, 40)), Spacing(kind, 3, spans_end)
    strengths = np.append(np.sort(rng.uniform(0, 1, 20)), 1.0)
    drawn = jax.vmap(lambda s: timestep_grid(1000, steps, s, spacing))(jnp.asarray(strengths))
    grids = np.asarray(drawn)
    assert np.all(np.diff(grids, axis=0) >= 0)
    assert np.all(grids[:, :-1] >= 0) and np.all(grids[:, -1] == CLEAN)
    expected = strengths * (grids[-1, 0] + 1) - 1
    np.testing.assert_allclose(grids[:, 0], np.maximum(expected, 0), atol=0.51)
    # Evenly: rounding moves no gap by more than one, and is done twice in "linspace".
    gaps = -np.diff(grids[:, :-1])
    assert steps == 1 or np.all(np.ptp(gaps, axis=1) <= 2)


@pytest.mark.parametrize("kind", SPACINGS)
def test_strength_may_be_traced(rng, kind):
    steps = int(rng.integers(1, 40))
    traces = 0

    @jax.jit
    def grid(strength):
        nonlocal traces
        traces += 1
        return timestep_grid(1000, steps, strength, Spacing(kind))

    for strength in (1.0, 0.6, 0.01):
        concrete = timestep_grid(1000, steps, strength, Spacing(kind))
        np.testing.assert_array_equal(grid(jnp.float32(strength)), concrete)
    assert traces == 1


def test_grid_of_no_strength_stays_on_the_schedule():
    assert np.asarray(timestep_grid(1000, 3, 0.0)).tolist() == [0, 0, 0, CLEAN]


@pytest.mark.parametrize("steps", (0, 1001))
def test_a_wrong_number_of_steps_is_named(steps):
    with pytest.raises(UserError, match=f"steps are {steps}"):
        timestep_grid(1000, steps)


def test_an_unknown_spacing_is_named():
    with pytest.raises(UserError, match='"karras"; choose one of leading, trailing, linspace'):
        timestep_grid(1000, 20, spacing=Spacing("karras"))


@pytest.mark.parametrize(
    "steps, offset, spans_end", [(1000, 1, False), (999, 1, True), (1000, 0, True), (20, 50, False)]
)
def test_timesteps_beyond_the_schedule_are_refused(steps, offset, spans_end):
    with pytest.raises(UserError, match=f'{steps} steps of spacing "leading" with offset {offset}'):
        timestep_grid(1000, steps, spacing=Spacing("leading", offset, spans_end))
