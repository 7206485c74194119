"""Schedules and samplers against diffusers' PyTorch schedulers. Runs where torch is installed."""

import importlib
import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import tiny_tokenizer

from ragaf_jax.batch import Text
from ragaf_jax.diffusion.noise import example_keys, folded, step_noise
from ragaf_jax.diffusion.noise_grid import SIGMAS, UNIFORM, noise_grid
from ragaf_jax.diffusion.prediction import PREDICTIONS, to_x0
from ragaf_jax.diffusion.samplers import SAMPLERS, sampler_for, spacing_of
from ragaf_jax.diffusion.schedule import add_noise, finite_snr, make_schedule
from ragaf_jax.sampling.sampling_config import SamplingConfig

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
THEIR_SCHEDULE = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
}
# Its noise, the only use of torchsde, is replaced.
sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))
DPMSolverSDEScheduler = importlib.import_module(
    "diffusers.schedulers.scheduling_dpmsolver_sde"
).DPMSolverSDEScheduler
SDE = {"algorithm_type": "sde-dpmsolver++"}
SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "dpm_solver_pp_2m_sde": (diffusers.DPMSolverMultistepScheduler, SDE),
    "dpm_solver_pp_sde": (DPMSolverSDEScheduler, {}),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "dpm_solver_pp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}
# Whose schedulers have no rescale_betas_zero_snr.
NO_ZERO_SNR = ("heun", "pndm", "dpm_solver_pp_sde")
# Whose schedulers do not take networks that predict x_0.
NO_SAMPLE = ("pndm", "dpm_solver_pp_sde", "euler_ancestral")
# Whose schedulers' x is x / alpha.
DIVIDED = [name for name, sampler in SAMPLERS.items() if sampler.continuous]
SHAPE = (2, 4, 4, 3)


class Double(types.ModuleType):
    """torch, in which float32 is float64."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


def theirs_of(sampler, name, kind, zero_snr, spacing, offset, to_one, sigmas=UNIFORM):
    scheduler, extra = SCHEDULERS[sampler]
    if sigmas != UNIFORM:
        extra = {**extra, f"use_{sigmas}_sigmas": True}
    if sampler in ("ddim", "pndm"):
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


def brownian(noises):
    """The noise of DPMSolverSDEScheduler: increments of a path over sigma, divided by their √.

    From a sigma it is called for half a step in log(sigma), then for the whole step.
    """

    def noise(sigma, end):
        if (sigma, "half") not in halves:
            halves[sigma, "half"] = sigma - end, next(drawn)
            return torch.from_numpy(halves[sigma, "half"][1])
        span, half = halves[sigma, "half"]
        path = span**0.5 * half + (sigma - end - span) ** 0.5 * next(drawn)
        return torch.from_numpy(np.asarray(path / (sigma - end) ** 0.5))

    halves, drawn = {}, iter(np.asarray(x, np.float64) for x in noises)
    return lambda sigma, end: noise(float(sigma), float(end))


def their_steps(sampler, scheduler, network, start, noises, monkeypatch):
    """x after each evaluation, in float64 and preserving variance, from `network(x, t)`."""
    drawn = iter(noises)
    monkeypatch.setattr(
        sys.modules[type(scheduler).__module__],
        "randn_tensor",
        lambda *_, **__: torch.from_numpy(np.array(next(drawn), np.float64)),
        raising=False,
    )
    if sampler == "dpm_solver_pp_sde":
        scheduler.noise_sampler = brownian(noises)

    def scale(i):
        """Where x is x / alpha, alpha is 1 / √(sigma² + 1)."""
        if sampler not in DIVIDED:
            return 1.0
        middle = getattr(scheduler, "mid_point_sigma", None)
        sigma = scheduler.sigmas[i] if middle is None else middle
        return (sigma.double() ** 2 + 1) ** 0.5

    if hasattr(scheduler, "set_begin_index"):  # else it skips a first timestep that repeats
        scheduler.set_begin_index(0)
    x, steps = torch.from_numpy(start).double() * scale(0), []
    for i, t in enumerate(scheduler.timesteps):
        answer = network(scheduler.scale_model_input(x, t).numpy(), float(t))
        x = scheduler.step(torch.from_numpy(answer), t, x).prev_sample.double()
        steps.append((x / scale(i + 1)).numpy())
    return steps


def our_steps(sampler, kind, levels, network, start, keys):
    """The timesteps, and x after each evaluation: the network's next input, and the sample."""
    shown, times = [], []

    def denoise(x, level):
        shown.append(np.asarray(x))
        times.append(float(level.t[0]))
        answer = network(np.asarray(x, np.float64), times[-1])
        return to_x0(kind, jnp.asarray(answer, jnp.float32), x, level)

    with jax.disable_jit():
        sample = sampler_for(sampler, kind)(denoise, jnp.asarray(start), levels, keys)
    return times, [*shown[1:], np.asarray(sample)]


