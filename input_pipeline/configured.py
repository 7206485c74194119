"""Opens the records of a configuration, and makes its held-out batches."""

import collections

from ml_collections import ConfigDict

from input_pipeline.loader import distinct_groups, held_out_batch
from input_pipeline.mixture import Mixture, apportion, parse
from input_pipeline.options import options_of
from input_pipeline.records import RecordSource
from ragaf_jax.batch import Batch, Truth
from ragaf_jax.errors import UserError, notify
from ragaf_jax.tokenizer import Tokenizer


def open_split(
    data: ConfigDict, split: str, tokenizer: Tokenizer | None = None
) -> RecordSource | Mixture:
    """Opens the records of `config.data` and checks that its padded graphs are large enough.

    A `tokenizer`, of a pretrained model, replaces that of the data. The tokenizer of a mixture has
    the vocabularies of all its datasets.
    """
    names, weights = zip(*parse(data.dataset), strict=True)
    sources = tuple(_open_dataset(data, name, split) for name in names)
    if len(sources) > 1:
        union = Tokenizer.union([source.tokenizer for source in sources])
        return Mixture(sources, weights, union if tokenizer is None else tokenizer)
    if tokenizer is not None:
        sources[0].tokenizer = tokenizer
    return sources[0]


def _open_dataset(data: ConfigDict, name: str, split: str) -> RecordSource:
    source = RecordSource(data.dir, name, split, options_of(data), data.mirror)
    if data.buckets and "buckets" not in source.metadata:
        _check_square(data, name)
    if source.regions != data.regions:
        raise UserError(
            f"The data in {source.folder} were prepared with --regions={source.regions} and "
            f"config.data.regions is {data.regions!r}; set it to {source.regions!r}, or prepare "
            "other data with another --data_dir."
        )
    least = source.metadata["regions"]["max_regions"] + 1
    if data.max_regions < least or data.max_edges < least:
        raise UserError(
            f"config.data.max_regions is {data.max_regions} and max_edges {data.max_edges}; the "
            f"sketches of {name} have up to {least - 1} regions with one self loop each, and "
            f"padding needs one more: set both to {least} or more."
        )
    return source


def _check_square(data: ConfigDict, name: str) -> None:
    side = data.image_size
    if (side, side) not in options_of(data).buckets:
        raise UserError(
            f"config.data.buckets is {', '.join(data.buckets)}, and the images of {name} are "
            f"squares of {side} px; add '{side}x{side}'."
        )


def shapes(data: ConfigDict) -> dict[str, int]:
    """The padded sizes of text and graph."""
    return {name: data[name] for name in ("text_length", "max_regions", "max_edges")}


def held_out(
    data: ConfigDict, split: str, examples: int, tokenizer: Tokenizer | None = None
) -> tuple[Batch, Truth]:
    """A fixed set of examples of different groups; `tokenizer` as in `open_split`."""
    return _held_out(open_split(data, split, tokenizer), data, split, examples)


def _held_out(
    source: RecordSource | Mixture, data: ConfigDict, split: str, examples: int
) -> tuple[Batch, Truth]:
    indices = _distinct(source, examples)
    if len(indices) < 2:
        sources = source.sources if isinstance(source, Mixture) else (source,)
        limited = any(each.metadata.get("limit") for each in sources)
        advice = "prepare it without --limit, or with a larger one" if limited else "add some"
        raise UserError(
            f"{data.dataset} in {data.dir} has {len(indices)} {split} images and at least two "
            f"are needed; {advice}."
        )
    batch, truth = held_out_batch(source, indices, **shapes(data))
    _check_sizes(f"{data.dataset} in {data.dir}", split, truth)
    return batch, truth


def _check_sizes(name: str, split: str, truth: Truth) -> None:
    """Counts images without another of their size, with whose conditions they could be compared."""
    counts = collections.Counter(sketch.shape for sketch in truth.sketch_u8)
    alone = list(counts.values()).count(1)
    if alone == len(counts):
        raise UserError(
            f"{name} has {alone} {split} images of as many sizes, and conditions are compared "
            "between images of one size; raise config.validation_examples, prepare more images, "
            "or choose fewer config.data.buckets."
        )
    if alone:
        notify(
            f"{alone} of {len(truth.keys)} {split} images have no other of their size: losses with "
            "another image's conditions leave them out."
        )


def _distinct(source: RecordSource | Mixture, examples: int) -> list[int]:
    """Indices of records of different groups; a mixture's weights determine the proportions."""
    if isinstance(source, RecordSource):
        return distinct_groups(source, examples)
    order = apportion(source.weights, examples)
    indices = [
        iter([start + index for index in distinct_groups(each, order.count(i))])
        for i, (start, each) in enumerate(zip(source.starts, source.sources, strict=True))
    ]
    # A source can have fewer groups than its share.
    found = (next(indices[i], None) for i in order)
    return [index for index in found if index is not None]


def shown_for(
    config: ConfigDict, trained: ConfigDict, tokenizer: Tokenizer, drawings: int, colorings: int
) -> tuple[Batch, Truth, int]:
    """Test examples of different groups, then recolourings of one with about three colours.

    Only `openmoji/recolor` has recolourings; mixtures have none here.

    Args:
      config: of this command, for `data.dir`.
      trained: of the checkpoint's run, for the other fields of `data`.
      tokenizer: of the checkpoint; the data may have another vocabulary.
      drawings: the number of groups, or all if there are fewer.
      colorings: the number of recolourings, or all if there are fewer.

    Returns:
      The batch, its ground truth, and the number of groups.
    """
    data = ConfigDict({**trained.data, "dir": config.data.dir})
    source = open_split(data, "test", tokenizer)
    first = _distinct(source, drawings)
    recolored: list[int] = []
    if isinstance(source, RecordSource):
        records = [source[index] for index in first]
        colors = [len(set(record["true_colors"].tolist()) - {-1}) for record in records]
        chosen = records[min(range(len(records)), key=lambda i: abs(colors[i] - 3))]
        groups = enumerate(source.fields("group"))
        of_one = [index for index, record in groups if record["group"] == chosen["group"]]
        recolored = of_one[:colorings] if len(of_one) > 1 else []
    batch, truth = held_out_batch(source, first + recolored, **shapes(data))
    return batch, truth, len(first)


def held_out_for(
    config: ConfigDict, trained: ConfigDict, tokenizer: Tokenizer
) -> tuple[Batch, Truth]:
    """The test examples in `config.data.dir`, read as in the run of a checkpoint.

    `trained` and `tokenizer` are those of the checkpoint.
    """
    data = ConfigDict({**trained.data, "dir": config.data.dir})
    pretrained = trained.init.checkpoint != ""
    source = open_split(data, "test", tokenizer if pretrained else None)
    if source.tokenizer.to_json() != tokenizer.to_json():
        raise UserError(
            f"The vocabulary of the data in {data.dir} is not that of the checkpoint's training "
            "data; name the folder of those with --config.data.dir."
        )
    return _held_out(source, data, "test", config.evaluation_examples)
