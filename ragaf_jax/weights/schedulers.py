"""diffusers' `scheduler_config.json` into the fields of `config.diffusion`, and back."""

from typing import Any

from ragaf_jax.errors import UserError
from ragaf_jax.weights.fields import Json, field, shown

_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_KNOWN = {
    "beta_schedule": tuple(_SCHEDULES),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}
# Without these, diffusers' schedulers mean the values here.
_SCHEDULE_DEFAULTS = {
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "steps_offset": 0,
}
# Without a timestep_spacing, these mean "leading" and all others "linspace".
_LEADING = ("", "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler")


def diffusion_fields(config: Json, source: str) -> dict[str, Any]:
    """The fields of `config.diffusion` that a scheduler_config.json decides.

    What it says of diffusers' own sampler (its class, its solver's order …) is not obeyed: how to
    sample is said by `config.sample`.

    Raises:
      UserError: another kind of diffusion.
    """
    kind = str(config.get("_class_name") or "").removeprefix("Flax")
    if "Flow" in kind or "EDM" in kind:
        raise UserError(
            f"{source} is of a {kind}, which is of another kind of diffusion, expected one of the "
            "schedulers of Stable Diffusion 1 and 2."
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
    said = {name: field(config, name, default, source) for name, default in defaults.items()}
    for name, known in _KNOWN.items():
        if said[name] not in known:
            raise UserError(
                f"{name} in {source} is {shown(said[name])}, expected one of {', '.join(known)}."
            )
    return {
        "schedule": _SCHEDULES[said["beta_schedule"]],
        "steps": said["num_train_timesteps"],
        "beta_start": said["beta_start"],
        "beta_end": said["beta_end"],
        "zero_terminal_snr": said["rescale_betas_zero_snr"],
        "prediction": said["prediction_type"],
        "timestep_spacing": said["timestep_spacing"],
        "steps_offset": said["steps_offset"],
        "set_alpha_to_one": said["set_alpha_to_one"],
    }


def scheduler_json(fields: Json) -> dict[str, Any]:
    """The inverse of `diffusion_fields`, for DDIM."""
    names = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    return {
        "_class_name": "DDIMScheduler",
        "beta_schedule": names[fields["schedule"]],
        "num_train_timesteps": fields["steps"],
        "beta_start": fields["beta_start"],
        "beta_end": fields["beta_end"],
        "rescale_betas_zero_snr": fields["zero_terminal_snr"],
        "prediction_type": fields["prediction"],
        "timestep_spacing": fields["timestep_spacing"],
        "steps_offset": fields["steps_offset"],
        "set_alpha_to_one": fields["set_alpha_to_one"],
        "clip_sample": False,
    }
