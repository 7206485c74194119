"""Writes examples and statistics of prepared data as a page, a contact sheet and JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from input_pipeline.datasets import registry
from input_pipeline.datasets.building import SPLITS
from input_pipeline.inspection.framing import framing_statistics
from input_pipeline.inspection.page import IMAGES, Example, page
from input_pipeline.inspection.statistics import Budgets, measure_all, rejected, statistics
from input_pipeline.options import Options
from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError
from ragaf_jax.figures.contact_sheet import SheetRow, contact_sheet
from ragaf_jax.figures.graph import draw_graph, draw_regions
from ragaf_jax.folders import check_writable, whole_folder
from ragaf_jax.framing import parse_buckets
from ragaf_jax.graph.build import RegionGraph
from ragaf_jax.graph.features import NODE_FEATURES
from ragaf_jax.graph.regions import Regions
from ragaf_jax.tokenizer import Tokenizer

FILES = ("index.html", "contact_sheet.png", "statistics.json")
# Approximate and largest width of the contact sheet's images, px.
_CELL, _WIDEST = 384, 512
# Height of region numbers in a figure of 512 px; 14 px at the page's scale.
_LETTERS = 26


class Selection(NamedTuple):
    """Dataset, split and random examples to inspect."""

    dataset: str
    split: str = "train"
    examples: int = 24
    seed: int = 0


def inspect(
    sources: dict[str, RecordSource],
    selection: Selection,
    budgets: Budgets,
    output: Path,
    tokenizer: Tokenizer | None = None,
) -> dict[str, Any]:
    """Writes `FILES` into the folder `output`, replacing earlier ones; returns the statistics.

    `sources` are the records of every split. `tokenizer` replaces that of the data.

    Raises:
      UserError: `output` cannot be written or holds other files.
    """
    check_writable(output, FILES)
    chosen = sources[selection.split]
    measured = measure_all(sources, tokenizer or chosen.tokenizer)
    metadata = chosen.metadata
    found = {
        "folder": str(chosen.folder),
        "image_size": metadata["image_size"],
        "dataset": selection.dataset,
        "graph": metadata["graph"],
        **statistics(measured, budgets, metadata["regions"]["max_regions"]),
        "rejected": rejected(chosen.folder),
    }
    if registry.find(selection.dataset).scan:
        buckets = parse_buckets(metadata.get("buckets", ()), metadata["image_size"])
        cropped = metadata.get("crop", True)  # squares are
        found["framing"] = framing_statistics(measured, buckets, cropped)
    indices = choose(measured[selection.split].groups, selection.examples, selection.seed)
    with whole_folder(output) as folder:
        records = chosen.without("true_labels")
        bar = tqdm(indices, desc="drawing", unit=" examples")
        examples = [example(records[index]) for index in bar]
        text = json.dumps(found, indent=2, ensure_ascii=False)
        (folder / "statistics.json").write_text(text + "\n", encoding="utf-8")
        (folder / "index.html").write_text(page(found, selection.split, examples), encoding="utf-8")
        Image.fromarray(sheet(examples)).save(folder / "contact_sheet.png")
    return found


def choose(groups: Sequence[str], n: int, seed: int) -> list[int]:
    """Indices of up to `n` random records; groups repeat only if there are fewer than `n`."""
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    first: dict[str, int] = {}
    for index in order:
        first.setdefault(groups[index], index)
    others = [index for index in order if first[groups[index]] != index]
    return [*first.values(), *others][:n]


def example(record: dict[str, Any]) -> Example:
    """The images and texts of a record as stored, with all edges."""
    sketch = record["sketch"][..., 0]
    background = record["nodes"][:, NODE_FEATURES.index("background")] > 0
    regions = Regions(record["labels"].astype(np.int32), len(background), background)
    graph = RegionGraph(*(record[name] for name in RegionGraph._fields))
    found = record["regions_found"]
    merged = f" of {found}" if found > regions.n else ""
    return Example(
        images=(
            record["image"],
            sketch,
            draw_regions(sketch, regions, letters=_LETTERS),
            draw_graph(sketch, regions, graph, letters=_LETTERS),
        ),
        captions=record["captions"],
        key=record["key"],
        category=record["category"],
        facts=f"{regions.n}{merged} regions, {len(graph.senders)} edges",
    )


def sheet(examples: Sequence[Example]) -> UInt8[np.ndarray, "_ _ 3"]:
    """A contact sheet with one row per example."""
    size = examples[0].images[0].shape[1]
    width = min(_WIDEST, size * max(1, round(_CELL / size)))
    rows = [
        SheetRow(
            [_resized(image, width) for image in each.images],
            f"{each.key}: {' • '.join(each.captions)} ({each.facts})",
        )
        for each in examples
    ]
    return contact_sheet(rows, IMAGES)


def _resized(image: UInt8[np.ndarray, "_ _ *rgb"], width: int) -> UInt8[np.ndarray, "_ _ *rgb"]:
    """The image scaled to `width`, by repeating pixels if the factor is an integer."""
    mode = cv2.INTER_AREA if width % image.shape[1] else cv2.INTER_NEAREST
    height = round(image.shape[0] * width / image.shape[1])
    return cv2.resize(image, (width, height), interpolation=mode)


def open_splits(dataset: str, data_dir: Path, options: Options) -> dict[str, RecordSource]:
    """The records of every split.

    Raises:
      UserError: the data are missing, or `dataset` is a mixture.
    """
    if "," in dataset or ":" in dataset:
        raise UserError(
            f"--dataset is {dataset!r}, a mixture; inspect each of its datasets separately."
        )
    return {split: RecordSource(data_dir, dataset, split, options) for split in SPLITS}
