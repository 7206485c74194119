"""Guidance of the networks: conditions that scales exclude have no effect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import random_batch, random_params, smallest_config, tiny_tokenizer
from sampled import sample_latents

from ragaf_jax.diffusion.noise import example_keys
from ragaf_jax.diffusion.samplers import SAMPLERS, spacing_of
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Conditioning
from ragaf_jax.runtime.flops import matmul_flops
from ragaf_jax.sampling.conditions import own_cells
from ragaf_jax.sampling.denoising import Denoising, advance, to_pixels
from ragaf_jax.sampling.sampling_config import Scales, sampling_config_of, scales_of


@pytest.fixture(scope="module")
def stage2():
    config = smallest_config(2)
    config.sample.steps = 3
    model, noise = build_model(config), np.random.default_rng(5)
    params = random_params(model, noise)
    sampling = sampling_config_of(config, tiny_tokenizer())
    three = sampling.timestep_grid(3)

    @jax.jit
    def draw(batch, key, settings, start=None, grid=three):
        keys = example_keys(key, len(batch.text.tokens))
        return sample_latents(model, sampling, params, batch, keys, settings, grid, start)

    return config, model, sampling, draw


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(np.abs(b).max()))


def empty_prompt(batch, sampling):
    count = len(batch.text.tokens)
    text = jax.tree.map(lambda x: np.repeat(x, count, 0), sampling.empty_text)
    return batch._replace(text=text)


def test_at_scale_zero_a_condition_has_no_say(rng, stage2):
    config, _, sampling, draw = stage2
    batch, other = random_batch(rng, config, 2), random_batch(rng, config, 2)
    key = jax.random.key(int(rng.integers(2**31)))
    wordless = empty_prompt(batch, sampling)
    other_text = batch._replace(text=other.text)
    other_sketch = batch._replace(sketch=other.sketch, labels=other.labels, graph=other.graph)

    plain = draw(batch, key, Scales(1.0, 1.0))
    assert np.abs(draw(other_text, key, Scales(1.0, 1.0)) - plain).max() > 1e-2
    assert np.abs(draw(other_sketch, key, Scales(1.0, 1.0)) - plain).max() > 1e-2
    # No text: as with the empty prompt, whatever the caption.
    close(draw(batch, key, Scales(0.0, 1.0)), draw(wordless, key, Scales(1.0, 1.0)))
    close(draw(other_text, key, Scales(0.0, 1.0)), draw(batch, key, Scales(0.0, 1.0)))
    # (nothing): sketch and regions have no effect either.
    close(draw(other_sketch, key, Scales(0.0, 0.0)), draw(batch, key, Scales(0.0, 0.0)))


def test_guidance_that_ends_before_it_begins_is_none(rng, stage2):
    config, _, _, draw = stage2
    batch, key = random_batch(rng, config, 2), jax.random.key(int(rng.integers(2**31)))
    guided, plain = Scales(4.0, 2.0), Scales(1.0, 1.0)
    assert np.abs(draw(batch, key, guided) - draw(batch, key, plain)).max() > 1e-2
    close(draw(batch, key, guided._replace(guidance_until=1.0)), draw(batch, key, plain))


@pytest.mark.parametrize(
    ("lean", "whole", "evaluations"),
    [
        (Scales(4.0, None), Scales(4.0, 1.0), (2, 3)),
        (Scales(None, None), Scales(1.0, None), (1, 2)),
    ],
)
def test_scales_of_none_leave_evaluations_out(rng, stage2, lean, whole, evaluations):
    """They give the samples of scales of 1."""
    config, _, _, draw = stage2
    batch, key = random_batch(rng, config, 2), jax.random.key(int(rng.integers(2**31)))
    close(draw(batch, key, lean), draw(batch, key, whole))
    # A loop of a traced number of steps counts as one.
    work = [matmul_flops(draw, batch, key, scales) for scales in (lean, whole)]
    expected = evaluations[0] / evaluations[1]
    assert work[0] / work[1] == pytest.approx(expected, rel=0.03)  # encoding of text is the rest


def test_no_strength_gives_back_the_start(rng, stage2):
    config, model, sampling, draw = stage2
    batch, key = random_batch(rng, config, 2), jax.random.key(0)
    start = jnp.asarray(rng.standard_normal((2, *model.latent_shape)), jnp.float32)
    drawn = draw(batch, key, Scales(3.0, 1.0), start, sampling.timestep_grid(3, 0.0))
    np.testing.assert_array_equal(drawn, start)
    for strength in (0.1, 1.0):
        drawn = draw(batch, key, Scales(3.0, 1.0), start, sampling.timestep_grid(3, strength))
        assert np.abs(drawn - start).mean() > 0.1


def test_noise_of_an_example_does_not_depend_on_its_batch(rng):
    config = smallest_config(1)
    model = build_model(config)
    sampling = sampling_config_of(config, tiny_tokenizer(), "ddpm")
    grid = sampling.timestep_grid(3)
    params, batch = random_params(model, rng), random_batch(rng, config, 2)

    @jax.jit
    def draw(batch, keys):
        return sample_latents(model, sampling, params, batch, keys, Scales(1.0, 1.0), grid)

    keys = example_keys(jax.random.key(int(rng.integers(2**31))), 2)
    both = draw(batch, keys)
    close(draw(jax.tree.map(lambda x: x[1:], batch), keys[1:]), both[1:])
    assert np.abs(draw(batch, keys[::-1]) - both).max() > 1e-2


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_process_is_as_the_config_says(name):
    config = smallest_config(1)
    config.diffusion.update(
        prediction="v_prediction",
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
    )
    sampling = sampling_config_of(config, tiny_tokenizer(), name)
    fields = 50, config.diffusion.schedule
    assert sampling.spacing == spacing_of(name, "leading", 1, False, *fields)
    # Zero terminal SNR, as the sampler's scheduler in diffusers reads it.
    assert sampling.schedule.alpha[-1] == (2.0**-12 if SAMPLERS[name].finite_snr else 0)
    config.diffusion.prediction = "sample"
    if name == "pndm":
        with pytest.raises(UserError, match="predicts 'sample'; PNDM combines"):
            sampling_config_of(config, tiny_tokenizer(), name)
        return
    assert sampling_config_of(config, tiny_tokenizer(), name).schedule.alpha[-1] == 0


@pytest.mark.parametrize(
    "fields, steps, words",
    [
        ({"timestep_spacing": "karras"}, 3, '"karras"'),
        ({"timestep_spacing": "leading", "steps_offset": 999}, 3, "offset 999"),
    ],
)
def test_timesteps_that_cannot_be_are_refused_at_once(fields, steps, words):
    config = smallest_config(1)
    config.diffusion.update(fields)
    with pytest.raises(UserError, match=words):
        sampling_config_of(config, tiny_tokenizer()).timestep_grid(steps)


def test_pixels_are_those_of_the_image(rng, stage2):
    _, model, _, _ = stage2
    image = rng.integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    latents = model.autoencoder.encode({}, jnp.asarray(image / 127.5 - 1, jnp.float32))
    np.testing.assert_array_equal(to_pixels(model, {}, latents), image)


@pytest.mark.parametrize("sigmas", ("karras", "exponential"))
@pytest.mark.parametrize("name", SAMPLERS)
def test_sigmas_that_a_sampler_does_not_have_are_refused(name, sigmas):
    config = smallest_config(1)  # at zero terminal SNR
    config.diffusion.prediction = "v_prediction"
    grid = sampling_config_of(config, tiny_tokenizer(), name).timestep_grid
    if not SAMPLERS[name].sigmas:
        words = rf"sigmas is '{sigmas}' and the sampler '{name}' only has 'uniform' ones; choose"
    elif not SAMPLERS[name].finite_snr:
        words = "starts at zero terminal SNR, where this sampler has no finite sigma; choose"
    else:
        levels = grid(5, sigmas=sigmas).levels
        assert len(set(levels.sigma[:5].tolist())) == 5 and levels.alpha[0] > 0
        words = f"strength is 0.1 and steps is 5; with {sigmas} sigmas that leaves no step"
        with pytest.raises(UserError, match=words):
            grid(5, 0.1, sigmas)
        return
    with pytest.raises(UserError, match=words):
        grid(5, sigmas=sigmas)


def test_strength_skips_the_first_sigmas():
    config = smallest_config(1)
    grid = sampling_config_of(config, tiny_tokenizer(), "unipc").timestep_grid
    whole, part = (grid(10, strength, "karras") for strength in (1.0, 0.58))
    assert (int(whole.steps), int(part.steps)) == (10, 5)
    np.testing.assert_array_equal(part.levels.sigma[:6], whole.levels.sigma[5:11])


def test_more_steps_than_an_lcm_was_distilled_on_are_refused():
    config = smallest_config(1)
    grid = sampling_config_of(config, tiny_tokenizer(), "lcm").timestep_grid
    assert grid(4).levels.t[:5].tolist() == [999, 759, 499, 259, -1]
    # As in diffusers, strength takes from the timesteps that it was distilled on.
    assert grid(4, 0.5).levels.t[0] == 499
    for steps, strength in ((51, 1.0), (26, 0.5)):
        with pytest.raises(UserError, match=f"timesteps at strength {strength:g}, of the 50 that"):
            grid(steps, strength)


def test_an_unknown_sampler_is_named(stage2):
    with pytest.raises(UserError, match="The sampler is 'plms'; choose one of ddim"):
        sampling_config_of(stage2[0], tiny_tokenizer(), "plms")


def test_blended_cells_have_all_of_the_others_state(rng, stage2, monkeypatch):
    """Including the memory of multistep samplers."""
    config, model, _, _ = stage2
    sampling = sampling_config_of(config, tiny_tokenizer(), "unipc")
    monkeypatch.setattr(
        type(model), "predict", lambda self, params, x, *_, **__: (jnp.sin(3 * x), None)
    )
    grid = sampling.timestep_grid(3)
    keys = jax.random.key_data(example_keys(jax.random.key(0), 1))

    def advanced(denoising, until, others=None):
        given = keys, Scales(None, None), grid, until, others
        return advance(model, sampling, {}, denoising, *given)

    own, unused = jnp.asarray(rng.random((1, 4, 4, 1)) < 0.5), Conditioning(None, None)
    mine, theirs = (
        Denoising(SAMPLERS["unipc"].begin(jnp.asarray(x, jnp.float32)), unused, own)
        for x in rng.standard_normal((2, 1, 4, 4, 3))
    )
    blended = mine
    for until in (1, 2, 3):
        mine, theirs = advanced(mine, until), advanced(theirs, until)
        blended = advanced(blended, until, theirs.state)
        expected = [jnp.where(own, a, b) for a, b in zip(arrays(mine), arrays(theirs), strict=True)]
        assert len(expected) == 4
        jax.tree.map(np.testing.assert_array_equal, arrays(blended), expected)


def arrays(denoising):
    """All of a sampler's state but the number of steps."""
    x, x0, _, memory = denoising.state
    return [x, x0, *memory]


