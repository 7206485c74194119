"""Several ControlNets, guess mode and another VAE: latents and images are those of diffusers."""

import dataclasses

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import torch_models  # noqa: E402
import transformers  # noqa: E402
from fakes import random_batch  # noqa: E402
from sampled import sample_latents  # noqa: E402
from test_tokenizer import write_folder  # noqa: E402
from written import configured  # noqa: E402

from ragaf_jax.batch import Text  # noqa: E402
from ragaf_jax.diffusion.noise import example_keys, example_noise  # noqa: E402
from ragaf_jax.sampling.controls.networks import load_controls, with_vae  # noqa: E402
from ragaf_jax.sampling.controls.settings import ControlSettings, branch_scales  # noqa: E402
from ragaf_jax.sampling.sampling_config import Scales, sampling_config_of  # noqa: E402
from ragaf_jax.sampling.stages import Stage  # noqa: E402
from ragaf_jax.training.untrained import write_untrained  # noqa: E402

PROMPT, STEPS, GUIDANCE = "a red house", 5, 4.0
CHANNELS = ((8, 12, 16, 24), (4, 6, 8, 10))


def to_torch(images):
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def to_numpy(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def adopted(tmp_path_factory, seed):
    """A stage with a ControlNet, the folder of another one, and diffusers' pipeline of both."""
    folder, rng = tmp_path_factory.mktemp("sd"), np.random.default_rng(seed)
    theirs = torch_models.save_stable_diffusion(folder / "sd", "sd1", rng, **torch_models.SMALL)
    write_folder(folder / "sd" / "tokenizer", version=1)
    for name, channels in zip(("one", "two"), CHANNELS, strict=True):
        torch_models.control(theirs["unet"], rng, channels).save_pretrained(folder / name)
    sizes = {"data.image_size": 64, "data.max_edges": 64, "model.dtype": "float32"}
    config = configured(folder / "sd", **sizes, **{"init.control": str(folder / "one")})
    write_untrained(config, folder / "run")
    nets = [diffusers.ControlNetModel.from_pretrained(folder / name) for name in ("one", "two")]
    pipe = diffusers.StableDiffusionControlNetPipeline(
        **theirs,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "sd" / "tokenizer"),
        controlnet=nets,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return folder, Stage.restore(folder / "run", 1), pipe


@pytest.fixture(scope="module")
def draw(adopted):
    """(scales, batch, keys, images) → latents; compiled once."""
    folder, stage, _ = adopted
    (two,) = load_controls([folder / "two"], [stage])
    model = dataclasses.replace(stage.model, controls=(two.network,))
    params = {**stage.params, "controls": (two.params,)}
    sampling = sampling_config_of(stage.config, stage.tokenizer, "ddim")
    grid = sampling.timestep_grid(STEPS)

    @jax.jit
    def drawn(scales, batch, keys, images):
        return sample_latents(model, sampling, params, batch, keys, scales, grid, controls=images)

    return drawn


BOTH = ControlSettings(0.7, 0.0, 0.6), ControlSettings(1.3, 0.2, 1.0)
GUESSED = ControlSettings(0.7, levels="guess"), ControlSettings(1.3, levels="guess")


@pytest.mark.parametrize("settings", [BOTH, GUESSED], ids=["windows", "guess"])
def test_two_controlnets_give_the_latents_of_diffusers(rng, adopted, draw, settings):
    _, stage, pipe = adopted
    batch, other = (random_batch(rng, stage.config, size=1) for _ in range(2))
    text = Text(*stage.tokenizer.encode([PROMPT], stage.config.data.text_length))
    batch, image = batch._replace(text=text), np.float32(rng.random(other.sketch.shape))
    keys = example_keys(jax.random.key(int(rng.integers(2**31))), 1)
    count = stage.model.control.residuals

    def ours(*settings):
        branches = tuple(branch_scales(one, count, STEPS) for one in settings)
        scales = Scales(GUIDANCE, None, branches=branches)
        return np.asarray(draw(scales, batch, keys, (image,)))

    noise = example_noise(keys, stage.model.latent_shape)
    expected = to_numpy(
        pipe(
            PROMPT,
            image=[to_torch(batch.sketch), to_torch(image)],
            latents=to_torch(noise),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            controlnet_conditioning_scale=[one.strength for one in settings],
            control_guidance_start=[one.start for one in settings],
            control_guidance_end=[one.end for one in settings],
            guess_mode=settings is GUESSED,
            output_type="latent",
        ).images
    )
    norm = np.linalg.norm(expected)
    error = np.linalg.norm(ours(*settings) - expected) / norm
    # Of the second network, of the windows or levels.
    effects = [
        np.linalg.norm(ours(*other) - expected) / norm
        for other in (
            (settings[0], ControlSettings(0.0)),
            (ControlSettings(0.7), ControlSettings(1.3)),
        )
    ]
    print(f"latents differ by {error:.1e}, by {effects} with other settings")
    assert error <= 1e-5 and min(effects) >= 100 * error
    assert draw._cache_size() == 1


def test_another_vae_decodes_as_in_diffusers(rng, adopted, tmp_path):
    _, stage, _ = adopted
    vae = torch_models.vae(rng, layers_per_block=2, block_out_channels=(8, 12, 16, 16))
    vae.save_pretrained(tmp_path / "vae")
    (changed,), files = with_vae([stage], tmp_path / "vae")
    assert files.where == str(tmp_path / "vae")
    latents = np.float32(rng.standard_normal((1, *stage.model.latent_shape)))
    with torch.no_grad():
        expected = to_numpy(vae.decode(to_torch(latents) / vae.config.scaling_factor).sample)
        image = np.float32(rng.uniform(-1, 1, expected.shape))
        encoded = to_numpy(vae.encode(to_torch(image)).latent_dist.mode())
    found = jax.jit(changed.model.decode_image)(changed.params, latents)
    ours = jax.jit(changed.model.encode_image)(changed.params, image)
    for one, two in ((found, expected), (ours, encoded * vae.config.scaling_factor)):
        error = np.linalg.norm(one - two) / np.linalg.norm(two)
        print(f"the VAE differs by {error:.1e}")
        assert error <= 1e-5
