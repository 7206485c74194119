"""Training batches with a resumable random order, and held-out batches."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import grain.python as grain
import numpy as np
from grain.experimental import WindowShuffleMapDataset

from input_pipeline.datasets.phrases import find_phrases
from input_pipeline.extraction.augment import AugmentSketch
from input_pipeline.mixture import Mixture
from input_pipeline.records import RecordSource
from input_pipeline.size_order import SizeOrder
from input_pipeline.transforms import ChooseCaption, RandomFlip, ToExample, VaryTags
from ragaf_jax.batch import Batch, BatchIterator, Truth, of_any_size, stacked

# Two threads and four prefetched batches suffice, because reading is fast compared with a step.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)

# More than any run has. The length of an unlimited Grain dataset overflows at batch size 1.
_EPOCHS = 2**30

# One random stream per use, so that for example augmentation does not change the order.
_ORDER, _FLIPS, _CAPTIONS, _AUGMENTATION, _MIXTURE, _SIZES, _TAGS = 1, 3, 4, 5, 6, 7, 8

_PREFETCHED = 2  # batches in transfer to the devices

# Sources of a mixture alternate regularly and are shuffled within windows of this many examples.
# Timesteps depend on the position in the batch, so that no source may have fixed positions.
_MIXTURE_WINDOW = 1024


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
    tags: VaryTags | None = None,
) -> BatchIterator:
    """Endless shuffled and flipped batches; the order differs between epochs.

    The sources of a mixture alternate in proportion to their weights, within 1 % of the least one,
    and have separate epochs.

    If records have several sizes, all examples of a batch have one of them, in all processes. Each
    size has separate epochs, which continue in the next batch of that size; so a size with fewer
    records than a batch repeats them in it. Batches of each size are as frequent as its examples.

    All random choices precede the division among processes: the batches of all processes in a step
    form the batch that a single process would have.

    Args:
      source: the records.
      batch_size: examples per batch of this process.
      seed: determines all random choices.
      text_length, max_regions, max_edges: T, R and E of `ToExample`.
      process_index, process_count: of the processes that share the data.
      augment: augments the sketches.
      tags: varies the captions, whose text states are then not cached.
    """
    to_example = ToExample(source.tokenizer, text_length, max_regions, max_edges)

    def batches_of(
        source: RecordSource | Mixture, size: tuple[int, ...] = ()
    ) -> tuple[grain.MapDataset, grain.MapDataset]:
        """This process's batches, and the records in each; `size` selects other random choices."""
        records = in_order = _shuffled(source, seed, size)
        if augment is not None:
            records = records.random_map(augment, seed=_seed(seed, _AUGMENTATION, 0, *size))
        # Whether a record is mirrored depends on the caption.
        records = records.random_map(ChooseCaption(), seed=_seed(seed, _CAPTIONS, 0, *size))
        records = records.random_map(RandomFlip(), seed=_seed(seed, _FLIPS, 0, *size))
        if tags is not None:
            records = records.random_map(tags, seed=_seed(seed, _TAGS, 0, *size))
        batched = records.map(to_example).batch(batch_size, batch_fn=stacked)
        contents = in_order.batch(batch_size, batch_fn=list)
        # Consecutive batches of the processes form one batch of a step.
        own = slice(process_index, None, process_count)
        return batched[own], contents[own]

    source = source.without("true_labels")  # only evaluation uses them
    if len(source.sizes) == 1:
        batched, contents = batches_of(source)
    else:
        parts = [source.of_size(size) for size in source.sizes]
        shares = [sum(each.weights) if isinstance(each, Mixture) else len(each) for each in parts]
        datasets = [batches_of(part, size) for part, size in zip(parts, source.sizes, strict=True)]
        order = SizeOrder(shares, _seed(seed, _SIZES))
        batched, contents = (
            grain.MapDataset.select_from_datasets(each, order)
            for each in zip(*datasets, strict=True)
        )
    return TrainBatches(iter(batched.to_iter_dataset(_READ)), contents)


