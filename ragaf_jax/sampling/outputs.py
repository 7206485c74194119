"""The folder that one call of the pipeline leaves: pictures, figures, prompt and metadata."""

import datetime
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ragaf_jax import __version__
from ragaf_jax.graph.draw import draw_graph, draw_regions
from ragaf_jax.sampling.attention_figure import attention_maps
from ragaf_jax.sampling.figures import comparison
from ragaf_jax.sampling.generate import TRACE_LEVELS
from ragaf_jax.sampling.pipeline import Result

METADATA = "metadata.json"
PICTURES = (
    "sketch",
    "regions",
    "region_graph",
    "stage1_output",
    "stage2_output",
    "comparison",
    "attention_maps",
)
FILES = {*(f"{name}.png" for name in PICTURES), "prompt.txt", METADATA}
_AVERAGED = {"attention_averaged_over_timesteps": [f"{level} T" for level in TRACE_LEVELS]}
PACKAGES = ("jax", "flax", "numpy", "jraph", "opencv-python-headless", "pillow", "tokenizers")


def write_outputs(
    folder: Path,
    page: UInt8[np.ndarray, "page page"],
    prompt: str,
    result: Result,
    facts: dict[str, Any],
) -> None:
    """Writes all files of one result into an existing folder.

    Args:
      folder: where to.
      page: the drawing as it was read.
      prompt: the text.
      result: what the pipeline made of both.
      facts: what else metadata.json is to say.
    """
    s, r = result.sketch, result.regions
    pictures = {
        "sketch": page,
        "regions": draw_regions(s, r),
        "region_graph": draw_graph(s, r, result.graph),
        "stage1_output": result.stage1,
        "stage2_output": result.stage2,
        "comparison": comparison(s, result.stage1, result.stage2, prompt),
    }
    if result.attention is not None and result.fusion is not None:
        pictures["attention_maps"] = attention_maps(
            s, r.labels, result.attention, result.pieces, result.fusion
        )
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    (folder / "prompt.txt").write_text(f"{prompt}\n", encoding="utf-8")
    metadata = {"prompt": prompt, **result.settings, **facts, **_circumstances(result)}
    text = json.dumps(metadata, indent=2, ensure_ascii=False)
    (folder / METADATA).write_text(f"{text}\n", encoding="utf-8")


def _circumstances(result: Result) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "image_size": result.stage2.shape[0],
        "regions": result.regions.n,
        "edges": len(result.graph.senders),
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
