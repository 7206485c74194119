"""The held-out loss under true conditions and under conditions of other examples."""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ragaf_jax.batch import Batch, by_size, in_chunks
from ragaf_jax.losses.objective import Objective
from ragaf_jax.losses.terms import validation_losses
from ragaf_jax.nets.model import Model, Params

T = TypeVar("T")

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


def alike(examples: T, most: int | None = None) -> list[T]:
    """Examples of each size that has two or more, the most frequent size first.

    Args:
      examples: a tree of arrays [b, …], as in `batch.by_size`.
      most: the number of examples, which are spread over the sizes; None: all.
    """
    groups = [(len(indices), group) for indices, group in by_size(examples) if len(indices) > 1]
    groups.sort(key=lambda group: -group[0])
    taken, before = [0] * len(groups), -1
    while before != (before := sum(taken)):
        for i, (count, _) in enumerate(groups):
            more = 1 if taken[i] else 2
            if taken[i] + more <= count and (most is None or sum(taken) + more <= most):
                taken[i] += more
    pairs = zip(taken, groups, strict=True)
    return [jax.tree.map(lambda x, n=n: x[:n], group) for n, (_, group) in pairs if n]


def make_validate(
    model: Model, objective: Objective
) -> Callable[[Params, Batch, int], dict[str, float]]:
    """A function of (parameters, held-out examples, seed) that compiles once.

    It returns the mean loss of each of `variants`. It needs two or more examples, which should
    have different sketches. Conditions are shuffled between examples of one size, so an example
    without another of its size is not counted; each size compiles once.
    """
    losses = jax.jit(functools.partial(validation_losses, model, objective))

    def validate(params: Params, batch: Batch, seed: int) -> dict[str, float]:
        key = jax.random.key(seed)
        groups = [variants(group, model.ragaf is not None) for group in alike(batch)]
        result = {}
        for name in groups[0]:
            chunks = [
                (pair, fresh)
                for group in groups
                for pair, fresh in in_chunks((group["true"], group[name]), CHUNK)
            ]
            found = [
                losses(params, *pair, jax.random.fold_in(key, i))[fresh]
                for i, (pair, fresh) in enumerate(chunks)
            ]
            result[name] = float(jnp.concatenate(found).mean())
        return result

    return validate
