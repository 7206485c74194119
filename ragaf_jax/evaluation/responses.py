"""Does the model listen? Losses and samples under its own conditions, and under others."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.conditioning import condition
from ragaf_jax.diffusion.prediction import to_x0
from ragaf_jax.diffusion.samplers import SAMPLERS, Walk, example_keys, example_noise, folded
from ragaf_jax.evaluation.metrics.edges import edge_f1
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.losses.terms import validation_losses
from ragaf_jax.losses.validation import single_changes
from ragaf_jax.monitoring.response import response
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Conditioning, Model, Params
from ragaf_jax.sampling.generate import to_pixels
from ragaf_jax.sampling.process import Course, Process, process_of
from ragaf_jax.tokenizer import Tokenizer

Responses = Callable[[Params], dict[str, float]]


def make_responses(
    config: ml_collections.ConfigDict, tokenizer: Tokenizer, batch: Batch, truth: Truth
) -> Responses:
    """A function from parameters to how much the first held-out examples' conditions matter.

    Batch, noise and timesteps are the same in every call, and every variant of the conditions goes
    through one compiled function; so a condition that the networks do not see gives losses equal to
    the bit, and a response of exactly 0. Sampling is without guidance, in few steps: one evaluation
    of the networks each. A measurement costs `examples` × (4 + `sample_steps`) evaluations a
    variant, of which Stage 1 has 4 and Stage 2 has 6.

    Args:
      config: `response`, `seed` and what the stage is made of.
      tokenizer: of the batch's tokens.
      batch: two or more examples of different drawings.
      truth: what is true of them.

    Returns:
      The function. It answers, by name:
        response/sketch, response/text, in Stage 2 response/graph: how much the loss grows with that
          of another drawing, as `training.response.response` says, and `…_error`;
        response/sketch_edge_f1: by how much edge F1 against the true sketch falls with another;
        response/<variant>_loss, response/<variant>_edge_f1: the means, of the variants in
          `training.monitor.single_changes`. Edge F1 is of drawn lines; on photographs see the loss.
    """
    count = config.response.examples
    batch = jax.tree.map(lambda x: x[:count], batch)
    sketches = truth.sketch_u8[:count]
    model = build_model(config)
    objective = objective_of(config, tokenizer)
    process = process_of(config, tokenizer)
    course = process.course(config.response.sample_steps)
    variants = single_changes(batch, model.ragaf is not None)

    @jax.jit
    def measure(
        params: Params, batch: Batch, shown: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, " b"], UInt8[Array, "b s s 3"]]:
        for_losses, for_samples = jax.random.split(key)
        losses = validation_losses(model, objective, params, batch, shown, for_losses)
        conditioning = condition(model, params, shown, jnp.ones(len(shown.tokens)))
        latents = sample_plainly(model, process, params, conditioning, for_samples, course)
        return losses, to_pixels(model, params, latents)

    def responses(params: Params) -> dict[str, float]:
        losses, scores = {}, {}
        for name, shown in variants.items():
            key = jax.random.key(config.seed)
            losses[name], samples = jax.device_get(measure(params, batch, shown, key))
            pairs = zip(samples, sketches, strict=True)
            scores[name] = float(np.mean([edge_f1(*pair)[2] for pair in pairs]))
        values = {f"response/{name}_loss": float(x.mean()) for name, x in losses.items()}
        values |= {f"response/{name}_edge_f1": score for name, score in scores.items()}
        for name, other in losses.items():
            if name.startswith("shuffled_"):
                gap, kind = response(losses["true"], other), name.removeprefix("shuffled_")
                values |= {f"response/{kind}": gap.mean, f"response/{kind}_error": gap.error}
        values["response/sketch_edge_f1"] = scores["true"] - scores["shuffled_sketch"]
        return values

    return responses


def sample_plainly(
    model: Model,
    process: Process,
    params: Params,
    conditioning: Conditioning,
    key: PRNGKeyArray,
    course: Course,
) -> Float[Array, "b h w c"]:
    """Latents from pure noise without guidance: `sampling.generate.generate` at scales of 1.

    There, every step evaluates the networks for two conditions or three; here for one.
    """
    schedule = process.schedule

    def denoise(x: Float[Array, "b h w c"], t: Int[Array, " b"]) -> Float[Array, "b h w c"]:
        prediction, _ = model.predict(params, x, t.astype(jnp.float32), conditioning)
        return to_x0(process.prediction, schedule, prediction.astype(jnp.float32), x, t)

    keys = example_keys(key, len(conditioning.text_states))
    begun = Walk.begin(example_noise(keys, model.latent_shape))
    keys = folded(keys, 2**32 - 1)  # as in `generate.advance`
    sampler = SAMPLERS[process.sampler]
    return sampler.walk(denoise, begun, schedule, course.timesteps, keys, course.steps).x