@pytest.mark.parametrize("side", [4, 8])
def test_a_small_region_with_a_prompt_has_a_cell_of_its_own(side):
    """One pixel of sixteen is less than the share at which a cell counts as a region's."""
    labels = np.zeros((1, 16, 16), np.int32)
    labels[0, 5, 9] = 1  # within one cell
    region_text_ids = np.zeros((1, 3), np.int32)
    region_text_ids[0, 1] = 1
    labels, region_text_ids = jnp.asarray(labels), jnp.asarray(region_text_ids)
    own = np.asarray(own_cells(labels, region_text_ids > 0, (side, side)))[0, ..., 0]
    assert np.argwhere(own).tolist() == [[5 * side // 16, 9 * side // 16]]
    assert np.asarray(own_cells(labels, jnp.zeros_like(region_text_ids, bool), (side, side))).all()


@pytest.mark.parametrize(
    ("guidance", "sketch_guidance", "expected"),
    [(1, 1, (None, None)), (3, 1, (3, None)), (1, 3, (1, 3)), (0, 1, (0, None))],
)
def test_only_scales_that_change_nothing_are_left_out(guidance, sketch_guidance, expected):
    scales = scales_of({"guidance": guidance, "sketch_guidance": sketch_guidance})
    assert scales[:2] == expected
