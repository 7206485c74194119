"""Images of an adopted SDXL, and of its export, are those of diffusers' pipeline."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import torch_models  # noqa: E402
import transformers  # noqa: E402
from commands import run_here  # noqa: E402
from fakes import random_batch  # noqa: E402
from sampled import sample_latents  # noqa: E402
from test_diffusers_controls import to_numpy, to_torch  # noqa: E402
from test_diffusers_networks import error, nchw, normal  # noqa: E402
from test_diffusers_sdxl import state_of  # noqa: E402
from test_diffusers_single_files import same  # noqa: E402
from test_tokenizer import CORNER_CASES, write_folder  # noqa: E402
from written import assert_same, configured  # noqa: E402

from ragaf_jax.batch import Text  # noqa: E402
from ragaf_jax.diffusion.noise import example_keys, example_noise  # noqa: E402
from ragaf_jax.nets.build import build_model  # noqa: E402
from ragaf_jax.nets.unet import AddedConditions  # noqa: E402
from ragaf_jax.sampling.controls.networks import load_controls  # noqa: E402
from ragaf_jax.sampling.denoising import to_pixels  # noqa: E402
from ragaf_jax.sampling.sampling_config import (  # noqa: E402
    Scales,
    TextConditioning,
    sampling_config_of,
)
from ragaf_jax.sampling.stages import Stage  # noqa: E402
from ragaf_jax.training import adopt  # noqa: E402
from ragaf_jax.training.untrained import write_untrained  # noqa: E402
from ragaf_jax.weights.pretrained import open_control, open_pretrained  # noqa: E402
from ragaf_jax.weights.save import writers  # noqa: E402

PROMPT, NEGATIVE, STEPS, GUIDANCE, TOLERANCE = "a red house", "a blue tree", 4, 5.0, 1e-5
KINDS = {"sdxl": ({}, {}), "ssd": (torch_models.SSD, torch_models.SMALLER_CONTROLS["small"])}
SIZE = {"data.image_size": 64, "data.max_edges": 64, "model.dtype": "float32"}
TOKENIZERS = ("tokenizer", "tokenizer_2")


@pytest.fixture(scope="module", params=["sdxl", pytest.param("ssd", marks=pytest.mark.products)])
def adopted(request, tmp_path_factory, seed):
    """A checkpoint's folder, its networks and ControlNet in PyTorch, and the adopted stage."""
    folder, rng = tmp_path_factory.mktemp(request.param), np.random.default_rng(seed)
    changes, smaller = KINDS[request.param]
    theirs = torch_models.save_sdxl(folder / "xl", rng, **changes)
    for number, name in enumerate(TOKENIZERS, 1):
        write_folder(folder / "xl" / name, number, "slow with added tokens")
    theirs["controlnet"] = torch_models.control(theirs["unet"], rng, **smaller)
    theirs["controlnet"].save_pretrained(folder / "control")
    # Read again, because `from_config` of one that was made here ignores its default values.
    scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(folder / "xl" / "scheduler")
    theirs["scheduler"] = scheduler
    config = configured(folder / "xl", **SIZE, **{"init.control": str(folder / "control")})
    write_untrained(config, folder / "run")
    return folder, theirs, Stage.restore(folder / "run", 1)


@pytest.fixture(scope="module")
def inputs(adopted, seed):
    """A sketch of 9 × 13 latents, as of a cropped image, and its noise."""
    _, _, stage = adopted
    rng = np.random.default_rng(seed)
    batch = random_batch(rng, stage.config, size=1, shape=(72, 104))
    sizes = np.float32([[131, 250, 8, 24, 72, 104]])
    keys = example_keys(jax.random.key(int(rng.integers(2**31))), 1)
    noise = example_noise(keys, stage.model.latent_shape_of((72, 104)))
    return batch._replace(image=None, sizes=sizes), keys, noise


@pytest.fixture(scope="module")
def draw(adopted, inputs):
    """(batch, negative prompt) → latents and the image; compiled once."""
    _, _, stage = adopted
    _, keys, _ = inputs
    sampling = sampling_config_of(stage.config, stage.tokenizer, "euler")
    grid, none = sampling.timestep_grid(STEPS), np.zeros((1, stage.model.max_regions), np.int32)

    @jax.jit
    def drawn(params, batch, text):
        scales = Scales(GUIDANCE, None)
        latents = sample_latents(
            stage.model, sampling, params, batch, keys, scales, grid, None, text
        )
        return latents, to_pixels(stage.model, params, latents)

    def call(batch, negative):
        texts = (Text(*stage.tokenizer.encode([x], 77)) for x in (negative, PROMPT))
        return [
            np.asarray(x) for x in drawn(stage.params, batch, TextConditioning(*texts, none, none))
        ]

    return call


def images_of(pipe, inputs, negative, output_type="latent"):
    """diffusers' result for `inputs`."""
    batch, _, noise = inputs
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    height, width, top, left, *target = map(int, batch.sizes[0])
    return pipe(
        PROMPT,
        image=to_torch(batch.sketch),
        negative_prompt=negative,
        latents=to_torch(noise),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        original_size=(height, width),
        crops_coords_top_left=(top, left),
        target_size=tuple(target),
        output_type=output_type,
    ).images


