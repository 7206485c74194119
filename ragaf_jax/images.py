"""Reads and checks image files of sketches and photos.

`read_grey`, `read_rgb` and `read_labels` decode a file or raise `UserError`. Training crops squares
by `crop_square` and `to_square`. Sampling pads images by `pad_to_square` as `sketch_input.to_page`
pads their sketches.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageOps

from ragaf_jax.errors import UserError

# An A3 page scanned at 600 dpi has 70 million pixels. Without a limit, a file of a few kilobytes
# could take gigabytes of memory when it is decoded.
MAX_PIXELS = 100_000_000

# Other formats are excluded: some start programs (EPS runs Ghostscript), some accept any file.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "JPEG2000", "GIF", "BMP", "TIFF", "PPM", "PSD")

# File extensions of these formats; other files of a folder are not images.
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif"}
)
# File extensions of images in other formats.
OTHER_SUFFIXES = frozenset({".heic", ".heif", ".svg", ".pdf", ".psd", ".eps", ".jxl", ".raw"})

# Rounding may change the aspect ratio of a sketch and its image by one pixel in 50.
MAX_ASPECT_DIFFERENCE = 0.02

# Images with less contrast than this fraction of the full range are white lines without paper.
_LEAST_CONTRAST = 0.12

# Channels of grey images differ by up to this after JPEG or scanning.
_LEAST_CHROMA = 24

_PNG = b"\x89PNG\r\n\x1a\n"  # the signature of the format

# Pillow's modes of more than 8 bits a sample: I, I;16, I;16B, F …
_DEEP_MODES = ("I", "F")


def unreadable(name: str) -> str | None:
    """Why a file is not read as an image, by its extension; None where it is read."""
    suffix = Path(name).suffix.lower()
    if suffix in SUFFIXES:
        return None
    if suffix in OTHER_SUFFIXES:
        return f"is a {suffix} file, which is not read; save it as PNG or JPEG"
    return "is not an image by its name"


def read_grey(path: str | Path, what: str = "sketch") -> UInt8[np.ndarray, "h w"]:
    """Grey values that show the contrast of an image file with its paper.

    Args:
      path: a file in one of `FORMATS`. Transparent parts become white, or black if all lines are
        white. EXIF rotation is applied, the first of several frames is read, and samples of more
        than 8 bits are scaled to a maximum of 255.
      what: the kind of file, for errors.

    Raises:
      UserError: the file is missing, not a regular file, not a readable image, or larger than
        `MAX_PIXELS`.
    """
    return _read(Path(path), what, _to_grey)


def read_rgb(path: str | Path, what: str = "image") -> UInt8[np.ndarray, "h w 3"]:
    """The sRGB colours of an image file, upright, with transparent parts on white.

    An embedded colour profile is applied if it is readable. Samples of 16 bits are scaled to 8.
    Arguments and errors are as in `read_grey`.
    """
    return _read(Path(path), what, _to_rgb)


def read_labels(path: str | Path) -> UInt8[np.ndarray, "h w"]:
    """The unchanged pixels of a grey label image.

    Raises:
      UserError: an image with colours, or as `read_grey`.
    """
    rgb = _read(Path(path), "label image", lambda image: image.convert("RGB"))
    if (rgb != rgb[..., :1]).any():
        raise UserError(
            f"The label image {path} has colours; edit labels.png in shades of grey, which are the "
            "region numbers, and save it as PNG."
        )
    return rgb[..., 0]


def crop_square(array: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "side side *c"]:
    """The largest centred square; photos and sketches of equal size stay aligned."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return array[top : top + side, left : left + side]


