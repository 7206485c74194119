"""Condition response: losses and samples under true and under shuffled conditions."""

import functools
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.evaluation.metrics.edges import edge_f1
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.losses.terms import validation_losses
from ragaf_jax.losses.validation import alike, single_changes
from ragaf_jax.monitoring.response import response
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.model import Params
from ragaf_jax.sampling.loop import Finished, StageRun, sample_stages
from ragaf_jax.sampling.sampling_config import Scales, sampling_config_of
from ragaf_jax.sampling.stage_sampler import batch_keys, make_stage_sampler
from ragaf_jax.tokenizer import Tokenizer


def make_responses(
    config: ml_collections.ConfigDict, tokenizer: Tokenizer, batch: Batch, truth: Truth
) -> Callable[[Params], dict[str, float]]:
    """A function from parameters to the effect of conditions on some held-out examples.

    These are the first ones, or the first of each size. All calls use the same batch, noise and
    timesteps, and all variants of the conditions use one compiled function for each size. So a
    condition that the networks ignore gives losses equal to the bit and a response of exactly 0.
    Samples use no guidance and few steps. A measurement costs `examples` × (4 + `sample_steps`)
    network evaluations per variant: Stage 1 has 4 variants, Stage 2 has 6.

    Args:
      config: `response`, `seed` and the stage's configuration.
      tokenizer: of the batch's tokens.
      batch: two or more examples with different sketches.
      truth: their ground truth.

    Returns:
      The function. It returns, by name:
        response/sketch, response/text, in Stage 2 response/graph: the increase of the loss with
          another example's condition, see `monitoring.response.response`, and `…_error`;
        response/sketch_edge_f1: the decrease of edge F1 against the true sketch with another's;
        response/<variant>_loss, response/<variant>_edge_f1: means of the variants of
          `losses.validation.single_changes`. Edge F1 is for line art; for photographs see the loss.

    Raises:
      UserError: a sampler that does not fit `response.sample_steps`, the sigmas or the prediction
        type.
    """
    groups = alike((batch, truth.sketch_u8), config.response.examples)
    model = build_model(config)
    objective = objective_of(config, tokenizer)
    sampler = make_stage_sampler(model, sampling_config_of(config, tokenizer))
    if config.response.every:  # as in the sample grid
        sampler.sampling.timestep_grid(config.response.sample_steps)
    unguided = Scales(guidance=None, sketch_guidance=None)
    variants = [single_changes(group, model.ragaf is not None) for group, _ in groups]
    loss_key, sample_key = jax.random.split(jax.random.key(config.seed))
    steps = config.response.sample_steps
    keys = [batch_keys(sample_key, len(sketches)) for _, sketches in groups]

    losses_of = jax.jit(functools.partial(validation_losses, model, objective))

    def responses(params: Params) -> dict[str, float]:
        losses, scores = {}, {}
        for name in variants[0]:
            found, scored = [], []
            for changes, (_, sketches), some in zip(variants, groups, keys, strict=True):
                shown = changes[name]
                found.append(losses_of(params, changes["true"], shown, loss_key))
                run = StageRun(config.stage, sampler, params, some)
                uncropped = shown._replace(sizes=None)
                *_, finished = sample_stages([run], uncropped, unguided, steps, trace=False)
                assert isinstance(finished, Finished)
                pairs = zip(finished.images, sketches, strict=True)
                scored += [edge_f1(*pair)[2] for pair in pairs]
            losses[name] = np.concatenate(jax.device_get(found))
            scores[name] = float(np.mean(scored))
        values = {f"response/{name}_loss": float(x.mean()) for name, x in losses.items()}
        values |= {f"response/{name}_edge_f1": score for name, score in scores.items()}
        for name, other in losses.items():
            if name.startswith("shuffled_"):
                gap, kind = response(losses["true"], other), name.removeprefix("shuffled_")
                values |= {f"response/{kind}": gap.mean, f"response/{kind}_error": gap.error}
        values["response/sketch_edge_f1"] = scores["true"] - scores["shuffled_sketch"]
        return values

    return responses
