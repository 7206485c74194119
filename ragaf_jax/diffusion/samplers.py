"""All samplers, one entry each: from noise to data along a grid of noise levels.

A step does not depend on later levels. Step by step the samplers equal diffusers' schedulers, with
the grid of `spacing_of` and, at zero terminal SNR, the schedule of `finite_snr`. One difference:
diffusers' DDIM and PNDM go from t to t − ⌊T/N⌋. This is not the next timestep in "linspace", in
"trailing" if N does not divide T, and with an offset ≥ ⌊T/N⌋.
"""

from ragaf_jax.diffusion.ancestral_samplers import (
    ddpm,
    dpm_solver_pp_2m_sde,
    dpm_solver_pp_sde,
    euler_ancestral,
    lcm,
)
from ragaf_jax.diffusion.ode_samplers import ddim, dpm_solver_pp_2m, euler, heun, unipc
from ragaf_jax.diffusion.pndm import pndm, pndm_velocity
from ragaf_jax.diffusion.sampler_interface import Sampler
from ragaf_jax.diffusion.timesteps import CONSISTENCY, Spacing
from ragaf_jax.errors import UserError

SAMPLERS = {
    "ddim": ddim,
    "pndm": pndm,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "dpm_solver_pp_2m_sde": dpm_solver_pp_2m_sde,
    "dpm_solver_pp_sde": dpm_solver_pp_sde,
    "unipc": unipc,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "ddpm": ddpm,
    "lcm": lcm,
}


def sampler_for(name: str, prediction: str) -> Sampler:
    """The sampler of a network with this prediction type.

    Raises:
      UserError: an unknown name, or PNDM for a network that predicts x_0.
    """
    if name not in SAMPLERS:
        raise UserError(f"The sampler is {name!r}; choose one of {', '.join(SAMPLERS)}.")
    if name != "pndm" or prediction == "epsilon":
        return SAMPLERS[name]
    if prediction != "v_prediction":
        raise UserError(
            f"The sampler is 'pndm' and the model predicts {prediction!r}; PNDM combines "
            "predictions of 'epsilon' or 'v_prediction': choose another sampler."
        )
    return pndm_velocity


def spacing_of(
    sampler: str,
    kind: str,
    offset: int,
    set_alpha_to_one: bool,
    original_steps: int = 50,
    schedule: str = "scaled_linear",
) -> Spacing:
    """The spacing of diffusers' scheduler for `sampler` with these fields of scheduler_config.json.

    set_alpha_to_one: only for DDIM and PNDM; the others end in clean data (final_sigmas_type
      "zero").
    original_steps: only for LCM.
    schedule: name of the noise schedule. With "cosine", DPMSolverMultistepScheduler truncates the
      timesteps of Karras sigmas, which it rounds otherwise.
    """
    chosen = SAMPLERS[sampler]
    return Spacing(
        CONSISTENCY if sampler == "lcm" else kind,
        offset,
        spans_end=chosen.spans_end,
        clean_end=set_alpha_to_one or sampler not in ("ddim", "pndm"),
        continuous=chosen.continuous,
        rounds_karras=sampler == "unipc" or schedule != "cosine",
        original_steps=original_steps,
    )