def check_steps(
    rng,
    monkeypatch,
    sampler,
    kind,
    zero_snr,
    spacing,
    offset,
    to_one,
    steps,
    name="scaled_linear",
    sigmas=UNIFORM,
):
    """The same network — linear in x, swaying with t — leads through the same x to 1e-5."""
    mix, start = rng.normal(size=(3, 3)) / 3, rng.normal(size=SHAPE).astype(np.float32)
    keys = example_keys(jax.random.key(int(rng.integers(2**31))), SHAPE[0])

    def network(x, t):
        return x @ mix + np.sin(t / 100)

    ranged = sigmas != UNIFORM and (sampler in DIVIDED or (zero_snr and sigmas == "karras"))
    if sampler in NO_ZERO_SNR or ranged or (sampler in DIVIDED and zero_snr):
        # Karras and exponential sigmas span from a table's first entry, which loses 4e-5 of sigma.
        # From sigma 4096 on, its cast to float32 alone costs Euler up to 1e-5. Heun multiplies the
        # error of sigma at the first timesteps, where 1 - alpha_bar cancels, by the step's ratio.
        module = f"{SCHEDULERS[sampler][0].__module__}.torch"
        monkeypatch.setattr(module, Double("torch"))
    scheduler = theirs_of(sampler, name, kind, zero_snr, spacing, offset, to_one, sigmas)
    scheduler.set_timesteps(steps)
    if zero_snr and SAMPLERS[sampler].noises and hasattr(scheduler, "sigmas"):
        # There the added and the remaining noise are differences of almost equal squares.
        scheduler.sigmas = scheduler.sigmas.double()
    schedule = make_schedule(name, zero_terminal_snr=zero_snr, **BETAS)
    if SAMPLERS[sampler].finite_snr:
        schedule = finite_snr(schedule)
    spaced = spacing_of(sampler, spacing, offset, to_one, schedule=name)
    levels, _ = noise_grid(schedule, steps, 1.0, spaced, sigmas)
    noises = []
    for k in range(steps):
        own = [step_noise(keys, k, SHAPE[1:]), step_noise(folded(keys, k), 1, SHAPE[1:])]
        noises += own[: SAMPLERS[sampler].noises]
    theirs = their_steps(sampler, scheduler, network, start, noises, monkeypatch)
    times, ours = our_steps(sampler, kind, levels, network, start, keys)
    np.testing.assert_allclose(times, scheduler.timesteps.numpy(), atol=1e-3)
    assert len(ours) == len(theirs)
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
    return sampler not in ("ddim", "pndm") or fields[0] != "trailing" or 1000 % steps == 0


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
    with_pairs_in_the_gate(
        tuple(SAMPLERS),
        tuple(PREDICTIONS),
        ("linear", "scaled_linear"),
        allowed=lambda sampler, kind, _: kind != "sample" or sampler not in NO_SAMPLE,
    ),
)
def test_steps_of_other_fields(rng, monkeypatch, sampler, kind, name):
    """Of every prediction and schedule; timestep 0 among the timesteps; DDIM's other ends."""
    zero_snr = kind != "epsilon" and sampler not in NO_ZERO_SNR
    for fields in (("leading", 0, True), ("leading", 0, False), ("trailing", 0, False)):
        check_steps(rng, monkeypatch, sampler, kind, zero_snr, *fields, 10, name)


