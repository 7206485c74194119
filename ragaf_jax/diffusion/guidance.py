"""Classifier-free guidance by two conditions, the sketch and the text."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.diffusion.sampler_interface import Denoise

# Of two or three conditions in a row, n examples altogether.
DenoiseConditions = Callable[[Float[Array, "n *rest"], Int[Array, "n"]], Float[Array, "n *rest"]]


def guided(
    denoise_conditions: DenoiseConditions,
    text_scale: float | Float[Array, ""],
    sketch_scale: float | Float[Array, ""] | None,
    until: float | Float[Array, ""] = 0.0,
) -> Denoise:
    """A denoiser guided by sketch and text (Brooks et al. 2023, InstructPix2Pix, eq. 3):

        x_0(∅,∅) + sketch_scale · [x_0(sketch,∅) − x_0(∅,∅)]
                 + text_scale · [x_0(sketch,text) − x_0(sketch,∅)]

    The equation is stated for ε; its weights sum to 1, so at a given x_t the same combination of
    x_0 is the same guidance. Scales of 1 answer x_0(sketch,text); scales may be traced.

    sketch_scale: None counts as 1, at which x_0(∅,∅) has no say: it is not asked for then, and a
      step costs two evaluations of the networks instead of three.
    until: at timesteps below, both scales are 1. What the text asks for is decided while there is
      much noise; later, guidance only makes errors of the two predictions greater (Kynkäänniemi et
      al. 2024, "Applying Guidance in a Limited Interval", sec. 3).
    denoise_conditions: answers x_0 for as many batches in a row, all of the same x and t, with the
      conditions (∅,∅), unless it has no say, then (sketch,∅), then (sketch,text).
    """

    def denoise(x: Float[Array, "b *rest"], t: Int[Array, "b"]) -> Float[Array, "b *rest"]:
        count = 2 if sketch_scale is None else 3
        answers = denoise_conditions(jnp.concatenate([x] * count), jnp.concatenate([t] * count))
        *nothing, sketch, both = jnp.split(answers, count)
        guides = (t >= until).reshape(-1, *[1] * (x.ndim - 1))
        by_text = jnp.where(guides, text_scale, 1.0)
        if sketch_scale is None:
            return (1 - by_text) * sketch + by_text * both
        by_sketch = jnp.where(guides, sketch_scale, 1.0)
        return (1 - by_sketch) * nothing[0] + (by_sketch - by_text) * sketch + by_text * both

    return denoise
