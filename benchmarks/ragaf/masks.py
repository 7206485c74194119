"""Does training buy more than masks? RAGAF beside region prompts by attention alone.

    python -m benchmarks.ragaf.masks --data=data                     # 15 minutes on 2 CPU cores
    python -m benchmarks.ragaf.masks --data=data --json=results.json # also writes JSON

Prints Markdown. Held-out examples of `openmoji/recolor` are sampled from their captions, which name
the colours of parts. "With phrases" also gives each region the phrase of the true part in which it
lies: by cross-attention that is restricted by region, or by RAGAF. This assignment is not known to
the model that reads the caption alone. Differences are paired by part.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from jaxtyping import UInt8
from tqdm import tqdm

from benchmarks.machine import cpu_model, versions
from benchmarks.ragaf.report import difference, hits_by_part, scores
from benchmarks.ragaf.score import values_of
from benchmarks.report import Row, table, write_json
from benchmarks.timing import ROOT
from input_pipeline.configured import held_out_for
from ragaf_jax.batch import Truth
from ragaf_jax.errors import run_cli
from ragaf_jax.evaluation.metrics.colors import PAPER
from ragaf_jax.graph.regions import Regions
from ragaf_jax.runtime.compilation_cache import keep_compiled
from ragaf_jax.runtime.heap import keep_freed_memory
from ragaf_jax.sampling.numbered import NumberedRegions
from ragaf_jax.sampling.options import OptionArguments
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.request import Request, SketchPage
from ragaf_jax.training.adopt import with_fields

FLAGS = flags.FLAGS

# Options of each way, and whether regions get phrases.
WAYS: dict[str, tuple[OptionArguments, bool]] = {
    "Stage 1": ({"stages": "1"}, False),
    "Stage 1 with phrases, by attention": ({"stages": "1", "region_method": "attention"}, True),
    "Stage 2 with phrases, by attention": ({"region_method": "attention"}, True),
    "Stage 2 with phrases, by RAGAF": ({"region_method": "ragaf"}, True),
    "Stage 2 (RAGAF)": ({}, False),
}
COMPARED = "Stage 2 (RAGAF)"
SHOWN = "edge F1", "colour accuracy", "leaked"
KEPT = "keys", "edge_f1", "drawing", "part", "requested", "obtained", "near", "far"


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("stage1", str(ROOT / "pretrained/openmoji/stage1"), "Workdir of Stage 1.")
    flags.DEFINE_string("stage2", str(ROOT / "pretrained/openmoji/stage2"), "Workdir of Stage 2.")
    flags.DEFINE_string("data", "data", "Folder of the prepared openmoji/recolor.")
    flags.DEFINE_integer("examples", 144, "Number of test examples.", lower_bound=2)
    flags.DEFINE_string("json", None, "Output file.")


def phrases_of(truth: Truth, example: int, labels: UInt8[np.ndarray, "s s"]) -> dict[int, str]:
    """The phrase of the part in which most of a region lies, without lines, by region."""
    assert truth.true_phrases is not None
    paper = truth.sketch_u8[example] >= PAPER
    found = {}
    for region in range(int(labels.max()) + 1):
        parts = truth.true_labels[example][(labels == region) & paper]
        if parts.size == 0:
            continue
        part = np.bincount(parts).argmax() - 1  # -1 outside parts
        begin, end = truth.true_phrases[example, part] if part >= 0 else (-1, -1)
        if begin >= 0:
            found[region] = truth.captions[example][begin:end]
    return found


def requests_of(pipeline: Pipeline, data: Path, examples: int) -> tuple[list[Any], Truth]:
    """Pairs of requests without and with phrases, and the truth."""
    stage = pipeline.leading
    config = with_fields(
        stage.config, {"data.dir": str(data), "evaluation_examples": examples, "seed": 0}
    )
    batch, truth = held_out_for(config, stage.config, stage.tokenizer)
    pairs = []
    for i in range(len(truth.captions)):
        sketch, labels = truth.sketch_u8[i], np.asarray(batch.labels[i])
        count = int(labels.max()) + 1
        numbered = NumberedRegions.of(Regions(labels, count, np.zeros(count, bool)))
        page = SketchPage(sketch, sketch, None, sketch.shape, sketch, numbered)

        def request(prompts: dict[int, str], i: int = i, page: Any = page) -> Request:
            made = pipeline.request(page, truth.captions[i], prompts)
            graph = jax.tree.map(lambda x: x[i : i + 1], batch.graph)
            return made._replace(batch=made.batch._replace(graph=graph))

        pairs.append((request({}), request(phrases_of(truth, i, labels))))
    return pairs, truth


def measure(pipeline: Pipeline, pairs: Sequence[Any], truth: Truth) -> dict[str, Any]:
    """The values of `score.values_of` of each of `WAYS`."""
    found = {}
    for way, (arguments, phrases) in WAYS.items():
        options = pipeline.options(**arguments)
        images = []
        for i, pair in enumerate(tqdm(pairs, way)):
            (finished,) = pipeline.run([pair[phrases]], [i], options)
            images.append(finished.images[0])
        found[way] = values_of(np.stack(images), truth)
    return found


def rows_of(found: dict[str, Any]) -> list[Row]:
    """A row for each way."""
    hits = {way: hits_by_part([{"seed": 0, "way": x}], "way") for way, x in found.items()}
    rows: list[Row] = []
    for way, values in found.items():
        every = scores([values])
        row: Row = {"": way, **{name: every[name] for name in SHOWN}}
        if way == COMPARED:
            row |= {"against RAGAF": None, "p": None}
        else:
            row |= difference(hits[way], hits[COMPARED])
        rows.append(row)
    return rows


def main(argv: list[str]) -> None:
    """Measures and prints."""
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    keep_freed_memory()
    pipeline = Pipeline.restore(FLAGS.stage1, FLAGS.stage2)
    found = measure(pipeline, *requests_of(pipeline, Path(FLAGS.data), FLAGS.examples))
    print(table(rows_of(found)))
    if FLAGS.json:
        facts = {"machine": cpu_model(), "versions": versions("jax", "flax")}
        ways = {way: {name: values[name] for name in KEPT} for way, values in found.items()}
        write_json(Path(FLAGS.json), {**facts, "ways": ways})


if __name__ == "__main__":
    define_flags()
    run_cli(main)
