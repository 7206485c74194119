"""Classifier-free guidance by two conditions, the sketch and the text."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.samplers import Denoise

DenoiseConditions = Callable[
    [Float[Array, "3*b *rest"], Int[Array, "3*b"]], Float[Array, "3*b *rest"]
]


def guided(
    denoise_conditions: DenoiseConditions,
    text_scale: float | Float[Array, ""],
    sketch_scale: float | Float[Array, ""],
    until: float | Float[Array, ""] = 0.0,
) -> Denoise:
    """A denoiser guided by sketch and text (Brooks et al. 2023, InstructPix2Pix, eq. 3):

        x_0(∅,∅) + sketch_scale · [x_0(sketch,∅) − x_0(∅,∅)]
                 + text_scale · [x_0(sketch,text) − x_0(sketch,∅)]

    The equation is stated for ε; its weights sum to 1, so at a given x_t the same combination of
    x_0 is the same guidance. Scales of 1 answer x_0(sketch,text); scales may be traced.

    until: at timesteps below, both scales are 1. What the text asks for is decided while there is
      much noise; later, guidance only makes errors of the two predictions greater (Kynkäänniemi et
      al. 2024, "Applying Guidance in a Limited Interval", sec. 3).
    denoise_conditions: answers x_0 for three batches in a row, all of the same x and t, with the
      conditions (∅,∅), then (sketch,∅), then (sketch,text).
    """

    def denoise(x: Float[Array, "b *rest"], t: Int[Array, "b"]) -> Float[Array, "b *rest"]:
        answers = denoise_conditions(jnp.concatenate([x] * 3), jnp.concatenate([t] * 3))
        nothing, sketch, both = jnp.split(answers, 3)
        guides = (t >= until).reshape(-1, *[1] * (x.ndim - 1))
        by_text = jnp.where(guides, text_scale, 1.0)
        by_sketch = jnp.where(guides, sketch_scale, 1.0)
        return (1 - by_sketch) * nothing + (by_sketch - by_text) * sketch + by_text * both

    return denoise
