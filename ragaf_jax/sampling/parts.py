"""The sampling of one stage, compiled part by part: to be watched, and stopped, between steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from ragaf_jax.batch import Batch
from ragaf_jax.diffusion.samplers import Walk, example_keys
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.sampling.generate import Drawing, advance, begin, to_pixels, trace
from ragaf_jax.sampling.process import Course, Process, Settings, Wishes

Seeds = UInt32[Array, " b"]
Pixels = UInt8[Array, "b s s 3"]
Latents = Float[Array, "b h w c"]


class Parts(NamedTuple):
    """What a stage does for a picture; each part is compiled once for a size of batch.

    Attributes:
      process: how it samples.
      encode: of (params, pixels), the latents to begin from.
      begin: of (params, batch, seeds, settings, course, latents or None, wishes).
      advance: of (params, drawing, seeds, settings, course, until, walk of others).
      look: of (params, latents), pixels.
      finish: of (params, drawing, seeds), pixels and RAGAF's trace.
    """

    process: Process
    encode: Callable[[Params, Pixels], Latents]
    begin: Callable[..., Drawing]
    advance: Callable[..., Drawing]
    look: Callable[[Params, Latents], Pixels]
    finish: Callable[[Params, Drawing, Seeds], tuple[Pixels, RagafTrace | None]]


def make_parts(number: int, model: Model, process: Process) -> Parts:
    """Of Stage `number`: the stages draw other noise from one seed."""

    def keys_of(seeds: Seeds) -> Key[Array, " b"]:
        # As `stages.make_draw` has for the first example of a batch.
        def key(seed: UInt32[Array, ""]) -> Key[Array, ""]:
            return example_keys(jax.random.split(jax.random.key(seed))[number - 1], 1)[0]

        return jax.vmap(key)(seeds)

    @jax.jit
    def encode(params: Params, pixels: Pixels) -> Latents:
        return model.encode_image(params, pixels.astype(jnp.float32) / 127.5 - 1)

    @jax.jit
    def begin_(
        params: Params,
        batch: Batch,
        seeds: Seeds,
        settings: Settings,
        course: Course,
        start: Latents | None,
        wishes: Wishes,
    ) -> Drawing:
        asked = keys_of(seeds), settings, course
        return begin(model, process, params, batch, *asked, start, wishes)

    @jax.jit
    def advance_(
        params: Params,
        drawing: Drawing,
        seeds: Seeds,
        settings: Settings,
        course: Course,
        until: int | Int[Array, ""],
        others: Walk,
    ) -> Drawing:
        asked = keys_of(seeds), settings, course
        return advance(model, process, params, drawing, *asked, until, others)

    @jax.jit
    def look(params: Params, latents: Latents) -> Pixels:
        return to_pixels(model, params, latents)

    @jax.jit
    def finish(params: Params, drawing: Drawing, seeds: Seeds) -> tuple[Pixels, RagafTrace | None]:
        latents, keys = drawing.walk.x, keys_of(seeds)
        seen = trace(model, process, params, drawing.conditioning, latents, keys)
        return to_pixels(model, params, latents), seen

    return Parts(process, encode, begin_, advance_, look, finish)
