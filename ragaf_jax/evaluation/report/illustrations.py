"""Figures of the report: a contact sheet, best and worst examples, heat maps, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ragaf_jax.batch import Batch, Truth
from ragaf_jax.evaluation.examples import parts_known
from ragaf_jax.evaluation.metrics.leakage import color_table, leakage
from ragaf_jax.evaluation.reading import Reading
from ragaf_jax.evaluation.registry import METRICS
from ragaf_jax.evaluation.report.fusion_figure import fusion_figure
from ragaf_jax.evaluation.report.leakage_figure import color_table_figure
from ragaf_jax.evaluation.sample_grid import attention_sheet
from ragaf_jax.evaluation.scoring import Scores
from ragaf_jax.evaluation.statistics.summary import Json, by_drawing
from ragaf_jax.figures.contact_sheet import CELL, SheetRow, contact_sheet
from ragaf_jax.figures.curves import curves
from ragaf_jax.figures.graph import LEAST_SIDE, draw_regions
from ragaf_jax.figures.lettering import GreyOrRgb, Picture
from ragaf_jax.graph.features import NODE_FEATURES
from ragaf_jax.graph.regions import Regions
from ragaf_jax.tokenizer import Tokenizer

# Drawings on the contact sheet; with attention maps; of each rank by a metric.
SHOWN, ATTENDED, RANKED = 8, 3, 2
# By what drawings are ranked.
RANKED_BY = ("color_accuracy", "edge_f1")


class Row(NamedTuple):
    """One drawing of the report.

    Attributes:
      note: its rank and value.
      key: of its record.
      caption: what was asked for.
      pictures: by what they are.
    """

    note: str
    key: str
    caption: str
    pictures: dict[str, GreyOrRgb]


def ranks(values: Float[np.ndarray, " n"], higher: bool, count: int) -> dict[int, str]:
    """The best, median and worst drawings, `count` of each where there are so many, by index.

    values: of each drawing; those that are nan have no rank.
    """
    order = np.flatnonzero(np.isfinite(values))
    order = order[np.argsort(-values[order] if higher else values[order], kind="stable")]
    middle = max(0, (len(order) - count) // 2)
    found: dict[int, str] = {}
    for rank, those in (
        ("best", order[:count]),
        ("worst", order[::-1][:count][::-1]),
        ("median", order[middle : middle + count]),
    ):
        for index in those.tolist():
            found.setdefault(index, rank)
    return {index: found[index] for index in order.tolist() if index in found}


def ranked_rows(
    scores: Scores, pictures: Mapping[str, UInt8[np.ndarray, "b s s 3"]], truth: Truth
) -> dict[str, list[Row]]:
    """Drawings by how Stage 2 did, by the title of the metric.

    scores: of Stage 2. pictures: of both stages.
    """
    made = {}
    for name in RANKED_BY:
        if name not in scores:
            continue
        metric, values = METRICS[name], by_drawing(scores[name], len(truth.keys))
        made[metric.title] = [
            Row(
                f"{rank}: {metric.title} {values[i]:.{metric.digits}f}",
                truth.keys[i],
                truth.captions[i],
                {
                    "sketch": truth.sketch_u8[i],
                    **{stage: images[i] for stage, images in pictures.items()},
                    "true": truth.image_u8[i],
                },
            )
            for i, rank in ranks(values, metric.better == "higher", RANKED).items()
        ]
    return made


def figures(
    pictures: Mapping[str, UInt8[np.ndarray, "b s s 3"]],
    batch: Batch,
    truth: Truth,
    tokenizer: Tokenizer,
    reading: Reading | None,
    balance: Json | None,
    logs: Mapping[str, Path],
) -> dict[str, Picture]:
    """The report's figures by title, the contact sheet first.

    Args:
      pictures: of both stages.
      batch, truth, tokenizer: the drawings.
      reading, balance: what RAGAF decides and its `summary.fusion_summary`; None without RAGAF.
      logs: metrics.jsonl by stage, of those stages that have one.
    """
    shown = range(min(SHOWN, len(truth.keys)))
    made = {"Held-out drawings": sheet(pictures, batch, truth, shown)}
    if reading is not None and balance is not None:
        attention = reading.attention[0, :ATTENDED]
        made["Which phrases regions attend to, in noise"] = attention_sheet(
            tokenizer, batch, truth, attention
        )
    if parts_known(truth):
        for stage, images in pictures.items():
            found = leakage(images, truth)
            table = color_table(found.requested, found.obtained)
            made[f"Colours asked and painted, {stage}"] = color_table_figure(table, stage)
            leaked = color_table(found.requested[found.leaked], found.obtained[found.leaked])
            made[f"Of these, colours of other parts, {stage}"] = color_table_figure(
                leaked, f"{stage}: only parts that have the colour of another part of their drawing"
            )
    if reading is not None and balance is not None:
        made["How much sketch, how much text"] = fusion_figure(balance)
    if len(logs) == len(pictures):  # checkpoints may have come here without them
        made["Losses"] = curves(logs)
    return made


def sheet(
    pictures: Mapping[str, UInt8[np.ndarray, "b s s 3"]],
    batch: Batch,
    truth: Truth,
    examples: Sequence[int],
) -> Picture:
    """Some of the drawings: sketch, regions, both stages, true picture, caption."""
    rows = []
    for i in examples:
        sketch, count = truth.sketch_u8[i], int(batch.graph.n_node[i, 0])
        background = batch.graph.nodes[i, :count, NODE_FEATURES.index("background")] > 0
        regions = Regions(labels=batch.labels[i], n=count, background=background)
        side = len(sketch) * -(-CELL // len(sketch))
        figure = draw_regions(sketch, regions, letters=round(16 * LEAST_SIDE / side))
        drawn = Image.fromarray(figure).resize((side, side))
        cells = (
            sketch,
            np.array(drawn),
            *(images[i] for images in pictures.values()),
            truth.image_u8[i],
        )
        rows.append(SheetRow(cells, truth.captions[i]))
    return contact_sheet(rows, ("sketch", "regions", *pictures, "true"))
