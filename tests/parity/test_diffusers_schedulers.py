"""Schedules and samplers against diffusers' PyTorch schedulers. Runs where torch is installed."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.diffusion.noise import example_keys, step_noise
from ragaf_jax.diffusion.prediction import PREDICTIONS, to_x0
from ragaf_jax.diffusion.samplers import SAMPLERS, spacing_of
from ragaf_jax.diffusion.schedule import add_noise, finite_snr, make_schedule
from ragaf_jax.diffusion.timesteps import timestep_grid

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
THEIR_SCHEDULE = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
}
SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "dpm_solver_pp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}
NO_ZERO_SNR = ("heun",)  # whose scheduler has no rescale_betas_zero_snr
SHAPE = (2, 4, 4, 3)


class Double(types.ModuleType):
    """torch, in which float32 is float64."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


def theirs_of(sampler, name, kind, zero_snr, spacing, offset, to_one):
    scheduler, extra = SCHEDULERS[sampler]
    if sampler == "ddim":
        extra = {**extra, "set_alpha_to_one": to_one}
    if sampler not in NO_ZERO_SNR:
        extra = {**extra, "rescale_betas_zero_snr": zero_snr}
    return scheduler(
        beta_schedule=THEIR_SCHEDULE[name],
        prediction_type=kind,
        timestep_spacing=spacing,
        steps_offset=offset,
        **BETAS,
        **extra,
    )


def their_steps(scheduler, network, start, noises, monkeypatch):
    """x after each evaluation, in float64 and preserving variance, from `network(x, t)`."""
    drawn = iter(noises)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *_, **__: torch.from_numpy(np.array(next(drawn), np.float64)),
    )
    divided = isinstance(
        scheduler, diffusers.EulerDiscreteScheduler | diffusers.HeunDiscreteScheduler
    )

    def scale(i):
        """Euler's and Heun's x is x / alpha, and alpha is 1 / √(sigma² + 1)."""
        return (scheduler.sigmas[i].double() ** 2 + 1) ** 0.5 if divided else 1.0

    x, steps = torch.from_numpy(start).double() * scale(0), []
    for i, t in enumerate(scheduler.timesteps):
        answer = network(scheduler.scale_model_input(x, t).numpy(), int(t))
        x = scheduler.step(torch.from_numpy(answer), t, x).prev_sample
        steps.append((x / scale(i + 1)).numpy())
    return steps


def our_steps(sampler, kind, schedule, grid, network, start, keys):
    """x after each evaluation: what the network is shown next, and the sample."""
    shown = []

    def denoise(x, t):
        shown.append(np.asarray(x))
        answer = network(np.asarray(x, np.float64), int(t[0]))
        return to_x0(kind, schedule, jnp.asarray(answer, jnp.float32), x, t)

    with jax.disable_jit():
        sample = SAMPLERS[sampler](denoise, jnp.asarray(start), schedule, grid, keys)
    return [*shown[1:], np.asarray(sample)]


def check_steps(
    rng, monkeypatch, sampler, kind, zero_snr, spacing, offset, to_one, steps, name="scaled_linear"
):
    """The same network — linear in x, swaying with t — leads through the same x to 1e-5."""
    mix, start = rng.normal(size=(3, 3)) / 3, rng.normal(size=SHAPE).astype(np.float32)
    keys = example_keys(jax.random.key(int(rng.integers(2**31))), SHAPE[0])

    def network(x, t):
        return x @ mix + np.sin(t / 100)

    if sampler == "heun" or (sampler == "euler" and zero_snr):
        # From sigma 4096 on, its cast to float32 alone costs Euler up to 1e-5. Heun multiplies the
        # error of sigma at the first timesteps, where 1 - alpha_bar cancels, by the step's ratio.
        module = f"{SCHEDULERS[sampler][0].__module__}.torch"
        monkeypatch.setattr(module, Double("torch"))
    scheduler = theirs_of(sampler, name, kind, zero_snr, spacing, offset, to_one)
    scheduler.set_timesteps(steps)
    grid = timestep_grid(1000, steps, spacing=spacing_of(sampler, spacing, offset, to_one))
    # Heun's has every timestep but the first twice: it predicts x there, and corrects it.
    evaluated = np.repeat(grid[:-1], 2)[1:] if sampler == "heun" else grid[:-1]
    np.testing.assert_array_equal(evaluated, scheduler.timesteps.numpy())

    schedule = make_schedule(name, zero_terminal_snr=zero_snr, **BETAS)
    if SAMPLERS[sampler].finite_snr:
        schedule = finite_snr(schedule)
    noises = [step_noise(keys, k, SHAPE[1:]) for k in range(steps if sampler == "ddpm" else 0)]
    theirs = their_steps(scheduler, network, start, noises, monkeypatch)
    ours = our_steps(sampler, kind, schedule, grid, network, start, keys)
    assert len(ours) == len(theirs) == len(evaluated)
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True)]
    assert max(errors) <= 1e-5, f"evaluation {np.argmax(errors)}: {max(errors):.1e}"