def distance(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.slow
def test_the_same_picture(adopted, inputs, draw):
    """With and without a negative prompt, for given sizes of the image."""
    folder, theirs, _ = adopted
    tokenizers = {
        name: transformers.CLIPTokenizer.from_pretrained(folder / "xl" / name)
        for name in TOKENIZERS
    }
    pipe = diffusers.StableDiffusionXLControlNetPipeline(
        **theirs, **tokenizers, add_watermarker=False
    )
    found = {}
    for negative in (None, NEGATIVE):
        expected = to_numpy(images_of(pipe, inputs, negative))
        found[negative], image = draw(inputs[0], negative or "")
        assert distance(found[negative], expected) <= TOLERANCE
    assert distance(found[None], found[NEGATIVE]) >= 1e-3
    assert np.abs(image[0] / 255 - images_of(pipe, inputs, NEGATIVE, "np")[0]).max() <= 1.5 / 255
    # Without given sizes, those of an uncropped image.
    other, _ = draw(inputs[0]._replace(sizes=np.float32([[72, 104, 0, 0, 72, 104]])), NEGATIVE)
    assert distance(other, found[NEGATIVE]) >= 1e-3


def test_the_export_is_diffusers_pipeline(adopted, inputs, draw):
    folder, theirs, stage = adopted
    output = folder / "exported"
    done = run_here("ragaf_jax.export", f"--workdir={folder / 'run'}", f"--output={output}")
    assert done.status == 0, done.stderr
    pipe = diffusers.StableDiffusionXLControlNetPipeline.from_pretrained(
        output, torch_dtype=torch.float32, add_watermarker=False
    )
    for name, network in theirs.items():
        if name != "scheduler":
            same(getattr(pipe, name).state_dict(), network)
    expected = to_numpy(images_of(pipe, inputs, None))
    assert distance(draw(inputs[0], "")[0], expected) <= TOLERANCE
    assert pipe.vae.config.force_upcast and pipe.config.force_zeros_for_empty_prompt

    found = open_pretrained(str(output))
    original = open_pretrained(str(folder / "xl"))
    networks = {"unet": found.unet, "text_encoder": found.text_encoder, "autoencoder": found.vae}
    networks["control"] = open_control(str(output / "controlnet"))
    shapes = jax.eval_shape(lambda: stage.params)
    assert_same({k: x.load(shapes[k]) for k, x in networks.items()}, stage.params)
    assert found.diffusion == original.diffusion
    assert found.text_encoder.config == original.text_encoder.config
    for name in TOKENIZERS:
        ours, before = (
            transformers.CLIPTokenizer.from_pretrained(x / name) for x in (output, folder / "xl")
        )
        assert ours.pad_token == before.pad_token
        frame = {"padding": "max_length", "max_length": 77, "truncation": True}
        for text in CORNER_CASES.values():
            assert ours(text, **frame).input_ids == before(text, **frame).input_ids
    card = (output / "README.md").read_text()
    assert "diffusers.StableDiffusionXLControlNetPipeline.from_pretrained('exported')" in card
    assert "image = pipeline(prompt, image=sketch, guidance_scale=7.5).images[0]" in card
    # diffusers' converter of the original layout leaves out SDXL's added conditions.
    assert not (output / "controlnet.safetensors").exists()
    single = diffusers.ControlNetModel.from_single_file(
        str(output / "controlnet" / "diffusion_pytorch_model.safetensors"),
        config=str(output / "controlnet"),
    )
    same(single.state_dict(), theirs["controlnet"])


@torch.no_grad()
@pytest.mark.parametrize(
    "kind", [*torch_models.SMALLER_CONTROLS, pytest.param("whole", marks=pytest.mark.products)]
)
def test_other_controlnets(rng, adopted, tmp_path, kind):
    """As `--control` and as sketch branch, also exported; as a folder and as one file."""
    folder, nets, stage = adopted
    changes = torch_models.SMALLER_CONTROLS.get(kind, {})
    theirs = torch_models.control(nets["unet"], rng, **changes)
    theirs.save_pretrained(tmp_path / "control")
    file = tmp_path / "one.safetensors"
    file.symlink_to(tmp_path / "control" / "diffusion_pytorch_model.safetensors")
    found, single = load_controls([tmp_path / "control", file], [stage])
    assert_same(single.params, found.params)

    x, text = normal(rng, 1, 6, 10, 4), normal(rng, 1, 7, sum(torch_models.XL_WIDTHS))
    t, sizes = np.float32([500]), np.float32(rng.integers(0, 2048, (1, 6)))
    added = AddedConditions(normal(rng, 1, torch_models.POOLED), sizes)
    sketch = np.float32(rng.random((1, 48, 80, 3)))
    apply = jax.jit(lambda *given: found.network.apply({"params": found.params}, *given))
    down, mid, _ = apply(x, t, text, sketch, 1.0, None, added)
    control = torch_models.copy_of(theirs)
    residuals, last = control(
        nchw(x), controlnet_cond=nchw(sketch), return_dict=False, **state_of(t, text, added)
    )
    for ours, expected in zip((*down, mid), (*residuals, last), strict=True):
        assert error(ours, expected) <= TOLERANCE

    config = configured(folder / "xl", **SIZE, **{"init.control": str(tmp_path / "control")})
    model = build_model(adopt.adopted(config, tmp_path / "run")[0])
    assert model.control.config == found.network.config
    made = writers(model, {"control": found.params}, "float32", "diffusers", False)
    (tmp_path / "again").mkdir()
    made["control"](tmp_path / "again")
    again = diffusers.ControlNetModel.from_pretrained(tmp_path / "again")
    same(again.state_dict(), theirs)
    assert open_control(str(tmp_path / "again")).config.unet.mid_block_type == (
        theirs.config.mid_block_type
    )
