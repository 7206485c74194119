"""Image files from users."""

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from photo_trees import photograph, random_photo
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo

from ragaf_jax.errors import UserError
from ragaf_jax.framing import crop_to, letterboxed, resized
from ragaf_jax.images import MAX_PIXELS, check_same_aspect, read_grey, read_rgb
from ragaf_jax.sketch_input import to_page

READERS = (read_grey, read_rgb)


@pytest.fixture
def photo(rng):
    return random_photo(rng, *rng.integers(90, 200, 2))


def saved(folder: Path, image, name="a.png", **options) -> Path:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(folder / name, **options)
    return folder / name


def encoded(pixels, extension) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


def difference(a, b):
    assert a.shape == b.shape and a.dtype == np.uint8
    return np.abs(a.astype(float) - b)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.PNG"])
def test_lossless_colours_are_exact(photo, tmp_path, name):
    np.testing.assert_array_equal(read_rgb(saved(tmp_path, photo, name)), photo)


@pytest.mark.parametrize("extension", [".jpg", ".webp", ".jp2", ".avif"])
def test_lossy_formats_agree_with_opencv(photo, tmp_path, extension):
    path = tmp_path / f"a{extension}"
    path.write_bytes(encoded(photo, extension))
    expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert difference(read_rgb(path), expected).mean() < 1


def test_the_name_says_nothing_about_the_format(photo, tmp_path):
    path = saved(tmp_path, photo, format="PNG", name="a.svg")
    np.testing.assert_array_equal(read_rgb(path), photo)


