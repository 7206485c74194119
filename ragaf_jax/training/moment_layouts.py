"""The two layouts of an optimiser's moments, and the conversion between them.

Where each device has whole parameters, the moments are bundles (`bundles.bundled`). Where the mesh
cuts parameters along "fsdp", moments are trees like the parameters and are cut in the same way: to
bundle what is cut, a step would move all of it between devices. A checkpoint has the layout of the
mesh that it was saved on. Older versions saved bundles from every mesh.
"""

from typing import Any

import jax

from ragaf_jax.checkpoints.checkpointer import OtherLayout
from ragaf_jax.runtime.sharding import with_shardings
from ragaf_jax.training.bundles import bundled, unbundled
from ragaf_jax.training.optim import Optimizer
from ragaf_jax.training.state import TrainState


def other_layout(state: TrainState, tx: Optimizer) -> OtherLayout:
    """The layout of the moments that a run does not have.

    Args:
      state: the run's shapes, with their shardings on one mesh.
      tx: the run's.
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
