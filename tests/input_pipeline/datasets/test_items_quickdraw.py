"""Quick, Draw!: its lines, their rendering, and whatever is wrong in them."""

import io
import json
import pickle

import numpy as np
import pytest
from photo_trees import write_quickdraw
from PIL import Image

from input_pipeline.datasets.quickdraw import scan
from input_pipeline.datasets.scanning.containers import content_of, path_of
from input_pipeline.datasets.scanning.strokes import rendered
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import Execution, prepare
from ragaf_jax.errors import UserError


def pixels(drawing):
    png = rendered(json.dumps({"drawing": drawing}).encode())
    return np.asarray(Image.open(io.BytesIO(png)))


def test_recognised_drawings_are_read_with_their_words(rng, tmp_path):
    lines = write_quickdraw(tmp_path, rng)
    found = scan(tmp_path)
    assert found.rejected == [] and found.held == ("validation", "test")
    assert {item.key for item in found.items} == {f"{x['word']}/{x['key_id']}" for x in lines}
    assert {item.captions[0] for item in found.items} == {
        "A sketch of a cat",
        "A sketch of an alarm clock",
    }
    for item in found.items:
        assert item.image == item.sketch and item.key.startswith(f"{item.category}/")
    assert pickle.loads(pickle.dumps(found)) == found
    named = scan(tmp_path, "*_{cat,cat*}.ndjson")
    assert {item.category for item in named.items} == {"cat"}


def test_strokes_lie_where_their_points_are():
    square = pixels([[[0, 100, 100, 0, 0], [0, 0, 100, 100, 0]]])
    assert square.shape == (256, 256) and square.dtype == np.uint8
    # Lines at the margin of 16 px, symmetric; paper inside and outside.
    assert (square[16:19, 30:200] < 255).any(0).all() and (square[30:200, 30:200] == 255).all()
    assert (square[:12] == 255).all()
    assert np.abs(square.astype(int) - square[::-1]).mean() < 5
    assert (pixels([[[5, 9], [3, 3], [0, 1]]]) == pixels([[[50, 90], [30, 30]]])).all()
    wide = np.argwhere(pixels([[[0, 300], [0, 0]]]) < 128)
    assert wide[:, 1].min() <= 18 and wide[:, 1].max() >= 237 and np.ptp(wide[:, 0]) <= 5
    assert (pixels([[[7], [7]]]) < 255).any()  # a dot


@pytest.mark.parametrize(
    "drawing, reason",
    [
        ([], "no strokes"),
        ([[[], []]], "no strokes"),
        ([[[1, 2], [3]]], "not lists of numbers"),
        ([[[1, 2]]], "as many x as y"),
        ([["ab", "cd"]], "not lists of numbers"),
        ([3], "not lists of numbers"),
        ([[[1e300, 2], [3, 4]]], "no coordinates"),
        ([[[float("nan"), 2], [3, 4]]], "no coordinates"),
        ([[[None, 2], [3, 4]]], "no coordinates"),
        (None, "not lists of numbers"),
    ],
)
def test_lists_that_are_no_drawings(drawing, reason):
    with pytest.raises(ValueError, match=reason):
        pixels(drawing)


def test_lines_that_cannot_be_used_are_listed(rng, tmp_path):
    root, data = tmp_path / "root", tmp_path / "data"
    lines = write_quickdraw(root, rng)
    (root / "odd.ndjson").write_text(
        "\n".join(["{", "", json.dumps([3]), json.dumps(lines[0] | {"drawing": [[[1], []]]})])
        + "\n"
        + json.dumps({"word": "a", "key_id": "1", "drawing": [[[1], [2, 3]]]})
    )
    options = Options(32, root=root)
    (folder,) = prepare("quickdraw", data, options, Execution(max_rejected=0.5))
    rejected = map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())
    found = {line["file"]: line["reason"] for line in rejected}
    assert set(found) == {f"odd.ndjson:{line}" for line in (1, 3, 4, 5)}
    assert "earlier line" in found["odd.ndjson:4"] and "numbers x and y" in found["odd.ndjson:5"]
    place = scan(root).items[-1].image
    assert path_of(place).name.startswith("full_") and content_of(place)[1:4] == b"PNG"
    with pytest.raises(UserError, match=r"^There are no files \*.ndjson"):
        scan(folder)