def to_square(photo: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The centre square of the photo at `side` px; see `resized`."""
    return resized(crop_square(photo), side, side)


def resized(
    array: UInt8[np.ndarray, "h w *c"], height: int, width: int
) -> UInt8[np.ndarray, "height width *c"]:
    """The image at another size, by area means if reduced and bicubic if enlarged."""
    reduced = height * width < array.shape[0] * array.shape[1]
    smooth = cv2.INTER_AREA if reduced else cv2.INTER_CUBIC
    return cv2.resize(array, (width, height), interpolation=smooth)


def place_in_square(height: int, width: int, side: int) -> tuple[int, int, slice, slice]:
    """The place of the largest centred image of these proportions in a square.

    Returns:
      Height and width of the image, and its rows and columns in the square.
    """
    scale = side / max(height, width)
    height, width = (max(1, round(length * scale)) for length in (height, width))
    top, left = (side - height) // 2, (side - width) // 2
    return height, width, slice(top, top + height), slice(left, left + width)


def pad_to_square(photo: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The whole photo centred on a white square, aligned with `sketch_input.to_page`."""
    height, width, rows, columns = place_in_square(photo.shape[0], photo.shape[1], side)
    square = np.full((side, side, 3), 255, np.uint8)
    square[rows, columns] = resized(photo, height, width)
    return square


class Window(NamedTuple):
    """A rectangle of an image, in fractions of its width and height from the upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


def cut(array: Shaped[np.ndarray, "h w *c"], window: Window) -> Shaped[np.ndarray, "rows cols *c"]:
    """The pixels of an image inside a window, at least one."""
    height, width = array.shape[:2]
    top, left = (
        min(math.floor(share * side), side - 1)
        for share, side in ((window.top, height), (window.left, width))
    )
    bottom, right = math.ceil(window.bottom * height), math.ceil(window.right * width)
    return array[top : max(bottom, top + 1), left : max(right, left + 1)]


def check_same_aspect(
    sketch: Sequence[int],
    image: Sequence[int],
    sketch_file: Path | None = None,
    image_file: Path | None = None,
) -> None:
    """Refuses a sketch and an image of different aspect ratios.

    Args:
      sketch, image: their shapes, height and width first, upright.
      sketch_file, image_file: their files; the error mentions EXIF rotations.

    Raises:
      UserError: height / width differs by more than 2 %.
    """
    (rows, columns), (height, width) = sketch[:2], image[:2]
    if abs(rows * width / (columns * height) - 1) <= MAX_ASPECT_DIFFERENCE:
        return
    turned_sketch, turned_image = (
        " after its EXIF rotation" if file is not None and _exif_exchanges_sides(file) else ""
        for file in (sketch_file, image_file)
    )
    swapped = abs(columns * width / (rows * height) - 1) <= MAX_ASPECT_DIFFERENCE
    advice = "rotate one by 90°" if swapped else "crop one to the proportions of the other"
    raise UserError(
        f"The sketch has {columns} × {rows} pixels{turned_sketch} and the image {width} × {height}"
        f"{turned_image}, which is another aspect ratio; {advice}."
    )


def _exif_exchanges_sides(path: Path) -> bool:
    """Whether the EXIF orientation of an image file is a rotation by 90° or 270°."""
    # Errors in EXIF data are ignored.
    with contextlib.suppress(Exception), Image.open(path, formats=FORMATS) as image:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return False


def subject_of(path: Path, what: str) -> str:
    """The first words of the errors of `read_grey` and `read_rgb`."""
    return f"The {what} {path if str(path).isprintable() else ascii(str(path))}"


def _read(path: Path, what: str, convert: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    subject = subject_of(path, what)
    if "\0" in str(path):
        raise UserError(f"{subject} has a NUL byte in its name; rename it.")
    try:
        if path.is_dir():
            raise UserError(f"{subject} is a folder; give an image file.")
        if not path.exists():
            raise UserError(f"{subject} does not exist; give an image file.")
        # Reading a pipe or a device may never end.
        if not path.is_file():
            raise UserError(f"{subject} is not a regular file; give an image file.")
        with path.open("rb") as file:
            head = file.read(4096)
            if not head:
                raise UserError(f"{subject} is empty (0 bytes); save it again.")
            file.seek(0)
            return _decode(file, head, path, subject, convert)
    except OSError as error:
        raise UserError(
            f"{subject} cannot be opened: {error.strerror or error}; give a readable file."
        ) from error


def _decode(
    file: BinaryIO,
    head: bytes,
    path: Path,
    subject: str,
    convert: Callable[[Image.Image], Image.Image],
) -> np.ndarray:
    too_large = UserError(
        f"{subject} has more than {MAX_PIXELS // 1_000_000} million pixels; scale it down."
    )
    try:
        with warnings.catch_warnings():
            # Pillow's warnings (odd EXIF data, sizes below our limit) are harmless here.
            warnings.simplefilter("ignore")
            try:
                image = _loaded(file, too_large)
            except ValueError:
                if not head.startswith(_PNG):
                    raise
                # Pillow refuses long texts, such as the edit history of some programs.
                file.seek(0)
                image = _loaded(io.BytesIO(_without_texts(file.read())), too_large)
            # Errors in EXIF data are ignored.
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
            return np.array(convert(image))
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise too_large from error
    except Image.UnidentifiedImageError as error:
        suffix = path.suffix.lower()
        if b"<svg" in head or suffix in (".svg", ".svgz"):
            raise UserError(f"{subject} is an SVG drawing; export it as PNG first.") from error
        if suffix in OTHER_SUFFIXES:
            raise UserError(f"{subject} {unreadable(path.name)}.") from error
        raise UserError(f"{subject} is not an image; save it as PNG or JPEG.") from error
    # Pillow's decoders raise many exceptions on damaged files.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{subject} is damaged ({reason}); save it again.") from error


def _loaded(file: BinaryIO | io.BytesIO, too_large: UserError) -> Image.Image:
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise too_large
    image.load()
    return image


def _without_texts(png: bytes) -> bytes:
    """A PNG file without its chunks of text (PNG specification, §11.3.3)."""
    chunks, start = [png[: len(_PNG)]], len(_PNG)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        if png[start + 4 : start + 8] not in (b"tEXt", b"zTXt", b"iTXt"):
            chunks.append(png[start:end])
        start = end
    return b"".join(chunks)


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith(_DEEP_MODES):
        return Image.fromarray(_deep_to_u8(np.asarray(image)))
    if not image.has_transparency_data:
        if image.mode in ("1", "L"):
            return image.convert("L")
        return _from_colours(image.convert("RGB"))
    on_white = _from_colours(_flatten(image, "white"))
    if np.ptp(np.asarray(on_white)) > 255 * _LEAST_CONTRAST:
        return on_white
    return _from_colours(_flatten(image, "black"))


def _from_colours(image: Image.Image) -> Image.Image:
    """Grey values whose difference from the paper is the largest difference of any channel.

    Yellow on white and blue on black have little contrast in luminance. The paper's colour is the
    median; grey images are unchanged.
    """
    red, green, blue = image.split()
    chroma = [ImageChops.difference(*pair) for pair in ((red, green), (green, blue))]
    if max(int(np.asarray(x).max()) for x in chroma) <= _LEAST_CHROMA:
        return image.convert("L")
    pixels = np.asarray(image)
    rows, columns = (max(1, side // 256) for side in pixels.shape[:2])
    paper = np.median(pixels[::rows, ::columns].reshape(-1, 3), axis=0).astype(np.int16)
    furthest = np.zeros(pixels.shape[:2], np.int16)
    for channel in range(3):
        away = pixels[..., channel] - paper[channel]
        furthest = np.where(np.abs(away) > np.abs(furthest), away, furthest)
    grey = int(np.asarray(Image.fromarray(paper.astype(np.uint8)[None, None]).convert("L"))[0, 0])
    return Image.fromarray(np.clip(grey + furthest, 0, 255).astype(np.uint8))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(_DEEP_MODES):
        values = np.asarray(image)
        # Integers have 16 bits unless one is larger; floats have no defined maximum.
        sixteen_bits = image.mode != "F" and values.max() <= 65535
        image = Image.fromarray(_deep_to_u8(values, 65535.0 if sixteen_bits else None))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    image = _to_srgb(image, image.info.get("icc_profile"))
    if alpha is None:
        return image
    image.putalpha(alpha)
    return _flatten(image, "white")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Opaque sRGB; a profile that is damaged or for other channels is ignored."""
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            assert converted is not None  # only in-place conversion returns None
            return converted
    return image.convert("RGB")


def _deep_to_u8(values: np.ndarray, white: float | None = None) -> UInt8[np.ndarray, "h w"]:
    """Scales 16- and 32-bit samples to 255 at `white`, or at their maximum: scanners write 12 bits.

    Negative samples shift all samples to a minimum of 0.
    """
    values = np.nan_to_num(values.astype(np.float32))
    values -= min(values.min(), 0)
    return np.rint(values * (255 / (white or max(values.max(), 1e-12)))).astype(np.uint8)


def _flatten(image: Image.Image, paper: str) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, paper), image).convert("RGB")
