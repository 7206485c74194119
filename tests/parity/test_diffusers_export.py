"""A ControlNet trained here draws in diffusers' pipeline what it draws here."""

import subprocess
import sys

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import torch_models  # noqa: E402
from commands import ROOT, run_here  # noqa: E402
from fakes import random_batch  # noqa: E402
from sampled import sample_latents  # noqa: E402
from test_tokenizer import write_folder  # noqa: E402

from configs import stage1  # noqa: E402
from ragaf_jax.batch import Text  # noqa: E402
from ragaf_jax.diffusion.noise import example_keys, example_noise  # noqa: E402
from ragaf_jax.monitoring.writers import Writer  # noqa: E402
from ragaf_jax.sampling.denoising import to_pixels  # noqa: E402
from ragaf_jax.sampling.sampling_config import Scales, sampling_config_of  # noqa: E402
from ragaf_jax.sampling.stages import Stage  # noqa: E402
from ragaf_jax.training.adopt import adopted  # noqa: E402
from ragaf_jax.training.loop import train  # noqa: E402

PROMPT, OTHER, STEPS, GUIDANCE = "a red house", "a blue tree", 5, 4.0


class Batches:
    """The same batch for ever."""

    def __init__(self, batch):
        self.batch = batch

    def __next__(self):
        return self.batch

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def keys(self, index):
        return []


@pytest.fixture(scope="module", params=["sd1", pytest.param("sd2", marks=pytest.mark.products)])
def trained(request, tmp_path_factory, seed):
    """The workdir of a ControlNet that was trained for three steps, from a checkpoint's files."""
    kind, rng = request.param, np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp(kind)
    torch_models.save_stable_diffusion(folder / "sd", kind, rng, **torch_models.SMALL)
    write_folder(folder / "sd" / "tokenizer", version=1 if kind == "sd1" else 2)
    config = stage1.get_config("openmoji_sd")
    config.update_from_flattened_dict(
        {
            "init.checkpoint": str(folder / "sd"),
            "data.image_size": 64,
            "data.max_regions": 9,
            "data.max_edges": 64,
            "model.dtype": "float32",
            "train.steps": 3,
            "train.batch_size": 2,
            "train.learning_rate": 0.03,
            "train.warmup_steps": 1,
        }
    )
    config, tokenizer = adopted(config, folder / "run")
    batch = random_batch(rng, config)
    (folder / "kind").write_text(kind)
    (folder / "run").mkdir()
    train(
        config, folder / "run", lambda keys: Batches(batch), batch, tokenizer, lambda step: Writer()
    )
    return folder


