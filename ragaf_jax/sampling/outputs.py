"""The folder that one call of the pipeline leaves: pictures, figures, prompt and metadata."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ragaf_jax import __version__
from ragaf_jax.errors import UserError
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
PACKAGES = ("jax", "flax", "numpy", "jraph", "opencv-python-headless", "pillow", "tokenizers")


def check_writable(folder: Path) -> None:
    """Refuses, before any work is done, a place where `whole_folder` could not write.

    Raises:
      UserError: `folder` is a file, holds something else than an earlier output, or lies where
        nothing may be written.
    """
    if folder.is_dir():
        if not {path.name for path in folder.iterdir()} <= FILES:
            raise UserError(
                f"The output folder {folder} holds other files; name a new one or empty it."
            )
    elif folder.exists():
        raise UserError(f"The output {folder} is a file; name a folder.")
    existing = next(parent for parent in folder.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"The output {folder} cannot be made, because {existing} cannot be written to; name "
            "another folder."
        )


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place at the end, or vanishes on an error."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise UserError(
            f"The output {folder} cannot be written: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


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
    pictures = (
        page,
        draw_regions(s, r),
        draw_graph(s, r, result.graph),
        result.stage1,
        result.stage2,
        comparison(s, result.stage1, result.stage2, prompt),
        attention_maps(s, r.labels, result.attention, result.pieces, result.fusion),
    )
    for name, picture in zip(PICTURES, pictures, strict=True):
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
        "attention_averaged_over_timesteps": [f"{level} T" for level in TRACE_LEVELS],
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
