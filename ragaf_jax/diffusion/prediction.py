"""Prediction types (noise, velocity, data) and the conversions between them.

With `x_t = alpha · x_0 + sigma · ε` and `v = alpha · ε − sigma · x_0` (Salimans & Ho 2022, app. D),
any one of ε, v, x_0 gives the rest. Names are those of diffusers' scheduler configurations.
"""

from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.schedule import NoiseLevels, Schedule, levels_like, shaped_like
from ragaf_jax.errors import UserError

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def check_prediction(kind: str, schedule: Schedule) -> None:
    """Raise UserError if `kind` cannot be trained on `schedule` (concrete arrays, not traced).

    ε does not determine x_0 at alpha = 0 (Lin et al. 2023, sec. 3.1).
    """
    if kind not in PREDICTIONS:
        raise _unknown(kind)
    if kind == "epsilon" and float(schedule.alpha[-1]) == 0.0:
        raise UserError(
            'prediction "epsilon" cannot start from a schedule with zero_terminal_snr=True; '
            'choose "v_prediction" or "sample", or set zero_terminal_snr=False.'
        )


def target(
    kind: str,
    schedule: Schedule,
    x0: Float[Array, "b *rest"],
    noise: Float[Array, "b *rest"],
    t: Int[Array, "b"],
) -> Float[Array, "b *rest"]:
    """The ideal prediction of this kind at `x_t = alpha_t · x0 + sigma_t · noise`."""
    alpha, sigma = levels_like(schedule, t, x0)
    match kind:
        case "epsilon":
            return noise
        case "v_prediction":
            return alpha * noise - sigma * x0
        case "sample":
            return x0
    raise _unknown(kind)


def to_x0(
    kind: str,
    prediction: Float[Array, "b *rest"],
    x_t: Float[Array, "b *rest"],
    level: NoiseLevels,
) -> Float[Array, "b *rest"]:
    """The data x_0 of a `prediction` at x_t, [b] noise levels; infinite for ε at alpha = 0."""
    alpha, sigma = shaped_like(level.alpha, level.sigma, x_t)
    match kind:
        case "epsilon":
            return (x_t - sigma * prediction) / alpha
        case "v_prediction":
            return alpha * x_t - sigma * prediction
        case "sample":
            return prediction
    raise _unknown(kind)


def _unknown(kind: str) -> UserError:
    return UserError(f'prediction is "{kind}"; choose one of {", ".join(PREDICTIONS)}.')