@pytest.mark.parametrize("bits", [1, 2, 8, 16])
def test_grey_of_any_depth(rng, tmp_path, bits):
    grey = random_photo(rng, 100, 120)[..., 1]
    deep = {
        1: Image.fromarray(grey > 127),
        2: Image.fromarray(grey // 64 * 85).quantize(4),
        8: Image.fromarray(grey),
        16: Image.fromarray(grey.astype(np.uint16) * 256 + rng.integers(256, dtype=np.uint16)),
    }[bits]
    path = saved(tmp_path, deep)
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == (np.uint16 if bits == 16 else np.uint8)
    expected = stored / 257 if bits == 16 else stored
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    assert difference(read_rgb(path), expected).max() <= 0.5


def test_a_dark_picture_of_16_bits_stays_dark(rng, tmp_path):
    dark = rng.integers(0, 5000, (40, 50), dtype=np.uint16)
    result = read_rgb(saved(tmp_path, Image.fromarray(dark)))
    assert difference(result[..., 0], dark / 257).max() <= 0.5
    # A sketch is scaled to its brightest: scanners write 12 bits.
    assert read_grey(tmp_path / "a.png").max() == 255


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_colours_of_16_bits(rng, tmp_path, extension):
    deep = rng.integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    (tmp_path / f"a{extension}").write_bytes(encoded(deep[..., ::-1], extension))
    assert difference(read_rgb(tmp_path / f"a{extension}"), deep / 257).max() <= 1


def test_a_float_picture_spans_the_whole_range(rng, tmp_path):
    values = rng.uniform(0, 3, (30, 40)).astype(np.float32)
    result = read_rgb(saved(tmp_path, Image.fromarray(values), "a.tif"))
    assert difference(result[..., 2], values / values.max() * 255).max() <= 0.51


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_cmyk(photo, tmp_path, name):
    ink = np.dstack([255 - photo, np.full(photo.shape[:2], 30, np.uint8)])
    path = saved(tmp_path, Image.fromarray(ink, "CMYK"), name)
    expected = photo * (225 / 255)
    assert difference(read_rgb(path), expected).mean() < (6 if name == "a.jpg" else 1)


def test_ycbcr(photo, tmp_path):
    ycbcr = Image.fromarray(photo).convert("YCbCr")
    path = saved(tmp_path, ycbcr, "a.tif", compression="tiff_lzw")
    assert difference(read_rgb(path), photo).max() <= 3


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_palette(photo, tmp_path, name):
    image = Image.fromarray(photo).quantize(64)
    expected = np.array(image.getpalette()).reshape(-1, 3)[np.array(image)]
    np.testing.assert_array_equal(read_rgb(saved(tmp_path, image, name)), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_what_is_transparent_lies_on_white(rng, photo, tmp_path, name):
    alpha = rng.integers(0, 256, photo.shape[:2], dtype=np.uint8)
    image = Image.fromarray(np.dstack([photo, alpha]))
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    opacity = alpha[..., None] / 255
    expected = opacity * photo + (1 - opacity) * 255
    result = read_rgb(saved(tmp_path, image, name, **options))
    assert difference(result, expected).max() <= 1.01


def test_transparency_of_grey_and_of_a_palette(rng, tmp_path):
    grey = random_photo(rng, 60, 80)[..., 0]
    alpha = np.where(rng.random(grey.shape) < 0.5, 0, 255).astype(np.uint8)
    expected = np.repeat(np.where(alpha, grey, 255)[..., None], 3, axis=2)
    path = saved(tmp_path, Image.fromarray(np.dstack([grey, alpha])))
    assert Image.open(path).mode == "LA"
    np.testing.assert_array_equal(read_rgb(path), expected)

    image = Image.fromarray(random_photo(rng, 60, 80)).quantize(16)
    indices, colors = np.array(image), np.array(image.getpalette()).reshape(-1, 3)
    clear = int(rng.integers(len(colors)))
    colors[clear] = 255
    path = saved(tmp_path, image, "b.png", transparency=clear)
    np.testing.assert_array_equal(read_rgb(path), colors[indices])


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
@pytest.mark.parametrize("reader", READERS)
def test_the_first_frame_of_an_animation(rng, tmp_path, name, reader):
    frames = [Image.fromarray(random_photo(rng, 60, 80)[..., 0]).quantize(128) for _ in range(3)]
    options = {"lossless": True} if name == "a.webp" else {}
    frames = [frame.convert("RGB") for frame in frames] if name != "a.gif" else frames
    path = saved(
        tmp_path, frames[0], name, save_all=True, append_images=frames[1:], duration=50, **options
    )
    assert Image.open(path).n_frames == 3
    expected = np.array(frames[0].convert("RGB"))
    assert difference(reader(path), expected if reader is read_rgb else expected[..., 0]).max() <= 1


# By the definition of the tag in EXIF 2.3: where row 0 and column 0 of the file belong.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_exif_rotation(photo, tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "a.webp" else {}
    stored = np.ascontiguousarray(STORED[orientation](photo))
    path = saved(tmp_path, stored, name, exif=exif, **options)
    np.testing.assert_array_equal(read_rgb(path), photo)


def test_exif_rotation_as_opencv_does_it(photo, tmp_path):
    for orientation in STORED:
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path, photo, "a.jpg", exif=exif)
        expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        assert difference(read_rgb(path), expected).mean() < 1


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12"])
def test_broken_exif_data_does_no_harm(photo, tmp_path, exif):
    path = saved(tmp_path, photo, "a.jpg", exif=exif, quality=95)
    assert difference(read_rgb(path), photo).mean() < 4


def profile_with_red_and_green_exchanged() -> bytes:
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert content.count(b"rXYZ") == content.count(b"gXYZ") == 1
    return content.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_colour_profile_is_applied(photo, tmp_path, name, transparent):
    profile = profile_with_red_and_green_exchanged()
    image = Image.fromarray(photo)
    if transparent:
        image.putalpha(255)
    options = {"lossless": True} if name == "a.webp" else {}
    result = read_rgb(saved(tmp_path, image, name, icc_profile=profile, **options))
    assert difference(result, photo[..., [1, 0, 2]]).max() <= 2


def test_the_usual_profile_changes_nothing(photo, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(read_rgb(saved(tmp_path, photo, icc_profile=profile)), photo).max() <= 1


def test_a_profile_that_cannot_be_used_is_ignored(rng, photo, tmp_path):
    garbage = rng.bytes(400)
    np.testing.assert_array_equal(read_rgb(saved(tmp_path, photo, icc_profile=garbage)), photo)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = photo[..., 1]  # a profile of three channels
    result = read_rgb(saved(tmp_path, grey, icc_profile=profile))
    assert difference(result, np.repeat(grey[..., None], 3, axis=2)).max() <= 1


def test_a_drawing_that_is_mentioned_is_no_drawing(photo, tmp_path):
    info = PngInfo()
    info.add_text("source", "<svg viewBox='0 0 9 9'>")
    np.testing.assert_array_equal(read_rgb(saved(tmp_path, photo, pnginfo=info)), photo)


def png_header(width, height) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT"


def gif_header(width, height) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00;"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame


def jpeg_header(width, height) -> bytes:
    content = encoded(np.zeros((8, 8, 3), np.uint8), ".jpg")
    size = content.index(b"\xff\xc0") + 5
    return content[:size] + struct.pack(">HH", height, width) + content[size + 4 :]


def bmp_header(width, height) -> bytes:
    content = encoded(np.zeros((8, 8, 3), np.uint8), ".bmp")
    return content[:18] + struct.pack("<ii", width, height) + content[26:]


def tiff_header(width, height) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (7, 9)).save(file, "TIFF")
    content = file.getvalue()
    for tag, old, new in ((256, 7, width), (257, 9, height)):
        at = content.index(struct.pack("<HHI", tag, 4, 1) + struct.pack("<I", old))
        content = content[: at + 8] + struct.pack("<I", new) + content[at + 12 :]
    return content


HEADERS = (png_header, gif_header, jpeg_header, bmp_header, tiff_header)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("reader", READERS)
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch, header, reader):
    for width, height in ((50_000, 50_000), (MAX_PIXELS // 10_000 + 1, 10_000)):
        (tmp_path / f"{width}").write_bytes(header(width, height))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    for path in tmp_path.iterdir():
        with pytest.raises(UserError, match="has more than 100 million pixels"):
            reader(path)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch x) (w) file\n"
SVG = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"
NOT_IMAGES = {
    "empty": (b"", "is empty"),
    "text": (b"not a picture at all\n" * 20, "is not an image"),
    "html": (b"<!DOCTYPE html><html><title>404</title></html>", "is not an image"),
    "svg": (SVG, "is an SVG drawing"),
    "postscript": (EPS, "is not an image"),
    "magic alone": (b"\x89PNG\r\n\x1a\n", "is not an image|is damaged"),
    "header alone": (png_header(50, 50), "is damaged"),
}


@pytest.mark.parametrize("case", NOT_IMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_picture_ends_in_one_sentence(tmp_path, case, reader):
    content, expected = NOT_IMAGES[case]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        reader(path)
    sentence = str(caught.value)
    kind = "sketch" if reader is read_grey else "image"
    assert sentence.startswith(f"The {kind} {path} ")
    assert sentence.endswith(".") and "\n" not in sentence


def test_an_image_in_a_format_that_is_not_read_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "a.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(UserError, match="is a .heic file, which is not read; save it as PNG"):
        read_grey(path)


def test_random_bytes_end_in_one_sentence(rng, tmp_path):
    path = tmp_path / "a.jpg"
    whole = encoded(photograph("coffee")[:60, :60], ".png")
    for _ in range(20):
        garbled = bytearray(whole)
        for at in rng.integers(8, len(whole), 20):
            garbled[at] = rng.integers(256)
        for content in (rng.bytes(1000), b"\xff\xd8\xff\xe0" + rng.bytes(1000), bytes(garbled)):
            path.write_bytes(content)
            with pytest.raises(UserError, match="not an image|damaged|million pixels"):
                read_rgb(path)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif", ".webp", ".gif", ".bmp", ".jp2"])
@pytest.mark.parametrize("reader", READERS)
def test_a_truncated_picture_ends_in_one_sentence(photo, tmp_path, extension, reader):
    path = saved(tmp_path, photo, f"a{extension}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged|is not an image"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_ends_in_one_sentence(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, expected in (
        (tmp_path, "is a folder; give an image file"),
        (tmp_path / "missing.png", "does not exist"),
        (tmp_path / "loop", "does not exist"),
        (tmp_path / "pipe", "is not a regular file"),
        (tmp_path / "link", "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path / "a\0b.png", r"a\\x00b.png' has a NUL byte in its name"),
        (tmp_path / ("a" * 300), "cannot be opened: File name too long"),
        (tmp_path / "line\nbreak.png", r"line\\nbreak.png' does not exist"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            reader(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
def test_long_texts_in_a_file_do_no_harm(tmp_path, rng, kind):
    """As editors and generators write them: prompts, workflows, histories."""
    pixels = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    info = PngInfo()
    text = "long " * 1_000_000
    if kind == "iTXt":
        info.add_itxt("workflow", text, zip=True)
    else:
        info.add_text("workflow", text, zip=kind == "zTXt")
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), pixels)
    cut = (tmp_path / "a.png").read_bytes()[:-30]
    (tmp_path / "cut.png").write_bytes(cut)
    with pytest.raises(UserError, match="is damaged"):
        read_rgb(tmp_path / "cut.png")


def crop_square(array):
    return crop_to(array, (1, 1))


def to_square(photo, side):
    return resized(crop_to(photo, (side, side)), side, side)


@pytest.mark.parametrize("trailing", [(), (3,)])
def test_the_square_is_the_largest_in_the_middle(rng, trailing):
    height, width = (int(side) for side in rng.integers(1, 60, 2))
    array = rng.integers(0, 256, (height, width, *trailing), dtype=np.uint8)
    square = crop_square(array)
    assert square.shape == (min(height, width), min(height, width), *trailing)
    rows, columns = np.indices((height, width))
    for places, middle in ((rows, (height - 1) / 2), (columns, (width - 1) / 2)):
        assert abs(crop_square(places).mean() - middle) <= 0.5
    np.testing.assert_array_equal(square, array[crop_square(rows), crop_square(columns)])


def test_reduction_is_the_mean_of_what_a_pixel_covers(rng):
    side, factor = int(rng.integers(4, 20)), int(rng.integers(2, 6))
    photo = rng.integers(0, 256, (side * factor, side * factor, 3), dtype=np.uint8)
    blocks = photo.reshape(side, factor, side, factor, 3).mean((1, 3), dtype=np.float64)
    assert difference(to_square(photo, side), blocks).max() <= 0.51


def test_enlargement_keeps_what_it_enlarges(rng):
    photo = random_photo(rng, 90, 120)
    large = to_square(photo, 3 * 90)
    assert large.shape == (270, 270, 3)
    assert difference(to_square(large, 90), crop_square(photo)).mean() < 3
    np.testing.assert_array_equal(to_square(photo, 90), crop_square(photo))


@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (300, 77), (33, 40)])
def test_an_image_lies_where_its_sketch_lies(height, width):
    """Both are placed whole on a square, so that lines and image stay aligned."""
    photo = np.full((height, width, 3), 200, np.uint8)
    top, left = height // 4, width // 3
    photo[top : height - top, left : width - left] = (20, 20, 20)
    page, image = to_page(photo[..., 0], (240, 240)), letterboxed(photo, (240, 240))
    ink, dark = page < 128, image[..., 0] < 110
    assert dark.sum() > 1000 and (ink != dark).mean() < 0.01
    assert (image[0, 0] == 255).all() == (page[0, 0] == 255)
    assert set(np.unique(image)) & {20, 200, 255} == {20, 200, 255} or height == width


@pytest.mark.parametrize(
    ("sketch", "image", "fits"),
    [
        ((300, 400), (600, 800, 3), True),
        ((300, 400), (601, 799, 3), True),
        ((300, 400), (400, 300, 3), False),
        ((512, 512), (300, 400, 3), False),
        ((100, 103), (100, 100), False),
    ],
)
def test_proportions_that_differ_are_refused(sketch, image, fits):
    said = f"{sketch[1]} × {sketch[0]} pixels and the image {image[1]} × {image[0]}, which"
    with contextlib.nullcontext() if fits else pytest.raises(UserError, match=said):
        check_same_aspect(sketch, image)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (300, 1), (64, 65)])
def test_every_shape_becomes_a_square(rng, height, width):
    photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert to_square(photo, 64).shape == (64, 64, 3)
