"""The records and held-out batches of a configuration."""

from typing import Any

from ml_collections import ConfigDict

from input_pipeline.loader import distinct_drawings, held_out_batch
from input_pipeline.mixture import Mixture, parse, turns
from input_pipeline.records import RecordSource
from ragaf_jax.batch import Batch, Truth
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import graph_config_of
from ragaf_jax.tokenizer import Tokenizer


def open_split(
    data: ConfigDict, split: str, tokenizer: Tokenizer | None = None
) -> RecordSource | Mixture:
    """The records that `config.data` names, whose regions fit into its padded graphs.

    With a `tokenizer`, a pretrained model's, captions are read by it instead of the data's own; a
    mixture's own has the words of all its parts.
    """
    names, weights = zip(*parse(data.dataset), strict=True)
    sources = tuple(_open_part(data, name, split) for name in names)
    if len(sources) > 1:
        own = Tokenizer.union([source.tokenizer for source in sources])
        return Mixture(sources, weights, own if tokenizer is None else tokenizer)
    if tokenizer is not None:
        sources[0].tokenizer = tokenizer
    return sources[0]


def _open_part(data: ConfigDict, name: str, split: str) -> RecordSource:
    asked, sizes = data.regions, (data.image_size, data.recolorings)
    source = RecordSource(data.dir, name, split, *sizes, asked, graph_config_of(data))
    if source.regions != asked:
        raise UserError(
            f"The data in {source.folder} were prepared with --regions={source.regions} and "
            f"config.data.regions is {asked!r}; set it to {source.regions!r}, or prepare other "
            "data with another --data_dir."
        )
    least = source.metadata["regions"]["max_regions"] + 1
    if data.max_regions < least or data.max_edges < least:
        raise UserError(
            f"config.data.max_regions is {data.max_regions} and max_edges {data.max_edges}; the "
            f"drawings of {name} have up to {least - 1} regions, each with an edge to itself, and "
            f"one more is padding: set both to {least} or more."
        )
    return source


def shapes(data: ConfigDict) -> dict[str, int]:
    """The padded sizes of text and graph."""
    return {name: data[name] for name in ("text_length", "max_regions", "max_edges")}


def held_out(
    data: ConfigDict, split: str, examples: int, tokenizer: Tokenizer | None = None
) -> tuple[Batch, Truth]:
    """Examples of different drawings, always the same; `tokenizer` as in `open_split`."""
    return _held_out(open_split(data, split, tokenizer), data, split, examples)


def _held_out(
    source: RecordSource | Mixture, data: ConfigDict, split: str, examples: int
) -> tuple[Batch, Truth]:
    drawings = _distinct(source, examples)
    if len(drawings) < 2:
        parts = source.sources if isinstance(source, Mixture) else (source,)
        limited = any(part.metadata.get("limit") for part in parts)
        advice = "prepare it without --limit, or with a larger one" if limited else "add some"
        raise UserError(
            f"{data.dataset} in {data.dir} has {len(drawings)} {split} drawings and two or more "
            f"are needed; {advice}."
        )
    return held_out_batch(source, drawings, **shapes(data))


def _distinct(source: RecordSource | Mixture, examples: int) -> list[int]:
    """Indices of records of different drawings; of a mixture, in turns as the weights have it."""
    if isinstance(source, RecordSource):
        return distinct_drawings(source, examples)
    order = turns(source.weights, examples)
    drawings = [
        iter([start + index for index in distinct_drawings(part, order.count(i))])
        for i, (start, part) in enumerate(zip(source.starts, source.sources, strict=True))
    ]
    # A part that has fewer drawings than turns is passed over.
    found = (next(drawings[i], None) for i in order)
    return [index for index in found if index is not None]


def shown_for(
    config: ConfigDict, trained: ConfigDict, tokenizer: Tokenizer, drawings: int, colorings: int
) -> tuple[Batch, Truth, int]:
    """Test drawings and, behind them, several records of one that has about three colours.

    Of `openmoji/recolor` these are the same drawing in other colours; of data sets with one record
    a picture, and of mixtures, there are none.

    Args:
      config: of this command; its `data.dir` is read.
      trained: of the checkpoint's run; what else of `data` is used.
      tokenizer: of the checkpoint; the data may have another vocabulary.
      drawings: how many, or all if there are fewer.
      colorings: records of the one drawing, likewise.

    Returns:
      The examples, what is true of them, and how many drawings are at their beginning.
    """
    data = ConfigDict({**trained.data, "dir": config.data.dir})
    source = open_split(data, "test", tokenizer)
    first = _distinct(source, drawings)
    behind: list[int] = []
    if isinstance(source, RecordSource):
        records = [source[index] for index in first]
        chosen = min(records, key=lambda record: abs(len(_colors(record)) - 3))
        groups = enumerate(source.fields("group"))
        of_one = [index for index, record in groups if record["group"] == chosen["group"]]
        behind = of_one[:colorings] if len(of_one) > 1 else []
    batch, truth = held_out_batch(source, first + behind, **shapes(data))
    return batch, truth, len(first)


def _colors(record: dict[str, Any]) -> set[int]:
    """Those that the caption asks for."""
    return {color for color in record["true_colors"].tolist() if color >= 0}


def held_out_for(
    config: ConfigDict, trained: ConfigDict, tokenizer: Tokenizer
) -> tuple[Batch, Truth]:
    """The test drawings of `config.data.dir`, as the run that made a checkpoint would read them.

    Args:
      config: of this command.
      trained: of the checkpoint's run.
      tokenizer: of the checkpoint.
    """
    data = ConfigDict({**trained.data, "dir": config.data.dir})
    pretrained = trained.init.checkpoint != ""
    source = open_split(data, "test", tokenizer if pretrained else None)
    if source.tokenizer.to_json() != tokenizer.to_json():
        raise UserError(
            f"The vocabulary of the data in {data.dir} is not the one that the checkpoint was "
            "trained with; name the folder of its data with --config.data.dir."
        )
    return _held_out(source, data, "test", config.evaluation_examples)
