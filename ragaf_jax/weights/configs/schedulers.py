"""Conversion between diffusers' `scheduler_config.json` and the fields of `config.diffusion`."""

from typing import Any, NamedTuple

from ragaf_jax.errors import UserError
from ragaf_jax.weights.configs.fields import Json, field, shown

_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
# The fields of `config.diffusion` and their names in diffusers.
_NAMES = {
    "schedule": "beta_schedule",
    "steps": "num_train_timesteps",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "zero_terminal_snr": "rescale_betas_zero_snr",
    "prediction": "prediction_type",
    "timestep_spacing": "timestep_spacing",
    "steps_offset": "steps_offset",
    "set_alpha_to_one": "set_alpha_to_one",
}
_KNOWN = {
    "beta_schedule": tuple(_SCHEDULES),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}
# Defaults of diffusers' schedulers.
_SCHEDULE_DEFAULTS = {
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "steps_offset": 0,
}
# Classes with DDPM's noise schedule and diffusers' defaults for missing betas. A file of another
# class is accepted only with a beta_schedule.
_DDPM_LIKE = (
    "",
    *(f"{name}Scheduler" for name in ("DDIM", "DDIMParallel", "DDIMInverse")),
    *(f"{name}Scheduler" for name in ("DDPM", "DDPMParallel", "PNDM", "LCM", "TCD")),
    *(f"{name}DiscreteScheduler" for name in ("Euler", "EulerAncestral", "Heun", "LMS")),
    *(f"KDPM2{name}Scheduler" for name in ("Discrete", "AncestralDiscrete")),
    *(f"DPMSolver{name}Scheduler" for name in ("Multistep", "Singlestep", "MultistepInverse")),
    *(f"{name}Scheduler" for name in ("DPMSolverSDE", "DEISMultistep", "UniPCMultistep")),
    "SASolverScheduler",
)
# Parts of class names of other diffusions, whatever fields they have.
_OTHER_DIFFUSION = ("Flow", "EDM", "CogVideoX")
# The default timestep_spacing is "leading" for these and "linspace" for all others.
_LEADING = ("", "DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
# Consistency models ignore timestep_spacing: their timesteps are "trailing".
_CONSISTENCY = ("LCMScheduler", "TCDScheduler")
# With "trailing" and epsilon, schedulers of SD-Turbo (Sauer et al. 2023) and Hyper-SD: other
# checkpoints have "trailing" only with a zero terminal SNR, at which epsilon is undefined.
_TURBO = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler")
# The samplers of distilled checkpoints; TCD's adds no noise at its default of gamma.
_SAMPLERS = {
    "LCMScheduler": "lcm",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DDIMScheduler": "ddim",
}
# Settings of diffusers' samplers without effect here, with the values that match this package.
_IGNORED = {
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "thresholding": (False,),
    "clip_sample": (False,),
    "solver_order": (2,),
    "algorithm_type": ("dpmsolver++", "deis"),
    "solver_type": ("midpoint", "logrho", "bh1", "bh2"),
    "lower_order_final": (True,),
    "euler_at_final": (False,),
    "final_sigmas_type": ("zero",),
    "lambda_min_clipped": (float("-inf"),),
    "variance_type": ("fixed_small",),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "sigma_min": (),
    "sigma_max": (),
    "skip_prk_steps": (True,),
    "timestep_scaling": (10.0,),
}


class Distilled(NamedTuple):
    """The sampling of a distilled checkpoint.

    Attributes:
      steps: 0 for a checkpoint that is not distilled.
      sampler: a name in `diffusion.samplers.SAMPLERS`.
      guidance: 1, or the usual scale of a UNet that reads it.
    """

    steps: int = 0
    sampler: str = "euler"
    guidance: float = 1.0


NOT_DISTILLED = Distilled()


def diffusion_fields(config: Json, source: str) -> dict[str, Any]:
    """The fields of `config.diffusion` that a scheduler_config.json determines.

    Fields of diffusers' own sampler (its class, its solver's order …) are ignored: `config.sample`
    selects the sampler.

    Raises:
      UserError: another kind of diffusion.
    """
    kind = _kind(config)
    has_betas = kind in _DDPM_LIKE or config.get("beta_schedule") is not None
    if not has_betas or any(part in kind for part in _OTHER_DIFFUSION):
        raise UserError(
            f"{source} has the class {shown(kind)}, a diffusion without DDPM's betas, expected a "
            "scheduler of Stable Diffusion 1, 2 or XL; give their scheduler/."
        )
    if (betas := config.get("trained_betas")) is not None:
        raise UserError(
            f"trained_betas in {source} is {shown(betas)}, expected null: the noise schedule is "
            "read from beta_schedule, beta_start and beta_end."
        )
    defaults = {
        **_SCHEDULE_DEFAULTS,
        "timestep_spacing": "leading" if kind in _LEADING else "linspace",
        "set_alpha_to_one": kind != "PNDMScheduler",
    }
    fields = {name: field(config, name, default, source) for name, default in defaults.items()}
    for name, known in _KNOWN.items():
        if fields[name] not in known:
            raise UserError(
                f"{name} in {source} is {shown(fields[name])}, expected one of {', '.join(known)}."
            )
    if kind in _CONSISTENCY:
        fields["timestep_spacing"] = "trailing"
    fields["beta_schedule"] = _SCHEDULES[fields["beta_schedule"]]
    original = field(config, "original_inference_steps", 50, source)
    return {ours: fields[theirs] for ours, theirs in _NAMES.items()} | {"original_steps": original}


def distilled(config: Json, reads_guidance: bool) -> Distilled:
    """How to sample a checkpoint with this scheduler_config.json.

    reads_guidance: whether its UNet reads the guidance scale.
    """
    kind = _kind(config)
    if reads_guidance:
        return lcm(reads_guidance)
    turbo = (
        kind in _TURBO
        and config.get("timestep_spacing") == "trailing"
        and config.get("prediction_type", "epsilon") == "epsilon"
        and not config.get("rescale_betas_zero_snr")
    )
    if kind == "LCMScheduler":
        return lcm(reads_guidance)
    return turbo_of(kind) if turbo or kind in _CONSISTENCY else NOT_DISTILLED


def turbo_of(kind: str = "") -> Distilled:
    """The sampling of SD-Turbo's kind (model card: 1 to 4 steps) and of TCD (4 steps)."""
    return Distilled(4, _SAMPLERS.get(kind, "euler"))


def lcm(reads_guidance: bool) -> Distilled:
    """The sampling of an LCM (model card: 4 to 8 steps, a guidance scale of 8)."""
    return Distilled(4, "lcm", 8.0 if reads_guidance else 1.0)


def distilled_notice(found: Distilled, source: str) -> str:
    """The notice of a distilled checkpoint, or ""."""
    if not found.steps:
        return ""
    return (
        f"{source} belongs to a checkpoint distilled to few steps, such as SD-Turbo or LCM: "
        f"config.sample gets steps={found.steps}, guidance={found.guidance:g} and "
        f"sampler={found.sampler}, except for fields that the command sets."
    )


def ignored(config: Json, source: str) -> str:
    """A sentence on fields of a scheduler_config.json without effect here, or ""."""
    fields = [
        f"{name}={shown(value)}"
        for name, usual in _IGNORED.items()
        if (value := config.get(name)) is not None and value not in usual
    ]
    if (kind := _kind(config)) not in _DDPM_LIKE:
        return (
            f"{source} has the unknown class {shown(kind)}: the noise schedule follows from its "
            "betas, and config.sample selects the sampler."
        )
    if not fields:
        return ""
    return (
        f"{source} has {', '.join(fields)}, which {'has' if len(fields) == 1 else 'have'} no "
        "effect here: config.sample selects the sampler."
    )


def _kind(config: Json) -> str:
    return str(config.get("_class_name") or "").removeprefix("Flax")


def scheduler_json(fields: Json) -> dict[str, Any]:
    """The inverse of `diffusion_fields`, for DDIM or, if the model was distilled for it, LCM."""
    found = {theirs: fields[ours] for ours, theirs in _NAMES.items()}
    schedule = next(theirs for theirs, ours in _SCHEDULES.items() if ours == fields["schedule"])
    consistency = fields.get("distilled_steps", 0) > 0 and fields["distilled_sampler"] == "lcm"
    original = {"original_inference_steps": fields["original_steps"]} if consistency else {}
    return {
        "_class_name": "LCMScheduler" if consistency else "DDIMScheduler",
        **found,
        **original,
        "beta_schedule": schedule,
        "clip_sample": False,
    }
