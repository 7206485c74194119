"""The held-out loss under true conditions and under conditions of other examples."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ragaf_jax.batch import Batch, in_chunks
from ragaf_jax.losses.objective import Objective
from ragaf_jax.losses.terms import validation_losses
from ragaf_jax.nets.model import Model, Params

# Examples per call of the compiled loss.
CHUNK = 16

# The fields of a batch that hold its regions.
GRAPH = ("labels", "graph")


def shuffled(batch: Batch, *fields: str) -> Batch:
    """The batch with each example's `fields` taken from the previous example."""
    roll = functools.partial(np.roll, shift=1, axis=0)
    return batch._replace(**{field: jax.tree.map(roll, getattr(batch, field)) for field in fields})


def variants(batch: Batch, has_regions: bool) -> dict[str, Batch]:
    """The batch, and the batch with sketch, caption or region graph of other examples.

    A shuffled sketch includes its regions; a shuffled graph leaves the sketch in place.
    """
    wrong = {
        "true": batch,
        "shuffled_sketch": shuffled(batch, "sketch", *GRAPH),
        "shuffled_text": shuffled(batch, "text"),
    }
    if has_regions:
        wrong["shuffled_graph"] = shuffled(batch, *GRAPH)
    return wrong


def single_changes(batch: Batch, has_regions: bool) -> dict[str, Batch]:
    """The batch, and the batch with exactly one condition changed.

    A disconnected branch then leaves the loss equal to the bit; regions that moved with a shuffled
    sketch would change it through RAGAF. An empty graph acts like dropped regions.
    """
    changed = {
        "true": batch,
        "shuffled_sketch": shuffled(batch, "sketch"),
        "blank_sketch": batch._replace(sketch=np.zeros_like(batch.sketch)),
        "shuffled_text": shuffled(batch, "text"),
    }
    if has_regions:
        changed["shuffled_graph"] = shuffled(batch, *GRAPH)
        changed["empty_graph"] = batch._replace(labels=np.full_like(batch.labels, -1))
    return changed


def make_validate(
    model: Model, objective: Objective
) -> Callable[[Params, Batch, int], dict[str, float]]:
    """A function of (parameters, held-out examples, seed) that compiles once.

    It returns the mean loss of each of `variants`. It needs two or more examples, which should
    have different sketches.
    """
    losses = jax.jit(functools.partial(validation_losses, model, objective))

    def validate(params: Params, batch: Batch, seed: int) -> dict[str, float]:
        key = jax.random.key(seed)
        result = {}
        for name, conditioned_on in variants(batch, model.ragaf is not None).items():
            chunks = [
                losses(params, *pair, jax.random.fold_in(key, i))[fresh]
                for i, (pair, fresh) in enumerate(in_chunks((batch, conditioned_on), CHUNK))
            ]
            result[name] = float(jnp.concatenate(chunks).mean())
        return result

    return validate
