"""The numbers of PyTorch's Stable Diffusion, kept: checked where there is no PyTorch."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import values
from safetensors.numpy import save_file

from ragaf_jax.diffusion.noise_grid import noise_grid
from ragaf_jax.diffusion.prediction import to_x0
from ragaf_jax.diffusion.samplers import SAMPLERS, spacing_of
from ragaf_jax.diffusion.schedule import make_schedule
from ragaf_jax.weights.modules import load_network
from ragaf_jax.weights.pretrained import open_control, open_pretrained

HERE = Path(__file__).parent
KNOWN = json.loads((HERE / "golden.json").read_text())
ANSWERS = np.load(HERE / "golden.npz")
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=KNOWN)
def opened(request, tmp_path_factory):
    """A generation's name, its checkpoint and its ControlNet, from files of the golden weights."""
    folder = written(tmp_path_factory.mktemp(request.param), request.param)
    return request.param, open_pretrained(str(folder)), open_control(str(folder / "controlnet"))


def written(folder, kind):
    """The folder, with the files of a generation's checkpoint."""
    for name, network in KNOWN[kind].items():
        (folder / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / name / file).write_text(json.dumps(network["config"]))
        if "shapes" in network:
            stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
            weights = {x: values.weight(x, shape) for x, shape in network["shapes"].items()}
            save_file(weights, folder / name / f"{stem}.safetensors")
    return folder


def check(ours, name):
    error = np.linalg.norm(np.float64(ours) - ANSWERS[name]) / np.linalg.norm(ANSWERS[name])
    assert error <= TOLERANCE, name


def test_unet_and_controlnet(opened):
    kind, checkpoint, control = opened
    given = {name: jnp.asarray(x) for name, x in values.inputs(kind).items()}
    state = [given[name] for name in ("latents", "timesteps", "text")]
    unet, params = load_network(checkpoint.unet)
    branch, branch_params = load_network(control)

    @jax.jit
    def run(strength):
        residuals = branch.apply({"params": branch_params}, *state, given["sketch"], strength)
        return unet.apply({"params": params}, *state, *residuals[:2]), residuals[1]

    drawn, mid = run(jnp.float32(1))
    check(drawn, f"{kind}/unet_with_control")
    check(mid, f"{kind}/control_mid")
    check(run(jnp.float32(0))[0], f"{kind}/unet")


def test_vae(opened):
    kind, checkpoint, _ = opened
    given = {name: jnp.asarray(x) for name, x in values.inputs(kind).items()}
    vae, params = load_network(checkpoint.vae)
    params = {"params": params}
    encode, decode = (jax.jit(functools.partial(vae.apply, method=m)) for m in ("encode", "decode"))
    mean, log_variance = encode(params, given["image"])
    check(mean, f"{kind}/vae_mean")
    check(log_variance, f"{kind}/vae_log_variance")
    check(decode(params, given["latents"][:1]), f"{kind}/vae_decoded")


@pytest.mark.parametrize(("skip", "name"), [(0, "text"), (1, "text_clip_skip_1")])
def test_text_encoder(opened, skip, name):
    kind, checkpoint, _ = opened
    tokens = jnp.asarray(values.inputs(kind)["tokens"])
    encoder, params = load_network(checkpoint.text_encoder)
    encoder = dataclasses.replace(encoder, clip_skip=skip)
    check(jax.jit(encoder.apply)({"params": params}, tokens), f"{kind}/{name}")


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp_2m", "unipc", "euler", "heun"])
def test_sampler_step_by_step(sampler, prediction, spacing):
    schedule = make_schedule("scaled_linear")
    spaced = spacing_of(sampler, spacing, 1, set_alpha_to_one=False)
    levels, _ = noise_grid(schedule, values.STEPS, spacing=spaced)

    def denoise(x, level):
        network = 0.5 * jnp.sin(x) + level.t.reshape(-1, 1, 1, 1) / 1000
        return to_x0(prediction, network, x, level)

    @jax.jit
    def advance(state, until):
        return SAMPLERS[sampler].advance(denoise, state, levels, None, until)

    state = SAMPLERS[sampler].begin(jnp.asarray(values.start()))
    for i, expected in enumerate(ANSWERS[f"{sampler}/{prediction}/{spacing}"]):
        state = advance(state, i + 1)
        np.testing.assert_allclose(state.x, expected, atol=1e-5 * np.abs(expected).max())
