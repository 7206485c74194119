"""The output folder of a call: images, figures, prompt and metadata."""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ragaf_jax import __version__
from ragaf_jax.figures.graph import draw_graph, draw_regions
from ragaf_jax.figures.results import comparison, fusion_curves
from ragaf_jax.figures.upscaled import upscaled
from ragaf_jax.sampling.denoising import TRACE_LEVELS
from ragaf_jax.sampling.numbered import label_image, region_properties
from ragaf_jax.sampling.recorded import METADATA
from ragaf_jax.sampling.request import SketchPage
from ragaf_jax.sampling.results import Result

_PNG_NAMES = (
    "sketch",
    "regions",
    "labels",
    "region_graph",
    "comparison",
    "attention_maps",
    "fusion",
    "stage1_output",
    "stage2_output",
    "stage1_upscaled",
    "stage2_upscaled",
)
IMAGES = "images"  # subfolder with the images of several seeds
FILES = {*(f"{name}.png" for name in _PNG_NAMES), "prompt.txt", "regions.json", METADATA, IMAGES}
_AVERAGED = {"attention_averaged_over_timesteps": [f"{level} T" for level in TRACE_LEVELS]}
PACKAGES = ("jax", "flax", "numpy", "jraph", "opencv-python-headless", "pillow", "tokenizers")


def write_regions(folder: Path, page: SketchPage) -> None:
    """Writes the files about the regions, which need no image.

    sketch.png: the page. regions.png: regions with their numbers. labels.png: the number of each
    pixel, for editing and --labels. regions.json: properties of each region.
    """
    regions, numbers = page.numbered
    images = {
        "sketch": page.page,
        "regions": draw_regions(page.page, regions, numbers),
        "labels": label_image(page.numbered, len(page.page)),
    }
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    text = json.dumps(region_properties(page.numbered), indent=1)
    (folder / "regions.json").write_text(f"{text}\n", encoding="utf-8")


def write_outputs(folder: Path, result: Result, facts: Mapping[str, Any], upscale: int) -> None:
    """Writes all files of one result into an existing folder; arguments as in `Result.save`."""
    write_regions(folder, result.sketch_page)
    page, numbers, by_stage = result.sketch_page.page, result.numbers, _by_stage(result)
    seeds = [result.settings["seed"] + i for i in range(len(result.images))]
    text = "; ".join(result.request.prompts.splitlines())
    captions = [text] if len(seeds) == 1 else [f"seed {seed}: {text}" for seed in seeds]
    given = {} if result.given is None else {"given image": np.stack([result.given] * len(seeds))}
    images = {
        "region_graph": draw_graph(page, result.regions, result.request.graph, numbers),
        **{f"{stage.replace(' ', '')}_output": images[0] for stage, images in by_stage.items()},
        "comparison": comparison(result.sketch, given | by_stage, captions),
    }
    if (maps := result.attention_maps) is not None and result.fusion is not None:
        images["attention_maps"] = maps
        images["fusion"] = fusion_curves(TRACE_LEVELS, result.fusion[:, 0], numbers)
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    if len(seeds) > 1:
        (folder / IMAGES).mkdir()
        for seed, image in zip(seeds, result.images, strict=True):
            Image.fromarray(image).save(folder / IMAGES / f"{seed}.png")
    larger = upscale > max(result.images.shape[1:3])
    if larger:
        _write_upscaled(folder, result, seeds, upscale)
    (folder / "prompt.txt").write_text(f"{result.request.prompts}\n", encoding="utf-8")
    metadata = {**result.settings, **facts, **_run_facts(result)}
    metadata["upscaled_size"] = upscale if larger else None
    written = json.dumps(metadata, indent=2, ensure_ascii=False)
    (folder / METADATA).write_text(f"{written}\n", encoding="utf-8")


def _by_stage(result: Result) -> dict[str, UInt8[np.ndarray, "n h w 3"]]:
    """The images of each stage that sampled, by column title."""
    stages = result.settings["stages"]
    if stages == "1":
        return {"stage 1": result.images}
    if stages == "both" and result.coarse is not None:
        return {"stage 1": result.coarse, "stage 2": result.images}
    return {"stage 2": result.images}


def _write_upscaled(folder: Path, result: Result, seeds: Sequence[int], side: int) -> None:
    """Upscales the first image of the last stage, and with several seeds each image."""
    stage = 1 if result.settings["stages"] == "1" else 2
    for seed, image in zip(seeds, result.images, strict=True):
        large = Image.fromarray(upscaled(image, result.sketch_page.lines, side))
        if seed == seeds[0]:
            large.save(folder / f"stage{stage}_upscaled.png")
        if len(seeds) > 1:
            large.save(folder / IMAGES / f"{seed}_upscaled.png")


def _run_facts(result: Result) -> dict[str, Any]:
    device, crop = jax.devices()[0], result.sketch_page.crop
    height, width = result.sketch_page.size
    return {
        "image_size": {"width": width, "height": height},
        "cropped_to": None if crop is None else crop._asdict(),
        "regions": result.regions.n,
        "edges": len(result.request.graph.senders),
        **({} if result.attention is None else _AVERAGED),
        "notices": result.notices,
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"{device.platform}: {device.device_kind}",
        "versions": {
            "ragaf_jax": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }
