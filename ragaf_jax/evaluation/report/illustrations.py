"""Figures of the report: contact sheet, best and worst examples, heat maps, curves.

`fusion_figure` plots α over timesteps: the balance of sketch and text as noise decreases.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from ragaf_jax.batch import Batch, Images, Truth
from ragaf_jax.evaluation.examples import parts_known
from ragaf_jax.evaluation.held_out_trace import HeldOutTrace
from ragaf_jax.evaluation.metrics.leakage import color_table, leakage
from ragaf_jax.evaluation.registry import METRICS
from ragaf_jax.evaluation.report.leakage_figure import color_table_figure
from ragaf_jax.evaluation.sample_grid import attention_sheet
from ragaf_jax.evaluation.scoring import Scores
from ragaf_jax.evaluation.statistics.summary import Json, by_example
from ragaf_jax.figures.contact_sheet import CELL, SheetRow, contact_sheet
from ragaf_jax.figures.curves import curves, rendered
from ragaf_jax.figures.graph import LEAST_SIDE, draw_regions
from ragaf_jax.figures.lettering import GreyOrRgb, Rgb
from ragaf_jax.graph.features import NODE_FEATURES
from ragaf_jax.graph.regions import Regions
from ragaf_jax.tokenizer import Tokenizer

# Examples on the contact sheet, with attention maps, and of each rank.
SHOWN, ATTENDED, RANKED = 8, 3, 2
# Metrics that rank the examples.
RANKED_BY = ("color_accuracy", "edge_f1")
# Titles and colours of the regions in the balance of sketch and text.
_FUSION_KINDS = {"drawn": ("other regions", "#4c78a8"), "background": ("background", "#9a9a9a")}


class Row(NamedTuple):
    """One example: a note with its rank and value, its record's key, images by title."""

    note: str
    key: str
    caption: str
    images: dict[str, GreyOrRgb]


def ranks(values: Float[np.ndarray, " n"], higher: bool, count: int) -> dict[int, str]:
    """The best, median and worst examples by index, at most `count` of each.

    values: of each example; NaN has no rank.
    """
    order = np.flatnonzero(np.isfinite(values))
    order = order[np.argsort(-values[order] if higher else values[order], kind="stable")]
    middle = max(0, (len(order) - count) // 2)
    found: dict[int, str] = {}
    for rank, indices in (
        ("best", order[:count]),
        ("worst", order[::-1][:count][::-1]),
        ("median", order[middle : middle + count]),
    ):
        for index in indices.tolist():
            found.setdefault(index, rank)
    return {index: found[index] for index in order.tolist() if index in found}


def ranked_rows(
    scores: Scores, by_stage: Mapping[str, Images], truth: Truth
) -> dict[str, list[Row]]:
    """Ranked examples by title of the metric.

    scores: of Stage 2. by_stage: the images of both stages.
    """
    made = {}
    for name in RANKED_BY:
        if name not in scores:
            continue
        metric, values = METRICS[name], by_example(scores[name], len(truth.keys))
        made[metric.title] = [
            Row(
                f"{rank}: {metric.title} {values[i]:.{metric.digits}f}",
                truth.keys[i],
                truth.captions[i],
                {
                    "sketch": truth.sketch_u8[i],
                    **{stage: images[i] for stage, images in by_stage.items()},
                    "true": truth.image_u8[i],
                },
            )
            for i, rank in ranks(values, metric.better == "higher", RANKED).items()
        ]
    return made


def figures(
    by_stage: Mapping[str, Images],
    batch: Batch,
    truth: Truth,
    tokenizer: Tokenizer,
    trace: HeldOutTrace | None,
    balance: Json | None,
    logs: Mapping[str, Path],
) -> dict[str, Rgb]:
    """The report's figures by title, the contact sheet first.

    by_stage: the images. balance: the `fusion_summary` of `trace`; both are None without RAGAF.
    logs: metrics.jsonl by stage; stages may lack it.
    """
    shown = range(min(SHOWN, len(truth.keys)))
    made = {"Held-out examples": sheet(by_stage, batch, truth, shown)}
    if trace is not None and balance is not None:
        attention = trace.attention[0, :ATTENDED]
        made["Attention of regions to phrases at the noisiest timestep"] = attention_sheet(
            tokenizer, batch, truth, attention
        )
    if parts_known(truth):
        for stage, images in by_stage.items():
            found = leakage(images, truth)
            table = color_table(found.requested, found.obtained)
            made[f"Colours requested and obtained, {stage}"] = color_table_figure(table, stage)
            leaked = color_table(found.requested[found.leaked], found.obtained[found.leaked])
            made[f"Colours leaked from other parts, {stage}"] = color_table_figure(
                leaked, f"{stage}: only parts with the colour of another part of their image"
            )
    if trace is not None and balance is not None:
        made["Balance of sketch and text"] = fusion_figure(balance)
    if len(logs) == len(by_stage):  # copied checkpoints may lack logs
        made["Losses"] = curves(logs)
    return made


def fusion_figure(balance: Json) -> Rgb:
    """The mean α of the background and of other regions with its interval, from noise to image.

    balance: the result of `fusion_summary`.
    """
    from matplotlib.figure import Figure  # its import takes a second; see `figures.curves`

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    panel = figure.subplots()
    levels = balance["levels"]
    for kind, (label, color) in _FUSION_KINDS.items():
        if kind in balance:
            mean, low, high = np.transpose(balance[kind]["alpha"])
            panel.plot(levels, mean, marker="o", color=color, label=label)
            panel.fill_between(levels, low, high, color=color, alpha=0.25, linewidth=0)
    panel.axhline(0.5, color="0.8", linewidth=0.8)
    panel.set(
        xlabel="timestep, share of T: noise on the left, image on the right",
        ylabel="α, the sketch's weight; β = 1 − α",
        xlim=(1, 0),
        ylim=(0, 1),
    )
    panel.legend()
    return rendered(figure)


def sheet(
    by_stage: Mapping[str, Images],
    batch: Batch,
    truth: Truth,
    examples: Sequence[int],
) -> Rgb:
    """A contact sheet of the examples: sketch, regions, both stages, true image, caption."""
    rows = []
    for i in examples:
        sketch, count = truth.sketch_u8[i], int(batch.graph.n_node[i, 0])
        background = batch.graph.nodes[i, :count, NODE_FEATURES.index("background")] > 0
        regions = Regions(labels=batch.labels[i], n=count, background=background)
        factor = -(-CELL // max(sketch.shape))  # as `contact_sheet` enlarges
        height, width = (factor * side for side in sketch.shape)
        figure = draw_regions(sketch, regions, letters=round(16 * LEAST_SIDE / min(height, width)))
        resized = Image.fromarray(figure).resize((width, height))
        made = [images[i] for images in by_stage.values()]
        cells = (sketch, np.array(resized), *made, truth.image_u8[i])
        rows.append(SheetRow(cells, truth.captions[i]))
    return contact_sheet(rows, ("sketch", "regions", *by_stage, "true"))
