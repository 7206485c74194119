"""Several data sets as one with weights: "sketchy:0.5,coco:0.5"."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError
from ragaf_jax.tokenizer import Tokenizer


def parse(dataset: str) -> tuple[tuple[str, float], ...]:
    """Names and weights of the data sets that `config.data.dataset` lists.

    Weights may be of any scale; a name without one has 1.

    Raises:
      UserError: a name is missing or said twice, or a weight is no positive number.
    """
    parts: list[tuple[str, float]] = []
    for part in dataset.split(","):
        name, colon, number = (text.strip() for text in part.partition(":"))
        if not name:
            raise UserError(
                f"config.data.dataset is {dataset!r} and lacks a name where a comma or a weight "
                "says that there is one; write it like 'sketchy:0.5,coco:0.5'."
            )
        if name in (other for other, _ in parts):
            raise UserError(
                f"config.data.dataset is {dataset!r} and names {name} twice; name it once, with "
                "the sum of its weights."
            )
        parts.append((name, _weight(number, dataset) if colon else 1.0))
    return tuple(parts)


def _weight(text: str, dataset: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(
            f"config.data.dataset is {dataset!r} and the weight {text!r} in it is not a number "
            "above 0; write it like 'sketchy:0.5,coco:0.5', and leave out what is not wanted."
        )
    return weight


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Data sets to be read together: by index, the records of the first, then of the second ….

    Attributes:
      sources: the records of each.
      weights: how often each is drawn from, on any scale.
      tokenizer: reads the captions of all, in place of the sources' own.
    """

    sources: tuple[RecordSource, ...]
    weights: tuple[float, ...]
    tokenizer: Tokenizer

    @property
    def starts(self) -> list[int]:
        """The index of each source's first record."""
        return [0, *itertools.accumulate(map(len, self.sources[:-1]))]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> dict[str, Any]:
        part = bisect.bisect_right(self.starts, index) - 1
        return self.sources[part][index - self.starts[part]]

    def without(self, *images: str) -> "Mixture":
        """See `RecordSource.without`: of every source."""
        return dataclasses.replace(
            self, sources=tuple(source.without(*images) for source in self.sources)
        )

    def prepared_caches(self, keys: Mapping[str, str]) -> tuple[str, ...]:
        """See `RecordSource.prepared_caches`: those that every source has."""
        found = [source.prepared_caches(keys) for source in self.sources]
        return tuple(kind for kind in keys if all(kind in kinds for kinds in found))

    def with_caches(self, keys: Mapping[str, str]) -> "Mixture":
        """See `RecordSource.with_caches`: of every source."""
        return dataclasses.replace(
            self, sources=tuple(source.with_caches(keys) for source in self.sources)
        )


def turns(weights: Sequence[float], n: int) -> list[int]:
    """Which of several sources gives the first example, the second … of n.

    Each gives one, even if n is less; the others are shared out in proportion to the weights, as
    well as whole numbers can, by the method of Sainte-Laguë.
    """
    given = [1] * len(weights)
    order = list(range(len(weights)))
    while len(order) < n:
        quotients = [weight / (2 * count + 1) for weight, count in zip(weights, given, strict=True)]
        chosen = quotients.index(max(quotients))
        given[chosen] += 1
        order.append(chosen)
    return order