@pytest.mark.parametrize("zero_snr", (False, True))
@pytest.mark.parametrize("name", THEIR_SCHEDULE)
def test_schedule(name, zero_snr):
    for sampler in SCHEDULERS:
        if zero_snr and sampler in NO_ZERO_SNR:
            continue
        theirs = theirs_of(sampler, name, "epsilon", zero_snr, "leading", 0, True)
        ours = make_schedule(name, zero_terminal_snr=zero_snr, **BETAS)
        if SAMPLERS[sampler].finite_snr:
            ours = finite_snr(ours)
        alpha_bar = theirs.alphas_cumprod.double().numpy()
        np.testing.assert_allclose(ours.alpha, np.sqrt(alpha_bar), atol=1e-6)
        np.testing.assert_allclose(ours.sigma**2, 1 - alpha_bar, atol=1e-6)


@pytest.mark.parametrize("name", THEIR_SCHEDULE)
def test_noising(rng, monkeypatch, name):
    # Their table in float32 loses 2e-5 of sigma at the first timesteps: 1 - alpha_bar cancels.
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddim.torch", Double("torch"))
    x0, noise = rng.normal(size=(2, *SHAPE))
    t = rng.integers(0, 1000, 2)
    theirs = diffusers.DDIMScheduler(beta_schedule=THEIR_SCHEDULE[name], **BETAS).add_noise(
        torch.from_numpy(x0), torch.from_numpy(noise), torch.from_numpy(t)
    )
    ours = add_noise(make_schedule(name, **BETAS), *map(jnp.float32, (x0, noise)), jnp.asarray(t))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)


def with_pairs_in_the_gate(*factors, allowed=lambda *_: True):
    """All combinations; those in the gate hold every pair of two factors' values between them.

    They are chosen greedily: the next is always the first with the most pairs not yet held.
    """
    every = [x for x in itertools.product(*factors) if allowed(*x)]
    pairs = {x: set(itertools.combinations(enumerate(x), 2)) for x in every}
    left, chosen = set().union(*pairs.values()), set()
    while left:
        best = max(every, key=lambda x: len(pairs[x] & left))
        chosen.add(best)
        left -= pairs[best]

    def param(x):
        marks = () if x in chosen else pytest.mark.products
        flat = (str(part) for value in x for part in np.atleast_1d(np.array(value, object)))
        return pytest.param(*x, marks=marks, id="-".join(flat))

    return [param(x) for x in every]


# Stable Diffusion 1's fields, and those of Lin et al. 2023.
FIELDS = (("leading", 1, False), ("trailing", 0, True))
PREDICTED = (("epsilon", False), ("v_prediction", False), ("v_prediction", True))


def comparable(sampler, steps, predicted, fields):
    """Whether diffusers has the case, and steps to the timestep that it evaluates next.

    See samplers.py.
    """
    if sampler in NO_ZERO_SNR and predicted[1]:
        return False
    return sampler != "ddim" or fields[0] != "trailing" or 1000 % steps == 0


@pytest.mark.parametrize(
    "sampler, steps, predicted, fields",
    with_pairs_in_the_gate(
        tuple(SAMPLERS),
        (1, 2, 5, 7, 20, 30, 50),
        PREDICTED,
        FIELDS,
        allowed=comparable,
    ),
)
def test_steps(rng, monkeypatch, sampler, predicted, fields, steps):
    check_steps(rng, monkeypatch, sampler, *predicted, *fields, steps)


@pytest.mark.parametrize(
    "sampler, kind, name",
    with_pairs_in_the_gate(tuple(SAMPLERS), tuple(PREDICTIONS), ("linear", "scaled_linear")),
)
def test_steps_of_other_fields(rng, monkeypatch, sampler, kind, name):
    """Of every prediction and schedule; timestep 0 among the timesteps; DDIM's other ends."""
    zero_snr = kind != "epsilon" and sampler not in NO_ZERO_SNR
    for fields in (("leading", 0, True), ("leading", 0, False), ("trailing", 0, False)):
        check_steps(rng, monkeypatch, sampler, kind, zero_snr, *fields, 10, name)


@pytest.mark.parametrize("steps", (2, 10, 28))
@pytest.mark.parametrize("sampler", ("ddpm", "dpm_solver_pp_2m", "unipc"))
def test_steps_of_linspace(rng, monkeypatch, sampler, steps):
    """Of the schedulers that round its timesteps and step to them."""
    check_steps(rng, monkeypatch, sampler, "v_prediction", False, "linspace", 0, True, steps)


@pytest.mark.parametrize("spacing", ("leading", "trailing", "linspace"))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_timesteps(rng, sampler, spacing):
    # Of 48, 96 and 240, "trailing" has timesteps half-way between two integers.
    for steps in {48, 96, 240, *rng.integers(1, 900, 8).tolist()}:
        theirs = theirs_of(sampler, "scaled_linear", "epsilon", False, spacing, 1, True)
        theirs.set_timesteps(steps)
        grid = timestep_grid(1000, steps, spacing=spacing_of(sampler, spacing, 1, True))
        # Rounding may give diffusers' "trailing" one more timestep, −1; Euler and Heun do not round
        # "linspace".
        timesteps = theirs.timesteps.numpy()
        expected = (timesteps[::2] if sampler == "heun" else timesteps)[:steps]
        np.testing.assert_allclose(grid[:-1], expected, atol=0.5 if spacing == "linspace" else 0)