@pytest.mark.parametrize("steps", (2, 10, 28))
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in ("ddim", "pndm")])
def test_steps_of_linspace(rng, monkeypatch, sampler, steps):
    """Of the schedulers that step to its timesteps, rounded or not."""
    check_steps(rng, monkeypatch, sampler, "v_prediction", False, "linspace", 0, True, steps)


@pytest.mark.parametrize("spacing", ("leading", "trailing", "linspace"))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_timesteps(rng, sampler, spacing):
    # Of 48, 96 and 240, "trailing" has timesteps half-way between two integers.
    most = 50 if sampler == "lcm" else 900
    for steps in {48, min(96, most), min(240, most), *rng.integers(1, most, 8).tolist()}:
        theirs = theirs_of(sampler, "scaled_linear", "epsilon", False, spacing, 1, True)
        theirs.set_timesteps(steps)
        spaced = spacing_of(sampler, spacing, 1, True)
        levels, _ = noise_grid(make_schedule("scaled_linear", **BETAS), steps, 1.0, spaced)
        timesteps = theirs.timesteps.numpy()
        if sampler in ("heun", "dpm_solver_pp_sde"):
            timesteps = timesteps[::2]
        elif sampler == "pndm":
            timesteps = np.delete(timesteps, [2] if steps > 1 else [])
        # Rounding may give diffusers' "trailing" one more timestep, −1.
        np.testing.assert_allclose(levels.t[:-1], timesteps[:steps], atol=1e-4)


@pytest.mark.parametrize(
    "sampler, sigmas, predicted, fields, steps",
    with_pairs_in_the_gate(
        [name for name, sampler in SAMPLERS.items() if sampler.sigmas],
        SIGMAS[1:],
        PREDICTED,
        (*FIELDS, ("linspace", 0, True)),
        (1, 2, 7, 20),
        allowed=lambda sampler, _, predicted, *rest: not predicted[1] or sampler not in NO_ZERO_SNR,
    ),
)
def test_steps_of_sigmas(rng, monkeypatch, sampler, sigmas, predicted, fields, steps):
    check_steps(rng, monkeypatch, sampler, *predicted, *fields, steps, sigmas=sigmas)


@pytest.mark.parametrize("sampler", ("dpm_solver_pp_2m", "unipc", "euler"))
def test_timesteps_of_karras_sigmas_of_the_cosine_schedule(sampler):
    """DPM-Solver truncates them there and rounds them elsewhere."""
    for steps in (7, 8):
        fields = "trailing", 0, True
        theirs = theirs_of(sampler, "cosine", "v_prediction", False, *fields, "karras")
        theirs.set_timesteps(steps)
        spaced = spacing_of(sampler, *fields, schedule="cosine")
        levels, _ = noise_grid(make_schedule("cosine"), steps, 1.0, spaced, "karras")
        np.testing.assert_allclose(levels.t[:-1], theirs.timesteps.numpy(), atol=0.05)
        ratio = levels.sigma / levels.alpha
        np.testing.assert_allclose(ratio, theirs.sigmas[[*range(steps), -1]], rtol=1e-3)


@pytest.mark.parametrize("spacing", ("leading", "trailing", "linspace"))
@pytest.mark.parametrize("sigmas", SIGMAS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_scale_of_pure_noise(sampler, sigmas, spacing):
    if sigmas != UNIFORM and not SAMPLERS[sampler].sigmas:
        return
    theirs = theirs_of(sampler, "scaled_linear", "epsilon", False, spacing, 1, True, sigmas)
    theirs.set_timesteps(20)
    sigma = float(theirs.sigmas.max()) if sampler in DIVIDED else 0
    spaced = spacing_of(sampler, spacing, 1, True)
    schedule, text = make_schedule("scaled_linear", **BETAS), tiny_tokenizer().encode([""], 4)
    sampling = SamplingConfig(schedule, "epsilon", sampler, spaced, sigmas, Text(*text))
    expected = float(theirs.init_noise_sigma) / (sigma**2 + 1) ** 0.5
    assert float(sampling.timestep_grid(20).start_scale) == pytest.approx(expected, abs=1e-6)
