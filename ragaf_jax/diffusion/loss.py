"""The denoising loss and its weight at each timestep."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.prediction import target
from ragaf_jax.diffusion.schedule import Schedule, levels

MAX_SNR = 1e4
"""Upper bound of the SNR, which limits the weight of the first, almost noise-free timesteps."""


def loss_weight(
    kind: str,
    schedule: Schedule,
    t: Int[Array, "b"],
    min_snr_gamma: float | None,
    max_snr: float = MAX_SNR,
) -> Float[Array, "b"]:
    """The factor on the squared error of a prediction of `kind`, one of `PREDICTIONS`.

    Because `|Δε|² = SNR · |Δx_0|²` and `|Δv|² = (SNR + 1) · |Δx_0|²` with SNR = alpha²/sigma²:

    min_snr_gamma None: 1 for ε and v; SNR + 1 for x_0, which equals the v loss (Salimans & Ho 2022,
      sec. 4: "SNR + 1 weighting").
    min_snr_gamma γ: min(SNR, γ) on x_0 (Hang et al. 2023, sec. 3.4), the same loss in every space:
      min(SNR, γ) / SNR on ε, min(SNR, γ) / (SNR + 1) on v. At zero terminal SNR it is 0 for v and
      x_0: the last timestep is then not trained.
    max_snr: for "sample" without γ, whose weight is min(SNR, max_snr) + 1. A small value limits the
      v loss at low noise, and unlike min-SNR keeps weight at high noise, which determines colours.
    """
    alpha, sigma = levels(schedule, t)
    snr = jnp.minimum((alpha / sigma) ** 2, MAX_SNR)
    if min_snr_gamma is None:
        return jnp.minimum(snr, max_snr) + 1.0 if kind == "sample" else jnp.ones_like(snr)
    match kind:
        case "epsilon":
            # min(SNR, γ) / SNR, in the form that is 1 and not 0/0 at SNR = 0.
            return jnp.minimum(1.0, min_snr_gamma / snr)
        case "v_prediction":
            return jnp.minimum(snr, min_snr_gamma) / (snr + 1.0)
    return jnp.minimum(snr, min_snr_gamma)


def denoising_loss(
    kind: str,
    schedule: Schedule,
    prediction: Float[Array, "b *rest"],
    x0: Float[Array, "b *rest"],
    noise: Float[Array, "b *rest"],
    t: Int[Array, "b"],
    min_snr_gamma: float | None = None,
    max_snr: float = MAX_SNR,
) -> Float[Array, "b"]:
    """Weighted mean squared error of each example, in float32.

    prediction: of the network at `add_noise(schedule, x0, noise, t)`.
    Raises UserError for an unknown kind.
    """
    error = prediction.astype(jnp.float32) - target(kind, schedule, x0, noise, t)
    per_example = jnp.mean(error**2, axis=tuple(range(1, error.ndim)))
    return loss_weight(kind, schedule, t, min_snr_gamma, max_snr) * per_example