@pytest.fixture(scope="module")
def exported(trained):
    """What the command writes in a process of its own."""
    command = [sys.executable, "-m", "ragaf_jax.export", f"--workdir={trained / 'run'}"]
    command.append(f"--output={trained / 'exported'}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return trained / "exported"


def export(workdir, output, *flags):
    return run_here("ragaf_jax.export", f"--workdir={workdir}", f"--output={output}", *flags)


@pytest.mark.slow
@pytest.mark.parametrize(
    "size", [(64, 64), (72, 104), pytest.param((64, 96), marks=pytest.mark.products)]
)
def test_the_same_picture(rng, trained, exported, size):
    """Also of another height and width than in training, with 9 × 13 latents."""
    # Of all pairs two, for the sake of time; schedulers are compared step by step elsewhere.
    kind = (trained / "kind").read_text()
    scheduler = {"sd1": "ddim", "sd2": "dpm_solver_pp_2m"}[kind]
    pipe = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        exported, torch_dtype=torch.float32
    )
    solver = {
        "ddim": diffusers.DDIMScheduler,
        "dpm_solver_pp_2m": diffusers.DPMSolverMultistepScheduler,
    }[scheduler]
    pipe.scheduler = solver.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    stage = Stage.restore(trained / "run", 1)
    sampling = sampling_config_of(stage.config, stage.tokenizer, scheduler)
    batch = random_batch(rng, stage.config, size=1)
    text = Text(*stage.tokenizer.encode([PROMPT], stage.config.data.text_length))
    batch = batch._replace(
        text=text,
        image=None,
        sketch=rng.uniform(0, 1, (1, *size, 3)).astype(np.float32),
        labels=rng.integers(0, 5, (1, *size)).astype(np.int32),
    )
    keys = example_keys(jax.random.key(int(rng.integers(2**31))), 1)
    asked = keys, Scales(GUIDANCE, 1.0), sampling.timestep_grid(STEPS)

    @jax.jit
    def draw(params, batch):
        latents = sample_latents(stage.model, sampling, params, batch, *asked)
        return latents, to_pixels(stage.model, params, latents)

    noise = np.asarray(example_noise(keys, stage.model.latent_shape_of(size)))

    def theirs(prompt, output_type):
        return pipe(
            prompt,
            image=torch.from_numpy(batch.sketch).permute(0, 3, 1, 2),
            latents=torch.from_numpy(noise).permute(0, 3, 1, 2),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type=output_type,
        ).images

    latents, images = (np.asarray(x) for x in draw(stage.params, batch))
    expected, other = (
        theirs(prompt, "latent").permute(0, 2, 3, 1).numpy() for prompt in (PROMPT, OTHER)
    )
    norm = np.linalg.norm(expected)
    error, effect = (np.linalg.norm(expected - x) / norm for x in (latents, other))
    print(
        f"{kind}, {scheduler}, {size}: latents differ by {error:.1e}, by {effect:.1e} with other"
        " words"
    )
    assert error <= 1e-5 and effect >= 100 * error
    assert images.std() > 5
    assert np.abs(images[0] / 255 - theirs(PROMPT, "np")[0]).max() <= 1.5 / 255


def test_the_branch_has_learnt(trained):
    """Zero convolutions that are zero no more, and a UNet that is the checkpoint's."""
    stage = Stage.restore(trained / "run", 1)
    assert all(
        np.any(stage.params["control"][f"controlnet_down_blocks_{i}"]["kernel"]) for i in range(3)
    )
    theirs = diffusers.UNet2DConditionModel.from_pretrained(trained / "sd" / "unet")
    kernel = theirs.conv_in.weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(stage.params["unet"]["conv_in"]["kernel"], kernel)
    # The encoder's copy moved a little from where it began.
    copied = stage.params["control"]["conv_in"]["kernel"]
    assert 0 < np.abs(copied - kernel).max() < 0.2


def test_load_then_export_is_the_same_file(trained, tmp_path):
    done = export(trained / "run", tmp_path / "out", "--parts=unet,vae,text_encoder")
    assert done.status == 0, done.stderr
    import transformers

    kinds = {
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
    }
    for name, kind in kinds.items():
        before = kind.from_pretrained(trained / "sd" / name)
        after, report = kind.from_pretrained(tmp_path / "out" / name, output_loading_info=True)
        assert not any(report.values()), report
        for field in ("block_out_channels", "attention_head_dim", "hidden_act", "scaling_factor"):
            one, two = (getattr(model.config, field, None) for model in (before, after))
            assert one == two or tuple(one) == tuple(two), field
        for (key, one), two in zip(
            before.state_dict().items(), after.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(one, two, rtol=0, atol=0, msg=key)
    card = (tmp_path / "out" / "unet" / "README.md").read_text()
    assert str(trained / "sd") in card and "| updates | 3 |" in card
    assert not (tmp_path / "out" / "model_index.json").exists()


def test_what_cannot_be_exported(trained, tmp_path):
    done = export(trained / "run", tmp_path / "out", "--format=kohya")
    assert done.status == 1
    assert "--parts has lora" in done.stderr and "config.model.lora.patterns" in done.stderr
    assert not list(tmp_path.iterdir())
    done = export(trained, tmp_path / "out")
    assert done.status == 1 and "holds no checkpoint" in done.stderr
