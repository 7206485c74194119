"""Settings of ControlNets: their form as a flag, their steps and levels, and what is refused."""

import numpy as np
import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.controls.settings import (
    ControlSettings,
    branch_scales,
    level_factors,
    parse_control,
    settings_of_sketch,
)
from ragaf_jax.sampling.denoising import branch_strengths
from ragaf_jax.sampling.options import check_values
from ragaf_jax.sampling.sampling_config import Scales


@pytest.mark.parametrize(
    ("text", "where", "settings"),
    [
        ("a.safetensors", "a.safetensors", ControlSettings()),
        ("a.safetensors=0.5", "a.safetensors", ControlSettings(0.5)),
        ("x/y=-1e-1,.25,1.", "x/y", ControlSettings(-0.1, 0.25, 1.0)),
        ("runs/lr=3/control", "runs/lr=3/control", ControlSettings()),
        ("runs/lr=3=1", "runs/lr=3", ControlSettings()),
        ("a=2,0,0.5,guess", "a", ControlSettings(2.0, 0.0, 0.5, "guess")),
        ("a=1,even", "a", ControlSettings()),
        ("a=1,2,3,4", "a=1,2,3,4", ControlSettings()),
        ("a=1,0,1,0.5/.25/1", "a", ControlSettings(levels="0.5,.25,1")),
    ],
)
def test_a_control_is_a_path_and_perhaps_numbers(text, where, settings):
    assert parse_control(text) == (where, settings)


def test_a_control_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_control("~/a=0.5").where == f"{tmp_path}/a"


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 20])
def test_steps_are_those_of_diffusers(rng, steps):
    shares = [0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.7, 1.0, *rng.random(4)]
    for start in shares:
        for end in shares:
            found = branch_scales(ControlSettings(1.0, start, end), 3, steps)
            for i in range(steps):
                kept = 1.0 - float(i / steps < start or (i + 1) / steps > end)
                assert (found.first <= i < found.last) == kept


def test_levels_scale_each_residual():
    np.testing.assert_array_equal(level_factors("even", 3), np.ones(3, np.float32))
    np.testing.assert_allclose(level_factors("guess", 3), [0.1, 0.1**0.5, 1], rtol=1e-6)
    scales = branch_scales(ControlSettings(2.0, levels="0.5,0, 1"), 3, 4)
    np.testing.assert_array_equal(scales.strengths, np.float32([1, 0, 2]))
    assert scales.unprompted == 1
    assert branch_scales(ControlSettings(levels="guess"), 3, 4).unprompted == 0
    with pytest.raises(UserError, match="'1,1' are 2 numbers and the network has 3 residuals"):
        level_factors("1,1", 3)


def test_guess_mode_has_no_residuals_without_the_prompt():
    """Nor has another ControlNet in (nothing), where the sketch branch has a blank sketch."""
    settings = ControlSettings(2.0), ControlSettings(1.0, 0.5), ControlSettings(levels="guess")
    branches = tuple(branch_scales(one, 2, 4) for one in settings)
    for guidance, sketch_guidance, expected in (
        (None, None, ([1, 1], [1, 1], [1, 1])),
        (3.0, None, ([1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1])),
        (3.0, 2.0, ([1] * 6, [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1])),
    ):
        scales = Scales(guidance, sketch_guidance, branches=branches)
        for step, late in ((1, 0), (2, 1)):
            found = branch_strengths(scales, step, len(expected[0]))
            factors = [2, 2], [late, late], [0.1, 1]
            for one, rows, factor in zip(found, expected, factors, strict=True):
                np.testing.assert_allclose(one, np.outer(rows, factor), rtol=1e-6)


def test_the_sketch_branch_has_the_defaults_of_a_control():
    assert settings_of_sketch({"sketch_strength": None}) == ControlSettings()
    given = {"sketch_strength": 0.5, "sketch_start": 0.1, "sketch_end": 0.9, "sketch_levels": "1"}
    assert settings_of_sketch(given) == ControlSettings(0.5, 0.1, 0.9, "1")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sketch_start": 0.5, "sketch_end": 0.5}, "start of the sketch branch is 0.5 and its end"),
        ({"sketch_start": 1.0}, "start of the sketch branch is 1.0 and its end 1.0, so that it"),
        ({"sketch_end": 1.5}, "sketch_end is 1.5; choose 0 to 1"),
        ({"sketch_levels": "guss"}, "levels are 'guss'; give 'even', 'guess' or a number for each"),
        ({"sketch_levels": "1,nan"}, "levels are '1,nan'"),
        ({"controls": [ControlSettings(), ControlSettings(start=0.9, end=0.2)]}, "of control 2 is"),
        ({"controls": [ControlSettings(end=2.0)]}, "The end of control 1 is 2.0; choose a share"),
        ({"controls": [ControlSettings(float("nan"))]}, "strength of control 1 is nan; choose"),
    ],
)
def test_settings_that_cannot_be_end_in_a_sentence(fields, said):
    with pytest.raises(UserError, match=said):
        check_values(fields)
