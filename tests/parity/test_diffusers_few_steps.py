"""Adopted LCM and Turbo checkpoints give the latents that diffusers' pipeline gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import torch_models  # noqa: E402
import transformers  # noqa: E402
from fakes import random_batch  # noqa: E402
from sampled import sample_latents  # noqa: E402
from test_tokenizer import write_folder  # noqa: E402

from configs import stage1  # noqa: E402
from ragaf_jax.batch import Text  # noqa: E402
from ragaf_jax.diffusion.noise import example_keys, example_noise, folded, step_noise  # noqa: E402
from ragaf_jax.nets.build import build_model  # noqa: E402
from ragaf_jax.nets.layers import guidance_embedding  # noqa: E402
from ragaf_jax.sampling.denoising import _STEP_NOISE  # noqa: E402
from ragaf_jax.sampling.sampling_config import sampling_config_of, scales_of  # noqa: E402
from ragaf_jax.training.adopt import adopted  # noqa: E402
from ragaf_jax.training.initial import initial_params  # noqa: E402

PROMPT = "a red house"
SCHEDULERS = {
    "lcm": (diffusers.LCMScheduler, {"original_inference_steps": 40}),
    "euler": (diffusers.EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
}


def torch_noise(noise):
    return torch.from_numpy(np.array(noise)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("sampler", ["lcm", pytest.param("euler", marks=pytest.mark.products)])
def test_the_same_latents(rng, sampler, tmp_path, monkeypatch):
    folder, reads = tmp_path / "sd", sampler == "lcm"
    size = {**torch_models.SMALL, "time_cond_proj_dim": 12 if reads else None}
    nets = torch_models.save_stable_diffusion(folder, "sd1", rng, **size)
    scheduler, fields = SCHEDULERS[sampler]
    nets["scheduler"] = scheduler.from_config(nets["scheduler"].config, **fields)
    nets["scheduler"].save_pretrained(folder / "scheduler")
    nets["controlnet"] = torch_models.control(nets["unet"], rng)
    nets["controlnet"].save_pretrained(tmp_path / "control")
    write_folder(folder / "tokenizer", version=1)
    config = stage1.get_config("openmoji_sd")
    config.update_from_flattened_dict(
        {
            "init.checkpoint": str(folder),
            "init.control": str(tmp_path / "control"),
            "data.image_size": 64,
            "data.max_regions": 9,
            "data.max_edges": 64,
            "model.dtype": "float32",
        }
    )
    config, tokenizer = adopted(config, tmp_path / "run")
    guidance = 8.0 if reads else 1.0
    sample = config.sample
    assert (sample.sampler, sample.steps, sample.guidance) == (sampler, 4, guidance)

    model = build_model(config)
    params, sampling = initial_params(config, model, None), sampling_config_of(config, tokenizer)
    batch = random_batch(rng, config, size=1)
    batch = batch._replace(text=Text(*tokenizer.encode([PROMPT], config.data.text_length)))
    keys = example_keys(jax.random.key(int(rng.integers(2**31))), 1)
    grid, traces = sampling.timestep_grid(sample.steps), []

    @jax.jit
    def latents(params, batch, scales):
        traces.append(scales)
        return sample_latents(model, sampling, params, batch, keys, scales, grid)

    def ours(guidance):
        sample.guidance = guidance
        scales = scales_of(sample.to_dict(), model.unet.config)
        return np.asarray(latents(params, batch, scales))

    noise = np.asarray(example_noise(keys, model.latent_shape))
    steps = folded(keys, _STEP_NOISE)
    drawn = (torch_noise(step_noise(steps, k, model.latent_shape)) for k in range(4))
    module = scheduler.__module__
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: next(drawn))
    pipe = diffusers.StableDiffusionControlNetPipeline(
        **nets,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        PROMPT,
        image=torch_noise(batch.sketch),
        latents=torch_noise(noise),
        num_inference_steps=4,
        guidance_scale=guidance,
        output_type="latent",
    ).images
    expected = expected.permute(0, 2, 3, 1).numpy()
    found = ours(guidance)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= 1e-5, f"{error:.1e}"
    if reads:
        other = ours(2.5)
        assert np.linalg.norm(other - found) / np.linalg.norm(found) > 1e-3
        assert len(traces) == 1, "a new guidance scale compiled again"


@pytest.mark.parametrize("width, tolerance", [(12, 2e-6), (13, 2e-6), (256, 1e-3)])
def test_embedding_of_the_guidance_scale(width, tolerance):
    """At 256, one frequency differs in its last bit, and the angle is 7,000 times that."""
    scales = np.float32([0, 0.5, 7, 14])
    get = diffusers.StableDiffusionPipeline.get_guidance_scale_embedding
    theirs = get(None, torch.from_numpy(scales), width)
    ours = guidance_embedding(jnp.asarray(scales), width)
    np.testing.assert_allclose(ours, theirs, atol=tolerance)
