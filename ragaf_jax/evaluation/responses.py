"""Condition response: losses and samples under the true conditions, and under shuffled ones."""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.evaluation.metrics.edges import edge_f1
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.losses.terms import validation_losses
from ragaf_jax.losses.validation import single_changes
from ragaf_jax.monitoring.response import response
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Params
from ragaf_jax.sampling.loop import Finished, StageRun, sample_stages
from ragaf_jax.sampling.sampling_config import Scales, sampling_config_of
from ragaf_jax.sampling.stage_sampler import batch_keys, make_stage_sampler
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
      The function. It returns, by name:
        response/sketch, response/text, in Stage 2 response/graph: how much the loss grows with that
          of another drawing, as `monitoring.response.response` computes it, and `…_error`;
        response/sketch_edge_f1: by how much edge F1 against the true sketch falls with another;
        response/<variant>_loss, response/<variant>_edge_f1: the means, of the variants in
          `losses.validation.single_changes`. Edge F1 is for line art; for photographs see the loss.
    """
    count = config.response.examples
    batch = jax.tree.map(lambda x: x[:count], batch)
    sketches = truth.sketch_u8[:count]
    model = build_model(config)
    objective = objective_of(config, tokenizer)
    sampler = make_stage_sampler(model, sampling_config_of(config, tokenizer))
    unguided = Scales(guidance=None, sketch_guidance=None)
    variants = single_changes(batch, model.ragaf is not None)
    for_losses, for_samples = jax.random.split(jax.random.key(config.seed))
    keys = batch_keys(for_samples, len(batch.text.tokens))

    @jax.jit
    def losses_of(
        params: Params, batch: Batch, shown: Batch, key: PRNGKeyArray
    ) -> Float[Array, " b"]:
        return validation_losses(model, objective, params, batch, shown, key)

    def responses(params: Params) -> dict[str, float]:
        losses, scores = {}, {}
        run = StageRun(config.stage, sampler, params, keys)
        for name, shown in variants.items():
            losses[name] = jax.device_get(losses_of(params, batch, shown, for_losses))
            steps = config.response.sample_steps
            *_, finished = sample_stages([run], shown, unguided, steps, trace=False)
            assert isinstance(finished, Finished)
            pairs = zip(finished.images, sketches, strict=True)
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