class TrainBatches:
    """The `BatchIterator` of a Grain iterator; `records` has the records of each batch."""

    def __init__(self, batches: grain.DatasetIterator, records: grain.MapDataset):
        self._batches, self._records = batches, records

    def __next__(self) -> Batch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)

    def keys(self, index: int) -> list[str]:
        """The keys of the records in a batch."""
        return [record["key"] for record in self._records[index]]


def _shuffled(source: RecordSource | Mixture, seed: int, size: tuple[int, ...]) -> grain.MapDataset:
    """The records of all epochs in training order."""
    mixed = source if isinstance(source, Mixture) else Mixture((source,), (1.0,), source.tokenizer)
    datasets = [
        grain.MapDataset.source(each).shuffle(_seed(seed, _ORDER, i, *size)).repeat(_EPOCHS)
        for i, each in enumerate(mixed.sources)
    ]
    if len(datasets) == 1:
        return datasets[0]
    # Half the seed, because Grain adds the window's number and the sum must fit into 32 bits.
    return WindowShuffleMapDataset(
        grain.MapDataset.mix(datasets, mixed.weights),
        window_size=_MIXTURE_WINDOW,
        seed=_seed(seed, _MIXTURE, 0, *size) // 2,
    )


def _seed(seed: int, use: int, source: int = 0, *size: int) -> int:
    """A seed of 32 bits for one use."""
    return int(np.random.SeedSequence((seed, use, source, *size)).generate_state(1)[0])


def held_out_batch(
    source: RecordSource | Mixture,
    indices: Sequence[int],
    text_length: int,
    max_regions: int,
    max_edges: int,
) -> tuple[Batch, Truth]:
    """These records without augmentation or flips, each with its first caption; and their truth.

    Images of several sizes are `batch.PerExample`.
    """
    to_example = ToExample(source.tokenizer, text_length, max_regions, max_edges)
    records = [source[index] for index in indices]
    captions = tuple(record["captions"][0] for record in records)
    parts = max(len(record["true_colors"]) for record in records)
    true_colors = np.full((len(records), parts), -1, np.int32)
    true_phrases = np.full((len(records), parts, 2), -1, np.int32)
    for i, record in enumerate(records):
        colors = record["true_colors"]
        true_colors[i, : len(colors)] = colors
        true_phrases[i, : len(colors)] = find_phrases(captions[i], record["true_labels"], colors)
    truth = Truth(
        image_u8=of_any_size([record["image"] for record in records]),
        sketch_u8=of_any_size([record["sketch"][..., 0] for record in records]),
        true_labels=of_any_size([record["true_labels"] for record in records]),
        true_colors=true_colors,
        captions=captions,
        keys=tuple(record["key"] for record in records),
        true_phrases=true_phrases,
        regions_found=np.array([record["regions_found"] for record in records], np.int32),
    )
    return of_any_size([to_example.map(record) for record in records]), truth


def distinct_groups(source: RecordSource, n: int) -> list[int]:
    """Indices of the first record of each of the first `n` groups, or of all if there are fewer."""
    first: dict[str, int] = {}
    for index in range(len(source)):
        if len(first) == n:
            break
        first.setdefault(source[index]["group"], index)
    return list(first.values())


class DevicePrefetcher:
    """A `BatchIterator` that transfers batches to the devices before their use.

    Its state is that after the last returned batch, independent of prefetched ones.
    """

    def __init__(self, iterator: BatchIterator, put: Callable[[Batch], Any]):
        """Reads nothing yet; `put` transfers a batch asynchronously, as `jax.device_put` does."""
        self._iterator, self._put = iterator, put
        self._ahead: collections.deque[tuple[Any, dict[str, Any]]] = collections.deque()
        self._state = iterator.get_state()

    def __next__(self) -> Any:
        while len(self._ahead) < _PREFETCHED:
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
