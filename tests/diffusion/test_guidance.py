"""Guidance: equation 3 of InstructPix2Pix, and what its scales of 0 and 1 mean."""

import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.diffusion.guidance import guided
from ragaf_jax.diffusion.noise_grid import levels_at
from ragaf_jax.diffusion.schedule import levels_like, make_schedule

SHAPE = (2, 4, 4, 3)


@pytest.fixture
def answers(rng):
    return jnp.asarray(rng.normal(size=(3, *SHAPE)), jnp.float32)


def run(answers, text_scale, sketch_scale):
    """Guides fixed answers, checking what the conditions are asked."""
    x, level = jnp.ones(SHAPE), levels_at(make_schedule("linear"), jnp.array([7, 400]))

    def conditions(stacked, levels):
        asked = answers if sketch_scale is not None else answers[1:]
        np.testing.assert_array_equal(stacked, jnp.ones((2 * len(asked), *SHAPE[1:])))
        assert levels.t.tolist() == [7, 400] * len(asked)
        return asked.reshape(-1, *SHAPE[1:])

    return guided(conditions, text_scale, sketch_scale)(x, level)


@pytest.mark.parametrize(
    "text_scale, sketch_scale, which", [(1.0, 1.0, 2), (0.0, 1.0, 1), (0.0, 0.0, 0)]
)
def test_scales_of_zero_and_one_choose_a_condition(answers, text_scale, sketch_scale, which):
    np.testing.assert_array_equal(run(answers, text_scale, sketch_scale), answers[which])


def test_without_a_scale_of_the_sketch_two_conditions_are_enough(rng, answers):
    text = float(rng.uniform(-2, 9))
    np.testing.assert_allclose(run(answers, text, None), run(answers, text, 1.0), atol=1e-5)


def test_is_equation_three(rng, answers):
    text, sketch = (float(s) for s in rng.uniform(-2, 9, 2))
    nothing, image, both = np.asarray(answers, np.float64)
    expected = nothing + sketch * (image - nothing) + text * (both - image)
    np.testing.assert_allclose(run(answers, text, sketch), expected, atol=2e-5)


def test_guiding_data_is_guiding_noise(rng, answers):
    """The combination of x_0 stands for the same combination of ε."""
    schedule = make_schedule("scaled_linear")
    x, t = jnp.ones(SHAPE), jnp.array([300, 700])
    alpha, sigma = levels_like(schedule, t, x)
    noise = jnp.concatenate([(x - alpha * x0) / sigma for x0 in answers])
    by_noise = guided(lambda x, level: noise, 4.0, 1.5)(x, levels_at(schedule, t))
    by_data = (x - alpha * run(answers, 4.0, 1.5)) / sigma
    np.testing.assert_allclose(by_noise, by_data, atol=1e-4)
