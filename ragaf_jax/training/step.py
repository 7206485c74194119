"""One update of one stage."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray
from ml_collections import ConfigDict

from ragaf_jax.batch import Batch
from ragaf_jax.losses.objective import Denoised, Objective, RagafExamples, step_inputs
from ragaf_jax.losses.terms import Scalars, step_loss
from ragaf_jax.nets.model import Model, Params
from ragaf_jax.partition import merge
from ragaf_jax.runtime.compilation import compiler_options
from ragaf_jax.runtime.sharding import gathered, replicated
from ragaf_jax.training.accumulation import value_and_gradient
from ragaf_jax.training.bundles import bundled, unbundled
from ragaf_jax.training.optim import Optimizer
from ragaf_jax.training.state import TrainState, ema_decay


def train_step(
    model: Model,
    tx: Optimizer,
    ema_maximum: float,
    objective: Objective,
    rng: PRNGKeyArray,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Scalars]:
    """One update; skipped if the loss or the gradient is NaN or infinite.

    Args:
      model: static.
      tx: static; the optimiser of `state`.
      ema_maximum: static; the decay of the average after many steps.
      objective: static.
      rng: the run's key; with `state.step` it seeds the random numbers of this step.
      state: before the update.
      batch: examples.

    Returns:
      The state after the update, and scalars: loss and those of `losses.terms.step_loss`;
      grad_norm, also of each network, and update_norm; `skipped`, 0 or 1; `by_time`.
    """
    denoised, ragaf_only = step_inputs(objective, jax.random.fold_in(rng, state.step), batch)

    dtype = model.unet.dtype
    trainable, frozen = gathered(state.trainable, dtype), gathered(state.frozen, dtype)

    def loss_of(
        trainable: Params, examples: tuple[Denoised, RagafExamples]
    ) -> tuple[Array, Scalars]:
        return step_loss(model, objective, merge(trainable, frozen), *examples)

    (loss, scalars), gradients = value_and_gradient(
        loss_of, trainable, (denoised, ragaf_only), objective.train.accumulation
    )
    trees = gradients, state.trainable, state.ema
    gradients, before, average = bundled(trees) if tx.bundles else trees
    updates, opt_state = tx.rule.update(gradients, state.opt_state, before)
    after = optax.apply_updates(before, updates)
    decay = ema_decay(state.step, ema_maximum)
    ema = jax.tree.map(lambda old, new: old * decay + new * (1 - decay), average, after)
    norm = optax.tree.norm(gradients)
    fine = jnp.isfinite(loss) & jnp.isfinite(norm)
    trainable, ema, opt_state = jax.tree.map(
        lambda new, old: jnp.where(fine, new, old),
        (after, ema, opt_state),
        (before, average, state.opt_state),
    )
    if tx.bundles:
        trainable, ema = unbundled((trainable, ema), state.trainable)
    state = state.replace(step=state.step + 1, trainable=trainable, ema=ema, opt_state=opt_state)
    return state, {
        "loss": loss,
        "grad_norm": norm,
        "skipped": 1.0 - fine,
        **{f"grad_norm/{name}": optax.tree.norm(tree) for name, tree in gradients.items()},
        **{f"update_norm/{name}": optax.tree.norm(tree) for name, tree in updates.items()},
        **scalars,
    }


def jitted_step(
    config: ConfigDict,
    model: Model,
    tx: Optimizer,
    objective: Objective,
    shardings: Any,
    mesh: Mesh,
) -> Any:
    """`train_step` as a jitted function of (key, state, batch), which donates the state.

    `shardings` are those of the state's arrays, before and after; scalars are replicated on `mesh`.
    """
    return jax.jit(
        functools.partial(train_step, model, tx, config.train.ema_decay, objective),
        donate_argnums=1,
        out_shardings=(shardings, replicated(mesh)),
        compiler_options=compiler_options(config),
    )
