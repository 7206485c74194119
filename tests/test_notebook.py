"""The notebook runs from its first cell to its last, and draws what the pipeline draws."""

import ast
import base64
import io
import os
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from ragaf_jax.sampling.figures import comparison
from ragaf_jax.sampling.pipeline import Pipeline

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "sampling.ipynb"


def pictures_of(cell):
    """The pictures that a cell shows."""
    return [
        np.array(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))))
        for output in cell.outputs
        if "data" in output and "image/png" in output.data
    ]


def read():
    """The notebook and its cells of code."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
    assert all(len(pictures_of(cell)) == 1 for cell in code[1:])

    # The same seed, the same picture, here.
    prompt = next(
        line.split('"')[1] for line in code[2].source.splitlines() if line.startswith("prompt")
    )
    pretrained = ROOT / "pretrained" / "openmoji"
    pipeline = Pipeline.restore(pretrained / "stage1", pretrained / "stage2")
    result = pipeline(ROOT / "docs" / "images" / "ping_pong.png", prompt, seed=42)
    made = {"stage 1": result.coarse, "stage 2": result.images}
    expected = comparison(result.sketch, made, [prompt]).astype(int)
    (shown,) = pictures_of(code[3])
    # The suite compiles without optimizations and the notebook with: rounding may differ.
    assert np.abs(shown - expected).max() <= 2
