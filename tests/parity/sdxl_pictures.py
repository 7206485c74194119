"""Images of a Stable Diffusion XL from the same inputs, by diffusers' pipeline and here."""

import functools

import diffusers
import jax
import numpy as np
import torch
import transformers
from fakes import random_batch
from sampled import sample_latents
from test_tokenizer import write_folder

from ragaf_jax.batch import Text
from ragaf_jax.diffusion.noise import example_keys, example_noise
from ragaf_jax.sampling.denoising import to_pixels
from ragaf_jax.sampling.sampling_config import Scales, TextConditioning

PROMPT, NEGATIVE, GUIDANCE = "a red house", "a blue tree", 5.0
TOKENIZERS = ("tokenizer", "tokenizer_2")


def to_torch(images):
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def distance(ours, theirs):
    """‖a − b‖ / ‖b‖ of latents, theirs in PyTorch's order of axes."""
    theirs = theirs.permute(0, 2, 3, 1).numpy()
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def write_tokenizers(folder):
    for number, name in enumerate(TOKENIZERS, 1):
        write_folder(folder / name, number, "slow with added tokens")


def pipeline_of(networks, folder):
    """diffusers' pipeline of networks that were saved in a folder."""
    read = transformers.CLIPTokenizer.from_pretrained
    tokenizers = {name: read(folder / name) for name in TOKENIZERS}
    # From the file, because `from_config` of one that was made here ignores its default values.
    scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    parts = {**networks, **tokenizers, "scheduler": scheduler}
    return diffusers.StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False)


def inputs_of(rng, config, shape, sizes):
    """A sketch of this height and width, an image's six numbers, and the noise of its keys."""
    batch = random_batch(rng, config, size=1, shape=shape)
    keys = example_keys(jax.random.key(int(rng.integers(2**31))), 1)
    noise = example_noise(keys, (shape[0] // 8, shape[1] // 8, 4))
    return batch._replace(image=None, sizes=np.float32([sizes])), keys, noise


def drawing_of(stage, keys, steps):
    """(batch, negative prompt) → latents here; compiled once."""
    sampling = stage.sampling_config("euler")
    grid, none = sampling.timestep_grid(steps), np.zeros((1, stage.model.max_regions), np.int32)
    scales = Scales(GUIDANCE, None)

    @jax.jit
    def drawn(params, batch, text):
        given = batch, keys, scales, grid, None, text
        return sample_latents(stage.model, sampling, params, *given)

    def draw(batch, negative):
        texts = (Text(*stage.tokenizer.encode([text], 77)) for text in (negative, PROMPT))
        return np.asarray(drawn(stage.params, batch, TextConditioning(*texts, none, none)))

    return draw


def theirs_of(pipe, inputs, negative, steps):
    """The latents of diffusers' pipeline, with a scheduler of Euler's."""
    batch, _, noise = inputs
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    height, width, top, left, *target = map(int, batch.sizes[0])
    return pipe(
        PROMPT,
        image=to_torch(batch.sketch),
        negative_prompt=negative,
        latents=to_torch(noise),
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        original_size=(height, width),
        crops_coords_top_left=(top, left),
        target_size=tuple(target),
        output_type="latent",
    ).images


@torch.no_grad()
def image_distance(stage, vae, processor, theirs):
    """The largest difference of a value in 0 … 1 between both images of diffusers' latents."""
    latents = theirs.permute(0, 2, 3, 1).numpy()
    image = jax.jit(functools.partial(to_pixels, stage.model))(stage.params, latents)
    decoded = vae.decode(theirs / vae.config.scaling_factor).sample
    (expected,) = processor.postprocess(decoded, output_type="np")
    return np.abs(np.asarray(image[0]) / 255 - expected).max()
