"""Classifier-free guidance with two conditions, the sketch and the text."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ragaf_jax.diffusion.sampler_interface import Denoise
from ragaf_jax.diffusion.schedule import NoiseLevels

# A denoiser of two or three concatenated conditions, n examples in total.
DenoiseConditions = Callable[[Float[Array, "n *rest"], NoiseLevels], Float[Array, "n *rest"]]


def guided(
    denoise_conditions: DenoiseConditions,
    text_scale: float | Float[Array, ""],
    sketch_scale: float | Float[Array, ""] | None,
    until: float | Float[Array, ""] = 0.0,
) -> Denoise:
    """A denoiser guided by sketch and text (Brooks et al. 2023, InstructPix2Pix, eq. 3):

        x_0(∅,∅) + sketch_scale · [x_0(sketch,∅) − x_0(∅,∅)]
                 + text_scale · [x_0(sketch,text) − x_0(sketch,∅)]

    The paper states it for ε; its weights sum to 1, so the same combination of x_0 at a given x_t
    is the same guidance. Scales of 1 give x_0(sketch,text); scales may be traced.

    sketch_scale: None is 1 without evaluating x_0(∅,∅), whose weight is then 0: a step costs two
      evaluations of the networks instead of three.
    until: at timesteps below, both scales are 1. Text affects the image at high noise levels;
      later, guidance only amplifies the errors of both predictions (Kynkäänniemi et al. 2024,
      "Applying Guidance in a Limited Interval", sec. 3).
    denoise_conditions: predicts x_0 of the same x and level with the conditions (∅,∅), unless
      `sketch_scale` is None, then (sketch,∅), then (sketch,text).
    """

    def denoise(x: Float[Array, "b *rest"], level: NoiseLevels) -> Float[Array, "b *rest"]:
        count = 2 if sketch_scale is None else 3
        stacked = jax.tree.map(lambda array: jnp.concatenate([array] * count), (x, level))
        x0 = denoise_conditions(*stacked)
        *unconditional, sketch, both = jnp.split(x0, count)
        guides = (level.t >= until).reshape(-1, *[1] * (x.ndim - 1))
        by_text = jnp.where(guides, text_scale, 1.0)
        if sketch_scale is None:
            return (1 - by_text) * sketch + by_text * both
        by_sketch = jnp.where(guides, sketch_scale, 1.0)
        return (1 - by_sketch) * unconditional[0] + (by_sketch - by_text) * sketch + by_text * both

    return denoise
