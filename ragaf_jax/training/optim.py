"""The optimiser of a configuration."""

import jax
import ml_collections
import optax


def learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Linear warm-up, then a cosine down to a hundredth of the peak at the last step."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(config.steps, config.warmup_steps + 1),
        end_value=config.learning_rate / 100,
    )


def optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """AdamW with clipping by the global norm; only matrices and kernels decay.

    Args:
      config: `config.train`: learning_rate, warmup_steps, steps, weight_decay, clip_norm.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config),
            b2=0.99,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        ),
    )
