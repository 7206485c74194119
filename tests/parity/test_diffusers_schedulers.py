"""Schedules and samplers against diffusers' PyTorch schedulers. Runs where torch is installed."""

import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.diffusion.prediction import PREDICTIONS, to_x0
from ragaf_jax.diffusion.samplers import SAMPLERS, timestep_grid
from ragaf_jax.diffusion.schedule import add_noise, make_schedule

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
THEIR_SCHEDULE = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
}
SHAPE = (2, 4, 4, 3)


def scheduler(sampler, name, kind):
    common = {
        "beta_schedule": THEIR_SCHEDULE[name],
        "prediction_type": kind,
        "timestep_spacing": "trailing",
        **BETAS,
    }
    if sampler == "ddim":
        return diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **common)
    return diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero", **common
    )


@pytest.mark.parametrize("zero_terminal_snr", (False, True))
@pytest.mark.parametrize("name", THEIR_SCHEDULE)
def test_schedule(name, zero_terminal_snr):
    theirs = diffusers.DDIMScheduler(
        beta_schedule=THEIR_SCHEDULE[name], rescale_betas_zero_snr=zero_terminal_snr, **BETAS
    )
    ours = make_schedule(name, zero_terminal_snr=zero_terminal_snr, **BETAS)
    alpha = theirs.alphas_cumprod.double().sqrt().numpy()
    np.testing.assert_allclose(ours.alpha, alpha, atol=2e-6)


@pytest.mark.parametrize("name", THEIR_SCHEDULE)
def test_noising(rng, name):
    x0, noise = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    t = rng.integers(0, 1000, 2)
    theirs = diffusers.DDIMScheduler(beta_schedule=THEIR_SCHEDULE[name], **BETAS).add_noise(
        torch.from_numpy(x0), torch.from_numpy(noise), torch.from_numpy(t)
    )
    ours = add_noise(make_schedule(name, **BETAS), *map(jnp.asarray, (x0, noise, t)))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)


@pytest.mark.parametrize("steps", (1, 2, 5, 20, 50))
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", ("scaled_linear", "linear"))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler(rng, sampler, name, kind, steps):
    """The same network — linear in x, swaying with t — gives the same image."""
    mix = rng.normal(size=(3, 3)) / 3
    start = rng.normal(size=SHAPE).astype(np.float32)

    theirs = scheduler(sampler, name, kind)
    theirs.set_timesteps(steps)
    grid = timestep_grid(1000, steps)
    np.testing.assert_array_equal(grid[:-1], theirs.timesteps.numpy())

    x = torch.from_numpy(start).double()
    for t in theirs.timesteps:
        network = x @ torch.from_numpy(mix) + torch.sin(t / 100)
        x = theirs.step(network, t, x).prev_sample

    schedule = make_schedule(name, **BETAS)

    def denoise(x, t):
        network = x @ jnp.asarray(mix, jnp.float32) + jnp.sin(t / 100).reshape(-1, 1, 1, 1)
        return to_x0(kind, schedule, network, x, t)

    ours = SAMPLERS[sampler](denoise, jnp.asarray(start), schedule, grid)
    scale = float(x.abs().max())
    np.testing.assert_allclose(ours / scale, x.numpy() / scale, atol=2e-5)
