"""The training state: with the iterator's state, all that resuming needs."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragaf_jax.partition import merge
from ragaf_jax.training.bundles import bundled
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
    ) -> "TrainState":
        """The state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            trainable=trainable,
            frozen=frozen,
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
