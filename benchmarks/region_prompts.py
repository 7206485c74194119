"""Region prompts: do they change their own region and nothing else?

    python -m benchmarks.region_prompts                    # 50 drawings: 12 minutes on 2 CPU cores
    python -m benchmarks.region_prompts --json=results.json # also writes JSON

Prints Markdown. Held-out OpenMoji sketches are sampled with their caption, then with the same seed
and "blue" for one of their two largest regions, "red" for the other; then vice versa. A region's
colour is the palette colour nearest to its median without lines. Other regions, including the
paper, are compared with the first image by the ΔE2000 of their mean colours. The prompts act by
RAGAF in Stage 2, or without training by cross-attention that is restricted by region, in Stage 1
alone or in both stages. "In the prompt" has the two words after the caption instead.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags, logging
from jaxtyping import Bool, UInt8
from tqdm import tqdm

from benchmarks.machine import cpu_model, versions
from benchmarks.report import Row, table, write_json
from benchmarks.timing import ROOT
from input_pipeline.datasets.openmoji_art import (
    find_drawings,
    read_svg,
    render_lines,
    render_paint,
)
from input_pipeline.datasets.recolor import Recolorer
from input_pipeline.datasets.scanning.splits import stable_hash
from ragaf_jax.errors import run_cli
from ragaf_jax.evaluation.metrics.colors import MIN_PIXELS, PAPER
from ragaf_jax.evaluation.metrics.delta_e import delta_e_2000
from ragaf_jax.palette import PALETTE, nearest, srgb_to_lab
from ragaf_jax.runtime.compilation_cache import keep_compiled
from ragaf_jax.runtime.heap import keep_freed_memory
from ragaf_jax.sampling.options import OptionArguments
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.request import SketchPage

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("stage1", str(ROOT / "pretrained/openmoji/stage1"), "Workdir of Stage 1.")
    flags.DEFINE_string("stage2", str(ROOT / "pretrained/openmoji/stage2"), "Workdir of Stage 2.")
    flags.DEFINE_integer("drawings", 50, "Number of sketches.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the images.")
    flags.DEFINE_string("json", None, "Output file.")


WORDS = ("blue", "red")
LEAST = 20  # smallest area, px without lines, of a region with a prompt
NEAR = 10  # largest ΔE2000 of an unchanged region

RgbImage = UInt8[np.ndarray, "s s 3"]


class Effect(NamedTuple):
    """The effect of prompts for two regions on one image.

    Attributes:
      hits: whether each has the requested colour.
      apart: ΔE2000 of each other region from the first image.
    """

    hits: tuple[bool, bool]
    apart: list[float]


def held_out(pipeline: Pipeline) -> Iterator[tuple[SketchPage, str, list[int]]]:
    """Test sketches with two regions of sufficient size: page, caption, and these regions.

    Captions too long for two more words are left out.
    """
    stage = pipeline.leading
    size = stage.model.image_size
    drawings = [drawing for drawing in find_drawings() if drawing.split == "test"]
    for drawing in sorted(drawings, key=lambda drawing: stable_hash(drawing.key)):
        root = read_svg(drawing.path)
        lines = render_lines(root, pipeline.page_size)
        recolorer = Recolorer(drawing.name, render_paint(root, pipeline.page_size), lines, size)
        if not recolorer.phrases:
            continue
        page = pipeline.page(lines)
        background = page.numbered.regions.background
        prompted = [
            region
            for region, paint in enumerate(paint_of(page))
            if paint.sum() >= LEAST and not background[region]
        ][: len(WORDS)]
        caption = recolorer.paint(seed=f"{drawing.key}/0").caption
        whole = stage.tokenizer.count(", ".join((caption, *WORDS)))[0]
        if len(prompted) == len(WORDS) and whole <= stage.model.text_length:
            yield page, caption, prompted


def paint_of(page: SketchPage) -> list[Bool[np.ndarray, "s s"]]:
    """The pixels of each region without lines."""
    regions, paper = page.numbered.regions, page.sketch >= PAPER
    return [(regions.labels == region) & paper for region in range(regions.n)]


def effect(
    before: RgbImage,
    after: RgbImage,
    page: SketchPage,
    prompted: Sequence[int],
    words: Sequence[str],
) -> Effect:
    """Compares two images of a sketch; `prompted` are the regions of `words`."""
    paints = paint_of(page)
    shown = np.array([np.median(after[paints[region]], 0) for region in prompted])
    named = [PALETTE[color] for color in nearest(shown)]
    others = [
        paint
        for region, paint in enumerate(paints)
        if region not in prompted and paint.sum() >= MIN_PIXELS
    ]
    means = [np.array([image[paint].mean(0) for paint in others]) for image in (before, after)]
    labs = [srgb_to_lab(mean.reshape(-1, 3)) for mean in means]
    first, second = (name == word for name, word in zip(named, words, strict=True))
    return Effect((first, second), delta_e_2000(*labs).tolist())


# Options of each way to give the words; "in the prompt" has no region prompts.
WAYS: dict[str, OptionArguments] = {
    "for the regions, by RAGAF": {"region_method": "ragaf"},
    "for the regions, by attention in Stage 1 alone": {"region_method": "attention", "stages": "1"},
    "for the regions, by attention in both stages": {"region_method": "attention"},
    "in the prompt": {},
}


def measure(pipeline: Pipeline, count: int, seed: int) -> dict[str, list[Effect]]:
    """The effects of each of `WAYS`."""
    found: dict[str, list[Effect]] = {way: [] for way in WAYS}
    drawings = held_out(pipeline)
    for page, caption, prompted in tqdm(itertools.islice(drawings, count), "drawings", count):

        def sampled(
            prompt: str,
            prompts: dict[int, str] | None = None,
            options: OptionArguments = {},  # noqa: B006
            page: SketchPage = page,
        ) -> RgbImage:
            return pipeline(page, prompt, prompts, seed=seed, **options).images[0]

        before = {stages: sampled(caption, None, {"stages": stages}) for stages in ("1", "both")}
        for words in (WORDS, WORDS[::-1]):
            prompts = dict(zip(prompted, words, strict=True))
            for way, options in WAYS.items():
                regional = way != "in the prompt"
                text = caption if regional else ", ".join((caption, *words))
                after = sampled(text, prompts if regional else None, options)
                first = before[options.get("stages", "both")]
                found[way].append(effect(first, after, page, prompted, words))
    return found


def row_of(way: str, effects: Sequence[Effect]) -> Row:
    """Shares of regions and of images; each sketch has two images."""
    hits = np.array([effect.hits for effect in effects])
    apart = np.concatenate([effect.apart for effect in effects])
    unchanged = np.array([max(effect.apart, default=0) <= NEAR for effect in effects])
    return {
        "the words are": way,
        "regions that have their colour": round(float(hits.mean()), 3),
        "drawings in which both have": round(float(hits.all(1).mean()), 3),
        "other regions within ΔE 10": round(float((apart <= NEAR).mean()), 3),
        "drawings in which all others are": round(float(unchanged.mean()), 3),
        "drawings with both": round(float((hits.all(1) & unchanged).mean()), 3),
    }


def main(argv: list[str]) -> None:
    """Measures and prints."""
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    keep_freed_memory()
    pipeline = Pipeline.restore(FLAGS.stage1, FLAGS.stage2)
    found = measure(pipeline, FLAGS.drawings, FLAGS.seed)
    rows = [row_of(way, effects) for way, effects in found.items()]
    print(table(rows))
    if FLAGS.json:
        results = {
            "machine": cpu_model(),
            "versions": versions("jax", "flax"),
            "drawings": len(found["in the prompt"]) // 2,
            "seed": FLAGS.seed,
            "rows": rows,
            "effects": {
                way: [
                    {"hits": effect.hits, "apart": np.round(effect.apart, 2).tolist()}
                    for effect in effects
                ]
                for way, effects in found.items()
            },
        }
        write_json(Path(FLAGS.json), results)


if __name__ == "__main__":
    define_flags()
    run_cli(main)
