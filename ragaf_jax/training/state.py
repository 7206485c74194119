"""The training state: with the iterator's state, all that resuming needs."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.checkpoints.checkpointer import OtherLayout
from ragaf_jax.partition import cast, merge
from ragaf_jax.runtime.sharding import with_shardings
from ragaf_jax.training.bundles import bundled, unbundled
from ragaf_jax.training.optim import Optimizer


class TrainState(flax.struct.PyTreeNode):
    """One stage's state. Random numbers come from (seed, step), so none are stored.

    Attributes:
      step: updates made so far, i32[].
      trainable: float32 master parameters that the optimiser changes.
      frozen: the rest, in the compute dtype.
      ema: exponential moving average of `trainable`, used for sampling.
      opt_state: the optimiser's.
    """

    step: Any
    trainable: Any
    frozen: Any
    ema: Any
    opt_state: Any

    @classmethod
    def create(
        cls,
        trainable: Any,
        frozen: Any,
        tx: Optimizer,
        frozen_dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> "TrainState":
        """The state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            trainable=trainable,
            frozen=cast(frozen, frozen_dtype),
            ema=jax.tree.map(jnp.copy, trainable),
            opt_state=tx.rule.init(bundled(trainable) if tx.bundles else trainable),
        )

    @property
    def params(self) -> Any:
        """All parameters as they are being trained."""
        return merge(self.trainable, self.frozen)

    @property
    def ema_params(self) -> Any:
        """All parameters, averaged over the last steps."""
        return merge(self.ema, self.frozen)


def ema_decay(step: Int[Array, ""], maximum: float) -> Float[Array, ""]:
    """A decay that grows with the step, so that early averages forget the initialisation."""
    return jnp.minimum(maximum, (1.0 + step) / (10.0 + step))


def other_layout(state: TrainState, tx: Optimizer) -> OtherLayout:
    """The layout of the optimiser's moments that this run does not use, and the conversion from it.

    Where each device has whole parameters, the moments are bundles (`bundles.bundled`). Where the
    mesh shards parameters along "fsdp", moments are trees like the parameters and sharded alike:
    bundling sharded arrays would move all of them between devices in each step. A checkpoint has
    the layout of the mesh that saved it. Older versions saved bundles from every mesh.

    Args:
      state: the run's shapes, with their shardings on one mesh.
      tx: the run's optimiser.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.opt_state)

    def separate(opt_state: Any) -> Any:
        return unbundled(opt_state, state.trainable)

    there, back = (separate, bundled) if tx.bundles else (bundled, separate)

    def convert(stored: TrainState) -> TrainState:
        opt_state = jax.jit(back, out_shardings=shardings)(stored.opt_state)
        return stored.replace(opt_state=opt_state)

    shapes = with_shardings(state.step.sharding.mesh, jax.eval_shape(there, state.opt_state))
    return OtherLayout(state.replace(opt_state=shapes), convert)
