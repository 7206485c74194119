"""The optimiser of a configuration."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

OPTIMIZERS = ("adamw", "adafactor")


class Optimizer(NamedTuple):
    """A transformation of gradients.

    Attributes:
      rule: the transformation.
      bundles: whether its gradients, parameters, updates and moments are `bundles.bundled`.
    """

    rule: optax.GradientTransformation
    bundles: bool = False


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """Linear warm-up, then a cosine down to a hundredth of the peak at the last step."""
    count, warm = np.arange(config.steps + 1), config.warmup_steps
    rest = np.clip((count - warm) / max(config.steps - warm, 1), 0, 1)
    cosine = 0.01 + 0.99 * (1 + np.cos(np.pi * rest)) / 2
    rates = config.learning_rate * np.where(count < warm, count / max(warm, 1), cosine)
    # A table, because XLA's CPU backend calls `cos` in the loop of every parameter. When it loads a
    # compiled step with a thousand such loops, linking them overflows a stack.
    table = rates.astype(np.float32)
    return lambda count: jnp.asarray(table)[jnp.minimum(count, config.steps)]


def optimizer(config: ConfigDict, cut: bool = False) -> Optimizer:
    """AdamW or Adafactor with clipping by the global norm; only matrices and kernels decay.

    "adafactor" stores a row and a column of each matrix's second moments and no first moments
    (Shazeer & Stern 2018, alg. 4, without its relative step sizes). Adam's moments take twice the
    parameters' memory; these take almost none.

    Args:
      config: `config.train`, whose optimizer is one of `OPTIMIZERS`, which `check_config` checks.
      cut: whether the mesh shards parameters along "fsdp" (`sharding.cuts`).
    """
    scaling = {
        "adamw": [optax.scale_by_adam(b2=0.99)],
        "adafactor": [optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)],
    }
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.chain(
            *scaling[config.optimizer],
            optax.add_decayed_weights(
                config.weight_decay, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
            ),
            optax.scale_by_learning_rate(learning_rate(config)),
        ),
    )
    # Adafactor needs the shape of each matrix.
    return Optimizer(chain, bundles=config.optimizer == "adamw" and not cut)
