"""Weighted mixtures of datasets: "sketchy:0.5,coco:0.5"."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError
from ragaf_jax.framing import Size, by_aspect
from ragaf_jax.tokenizer import Tokenizer


def parse(dataset: str) -> tuple[tuple[str, float], ...]:
    """Names and weights of the datasets in `config.data.dataset`.

    Weights have any scale and default to 1.

    Raises:
      UserError: a name is missing or repeated, or a weight is not a finite number above 0.
    """
    weights: dict[str, float] = {}
    for entry in dataset.split(","):
        name, colon, number = (text.strip() for text in entry.partition(":"))
        if not name:
            raise UserError(
                f"config.data.dataset is {dataset!r} and contains an empty name; write it like "
                "'sketchy:0.5,coco:0.5'."
            )
        if name in weights:
            raise UserError(
                f"config.data.dataset is {dataset!r} and names {name} twice; name it once, with "
                "the sum of its weights."
            )
        weights[name] = _weight(number, dataset) if colon else 1.0
    return tuple(weights.items())


def _weight(text: str, dataset: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(
            f"config.data.dataset is {dataset!r} and the weight {text!r} in it is not a finite "
            "number above 0; write it like 'sketchy:0.5,coco:0.5'."
        )
    return weight


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several datasets as one; indices concatenate their records."""

    sources: tuple[RecordSource, ...]  # the records of each dataset
    weights: tuple[float, ...]  # sampling weights, on any scale
    tokenizer: Tokenizer  # replaces those of the sources

    @property
    def starts(self) -> list[int]:
        """The index of each source's first record."""
        return [0, *itertools.accumulate(map(len, self.sources[:-1]))]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> dict[str, Any]:
        source = bisect.bisect_right(self.starts, index) - 1
        return self.sources[source][index - self.starts[source]]

    @property
    def sizes(self) -> tuple[Size, ...]:
        """`RecordSource.sizes` of all sources."""
        found = {size for source in self.sources for size in source.sizes}
        return tuple(sorted(found, key=by_aspect))

    def of_size(self, size: Size) -> "Mixture":
        """`RecordSource.of_size` of the sources with this size; weights are their shares of all."""
        parts = [
            (part, weight * len(part) / len(source))
            for source, weight in zip(self.sources, self.weights, strict=True)
            if size in source.sizes
            for part in [source.of_size(size)]
        ]
        sources, weights = zip(*parts, strict=True)
        return Mixture(sources, weights, self.tokenizer)

    def without(self, *images: str) -> "Mixture":
        """`RecordSource.without` of every source."""
        sources = tuple(source.without(*images) for source in self.sources)
        return dataclasses.replace(self, sources=sources)

    def prepared_caches(self, keys: Mapping[str, str]) -> tuple[str, ...]:
        """`RecordSource.prepared_caches` that all sources have."""
        found = [source.prepared_caches(keys) for source in self.sources]
        return tuple(kind for kind in keys if all(kind in kinds for kinds in found))

    def with_caches(self, keys: Mapping[str, str]) -> "Mixture":
        """`RecordSource.with_caches` of every source."""
        sources = tuple(source.with_caches(keys) for source in self.sources)
        return dataclasses.replace(self, sources=sources)


def apportion(weights: Sequence[float], n: int) -> list[int]:
    """The source of each of n examples.

    Each source has at least one example, even if n is smaller. The others are apportioned by the
    weights with the Sainte-Laguë method.
    """
    given = [1] * len(weights)
    order = list(range(len(weights)))
    while len(order) < n:
        quotients = [weight / (2 * count + 1) for weight, count in zip(weights, given, strict=True)]
        chosen = quotients.index(max(quotients))
        given[chosen] += 1
        order.append(chosen)
    return order
