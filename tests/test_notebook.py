"""The notebook runs from its first cell to its last and shows the images of the pipeline."""

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

from ragaf_jax.figures.results import comparison
from ragaf_jax.nets.ragaf import RagafTrace
from ragaf_jax.sampling.denoising import TRACE_LEVELS
from ragaf_jax.sampling.loop import Finished, Progress
from ragaf_jax.sampling.pipeline import Pipeline

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "sampling.ipynb"


def pictures_of(cell):
    """The images that a cell shows."""
    return [
        np.array(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))))
        for output in cell.outputs
        if "data" in output and "image/png" in output.data
    ]


def read():
    """The notebook and its cells of code."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def noise(self, requests, seeds, options, images=None, every=None, *, preview=True):
    """Random images and traces of the shapes of `Pipeline.stream`."""
    rng, count, model = np.random.default_rng(0), len(requests), self.leading.model
    pictures = rng.integers(0, 256, (count, *(model.image_size,) * 2, 3)).astype(np.uint8)
    if every is not None:
        for stage in (1, 2):
            for step in range(every, options.steps + 1, every):
                yield Progress(stage, step, options.steps, pictures)
    shape = len(TRACE_LEVELS), count, model.max_regions
    shares = rng.dirichlet(np.ones(model.text_length), shape).astype(np.float32)
    fusion = rng.dirichlet(np.ones(2), shape).astype(np.float32)
    trace = RagafTrace(shares, fusion, np.zeros((*shape, 4), np.float32))
    yield Finished(pictures, pictures, trace)


def test_every_cell_shows_a_picture(monkeypatch):
    """Noise replaces the images of the networks."""
    notebook, code = read()
    nbformat.validate(notebook)
    assert not any(cell.outputs for cell in code)  # none are committed
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr("ragaf_jax.sampling.pipeline.keep_compiled", lambda: None)
    monkeypatch.setattr(Pipeline, "stream", noise)
    known = {}
    exec(code[0].source, known)
    for cell in code[1:]:
        *lines, last = ast.parse(cell.source).body
        assert isinstance(last, ast.Expr), cell.source
        exec(compile(ast.Module(lines, []), "cell", "exec"), known)
        shown = eval(compile(ast.Expression(last.value), "cell", "eval"), known)
        assert isinstance(shown, Image.Image), cell.source
        assert len(np.unique(np.asarray(shown))) > 1, cell.source


@pytest.mark.notebook
@pytest.mark.slow
def test_the_notebook(monkeypatch):
    notebook, code = read()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
    assert all(len(pictures_of(cell)) == 1 for cell in code[1:])

    # The same seed gives the same image here.
    prompt = next(
        line.split('"')[1] for line in code[2].source.splitlines() if line.startswith("prompt")
    )
    pretrained = ROOT / "pretrained" / "openmoji"
    pipeline = Pipeline.restore(pretrained / "stage1", pretrained / "stage2")
    result = pipeline(ROOT / "docs" / "images" / "ping_pong.png", prompt, seed=42)
    columns = {"stage 1": result.coarse, "stage 2": result.images}
    expected = comparison(result.sketch, columns, [prompt]).astype(int)
    (shown,) = pictures_of(code[3])
    assert np.abs(shown - expected).max() <= 2
