"""Training batches with a resumable random order, and held-out batches."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import grain.python as grain
import jax
import numpy as np
from grain.experimental import WindowShuffleMapDataset

from input_pipeline.datasets.phrases import find_phrases
from input_pipeline.extraction.augment import AugmentSketch
from input_pipeline.mixture import Mixture
from input_pipeline.records import RecordSource
from input_pipeline.transforms import RandomFlip, ToExample
from ragaf_jax.batch import Batch, BatchIterator, Truth

# Reading is light beside a training step: two threads keep four batches ahead of it.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)

# More than any run has. Of endless ones Grain's length overflows, at a batch of one example.
_EPOCHS = 2**30

# What is random, each with numbers of its own: that sketches are augmented changes no order.
_ORDER, _FLIPS, _CAPTIONS, _AUGMENTATION, _TURNS = 1, 3, 4, 5, 6

# Sources of a mixture take regular turns, shuffled within so many examples: a place in the batch
# has a meaning (timesteps are shared out by it), and no source may have places of its own.
_TURNS_WINDOW = 1024


def train_iterator(
    source: RecordSource | Mixture,
    batch_size: int,
    seed: int,
    text_length: int,
    max_regions: int,
    max_edges: int,
    process_index: int = 0,
    process_count: int = 1,
    augment: AugmentSketch | None = None,
) -> BatchIterator:
    """Shuffled, flipped batches without end; every epoch has an order of its own.

    The sources of a mixture take turns in proportion to their weights, to 1 % of the least of them,
    and each has epochs of its own.

    Order, flips, captions and changes of the sketches are decided before the work is shared out:
    of the batch that one process would have in a step, process i has the i-th part.

    Args:
      source: where the records are, or several such with their weights.
      batch_size: examples of a batch of this process.
      seed: decides all that is random.
      text_length: T; see `ToExample` for it and the next two.
      max_regions: R.
      max_edges: E.
      process_index: which process this is.
      process_count: how many share the data.
      augment: what happens to the sketches; without it they are as they lie on disk.
    """
    to_example = ToExample(source.tokenizer, text_length, max_regions, max_edges)
    records = in_order = _in_order(source.without("true_labels"), seed)  # evaluation's alone
    if augment is not None:
        records = records.random_map(augment, seed=_seed(seed, _AUGMENTATION))
    examples = records.random_map(RandomFlip(), seed=_seed(seed, _FLIPS)).random_map(
        to_example, seed=_seed(seed, _CAPTIONS)
    )
    parts = examples.batch(batch_size, batch_fn=stack_examples)
    batches = iter(parts[process_index::process_count].to_iter_dataset(_READ))
    contents = in_order.batch(batch_size, batch_fn=list)[process_index::process_count]
    return TrainBatches(batches, contents)


class TrainBatches:
    """A `BatchIterator` that Grain drives."""

    def __init__(self, batches: grain.DatasetIterator, records: grain.MapDataset):
        """Reads nothing yet.

        Args:
          batches: what it hands out.
          records: what each is made of.
        """
        self._batches, self._records = batches, records

    def __next__(self) -> Batch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)

    def keys(self, index: int) -> list[str]:
        """The records' stable names."""
        return [record["key"] for record in self._records[index]]


def _in_order(source: RecordSource | Mixture, seed: int) -> grain.MapDataset:
    """The records without end, in the order in which they are trained on."""
    mixed = source if isinstance(source, Mixture) else Mixture((source,), (1.0,), source.tokenizer)
    parts = [
        grain.MapDataset.source(part).shuffle(_seed(seed, _ORDER, i)).repeat(_EPOCHS)
        for i, part in enumerate(mixed.sources)
    ]
    if len(parts) == 1:
        return parts[0]
    # Grain adds the window's number to the seed, and both must fit into 32 bits.
    return WindowShuffleMapDataset(
        grain.MapDataset.mix(parts, mixed.weights),
        window_size=_TURNS_WINDOW,
        seed=_seed(seed, _TURNS) // 2,
    )


def _seed(seed: int, use: int, part: int = 0) -> int:
    """One use's own seed of 32 bits."""
    return int(np.random.SeedSequence((seed, use, part)).generate_state(1)[0])


def held_out_batch(
    source: RecordSource | Mixture,
    indices: Sequence[int],
    text_length: int,
    max_regions: int,
    max_edges: int,
) -> tuple[Batch, Truth]:
    """These records as they lie on disk, not flipped, each with its first caption."""
    to_example = ToExample(source.tokenizer, text_length, max_regions, max_edges)
    records = [source[index] for index in indices]
    captions = tuple(record["captions"][0] for record in records)
    parts = max(len(record["true_colors"]) for record in records)
    true_colors = np.full((len(records), parts), -1, np.int32)
    true_phrases = np.full((len(records), parts, 2), -1, np.int32)
    for i, record in enumerate(records):
        colors = record["true_colors"]
        true_colors[i, : len(colors)] = colors
        found = find_phrases(captions[i], record["true_labels"], colors)
        true_phrases[i, : len(colors)] = found
    truth = Truth(
        image_u8=np.stack([record["image"] for record in records]),
        sketch_u8=np.stack([record["sketch"][..., 0] for record in records]),
        true_labels=np.stack([record["true_labels"] for record in records]),
        true_colors=true_colors,
        captions=captions,
        keys=tuple(record["key"] for record in records),
        true_phrases=true_phrases,
        regions_found=np.array([record["regions_found"] for record in records], np.int32),
    )
    return stack_examples([to_example.example(record) for record in records]), truth


def distinct_drawings(source: RecordSource, n: int) -> list[int]:
    """The first record of each of the first `n` drawings, or of all if there are fewer."""
    first: dict[str, int] = {}
    for index in range(len(source)):
        if len(first) == n:
            break
        first.setdefault(source[index]["group"], index)
    return list(first.values())


def stack_examples(examples: Sequence[Batch]) -> Batch:
    """Examples → one batch."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *examples)


class DevicePrefetcher:
    """Moves batches to the devices ahead of their use; a `BatchIterator` itself.

    Its state is that after the batch handed out last, whatever lies ready.
    """

    def __init__(self, iterator: BatchIterator, put: Callable[[Batch], Any], depth: int = 2):
        """Reads nothing yet.

        Args:
          iterator: of batches on the host.
          put: starts a batch's transfer and returns at once, as `jax.device_put` does.
          depth: batches on their way or in use at a time.
        """
        self._iterator, self._put, self._depth = iterator, put, depth
        self._ahead: collections.deque[tuple[Any, dict[str, Any]]] = collections.deque()
        self._state = iterator.get_state()

    def __next__(self) -> Any:
        while len(self._ahead) < self._depth:
            batch = self._put(next(self._iterator))
            self._ahead.append((batch, self._iterator.get_state()))
        batch, self._state = self._ahead.popleft()
        return batch

    def get_state(self) -> dict[str, Any]:
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        self._ahead.clear()
        self._iterator.set_state(state)
        self._state = state

    def keys(self, index: int) -> list[str]:
        return self._iterator.keys(index)
