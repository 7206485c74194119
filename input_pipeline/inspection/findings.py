"""Counts and examples of prepared data, written as a page, a sheet and numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from input_pipeline.datasets.building import SPLITS
from input_pipeline.inspection.page import PICTURES, Example, page
from input_pipeline.inspection.statistics import Budgets, measure_all, rejected, statistics
from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError
from ragaf_jax.figures.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.figures.graph import draw_graph, draw_regions
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.graph.build import DEFAULT_GRAPH, GraphConfig, RegionGraph
from ragaf_jax.graph.features import NODE_FEATURES
from ragaf_jax.graph.regions import Regions
from ragaf_jax.tokenizer import Tokenizer

FILES = ("index.html", "contact_sheet.png", "statistics.json")
# px: about the width of the contact sheet's pictures, for legible numbers; and the most.
_CELL, _WIDEST = 384, 512
# Of region numbers, px of a figure of 512: 14 px where the page shows it at about 280.
_LETTERS = 26


class Wanted(NamedTuple):
    """What is looked at."""

    dataset: str
    split: str = "train"
    examples: int = 24
    seed: int = 0


def inspect(
    sources: dict[str, RecordSource],
    wanted: Wanted,
    budgets: Budgets,
    output: Path,
    tokenizer: Tokenizer | None = None,
) -> dict[str, Any]:
    """Writes `FILES` into the folder `output`, in place of earlier ones; returns the numbers.

    Args:
      sources: the records of every split.
      wanted: what is drawn.
      budgets: what is counted against.
      output: where to.
      tokenizer: in place of the data's own.

    Raises:
      UserError: `output` cannot be written or holds other files.
    """
    check_writable(output, FILES)
    chosen = sources[wanted.split]
    measured = measure_all(sources, tokenizer or chosen.tokenizer)
    metadata = chosen.metadata
    found = {
        "folder": str(chosen.folder),
        "image_size": metadata["image_size"],
        "dataset": wanted.dataset,
        "graph": metadata["graph"],
        **statistics(measured, budgets, metadata["regions"]["max_regions"]),
        "rejected": rejected(chosen.folder),
    }
    indices = choose(measured[wanted.split].groups, wanted.examples, wanted.seed)
    with whole_folder(output) as folder:
        records = chosen.without("true_labels")
        examples = [
            example(records[index]) for index in tqdm(indices, desc="drawing", unit=" examples")
        ]
        text = json.dumps(found, indent=2, ensure_ascii=False)
        (folder / "statistics.json").write_text(text + "\n", encoding="utf-8")
        (folder / "index.html").write_text(page(found, wanted.split, examples), encoding="utf-8")
        Image.fromarray(sheet(examples)).save(folder / "contact_sheet.png")
    return found


def choose(groups: Sequence[str], n: int, seed: int) -> list[int]:
    """Indices of up to `n` records at random, none of a group twice while there are others."""
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    first: dict[str, int] = {}
    for index in order:
        first.setdefault(groups[index], index)
    others = [index for index in order if first[groups[index]] != index]
    return [*first.values(), *others][:n]


def example(record: dict[str, Any]) -> Example:
    """The pictures of a record: as it lies on disk, all edges included."""
    sketch = record["sketch"][..., 0]
    background = record["nodes"][:, NODE_FEATURES.index("background")] > 0
    regions = Regions(record["labels"].astype(np.int32), len(background), background)
    graph = RegionGraph(*(record[name] for name in RegionGraph._fields))
    found = record["regions_found"]
    merged = f" of {found}" if found > regions.n else ""
    return Example(
        pictures=(
            record["image"],
            sketch,
            draw_regions(sketch, regions, letters=_LETTERS),
            draw_graph(sketch, regions, graph, letters=_LETTERS),
        ),
        captions=record["captions"],
        key=record["key"],
        group=record["group"],
        category=record["category"],
        facts=f"{regions.n}{merged} regions, {len(graph.senders)} edges",
    )


def sheet(examples: Sequence[Example]) -> UInt8[np.ndarray, "_ _ 3"]:
    """A row an example."""
    size = len(examples[0].pictures[0])
    width = min(_WIDEST, size * max(1, round(_CELL / size)))
    rows = [
        SheetRow(
            [_resized(picture, width) for picture in each.pictures],
            f"{each.key}: {' • '.join(each.captions)} ({each.facts})",
        )
        for each in examples
    ]
    return contact_sheet(rows, PICTURES)


def _resized(picture: UInt8[np.ndarray, "_ _ *rgb"], width: int) -> UInt8[np.ndarray, "_ _ *rgb"]:
    """Pixels repeated where that gives just this width."""
    mode = cv2.INTER_AREA if width % picture.shape[1] else cv2.INTER_NEAREST
    height = round(picture.shape[0] * width / picture.shape[1])
    return cv2.resize(picture, (width, height), interpolation=mode)


def open_splits(
    dataset: str,
    data_dir: Path,
    size: int,
    recolorings: int,
    graph: GraphConfig = DEFAULT_GRAPH,
) -> dict[str, RecordSource]:
    """Every split.

    Raises:
      UserError: the data are not there, or are several data sets.
    """
    if "," in dataset or ":" in dataset:
        raise UserError(
            f"--dataset is {dataset!r}, a mixture; inspect each of its data sets by itself."
        )
    return {
        split: RecordSource(data_dir, dataset, split, size, recolorings, graph=graph)
        for split in SPLITS
    }
