"""Reads and checks image files of sketches and photos."""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from ragaf_jax.errors import UserError
from ragaf_jax.image_modes import to_grey, to_rgb

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

_PNG = b"\x89PNG\r\n\x1a\n"  # the signature of the format


class Content(io.BytesIO):
    """The content of an image file, with a name for messages."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def unreadable(name: str) -> str | None:
    """Why a file is not read as an image, by its extension; None where it is read."""
    suffix = Path(name).suffix.lower()
    if suffix in SUFFIXES:
        return None
    if suffix in OTHER_SUFFIXES:
        return f"is a {suffix} file, which is not read; save it as PNG or JPEG"
    return "is not an image by its name"


def read_grey(path: str | Path | Content) -> UInt8[np.ndarray, "h w"]:
    """Grey values that show the contrast of an image file with its paper.

    Args:
      path: a file in one of `FORMATS`, or the content of one. Transparent parts become
        white, or black if all lines are white. EXIF rotation is applied, the first of several
        frames is read, and samples of more than 8 bits are scaled to a maximum of 255.

    Raises:
      UserError: the file is missing, not a regular file, not a readable image, or larger than
        `MAX_PIXELS`.
    """
    return _read(path, "sketch", to_grey)


def read_rgb(path: str | Path | Content) -> UInt8[np.ndarray, "h w 3"]:
    """The sRGB colours of an image file, upright, with transparent parts on white.

    An embedded colour profile is applied if it is readable. Samples of 16 bits are scaled to 8.
    Arguments and errors are as in `read_grey`.
    """
    return _read(path, "image", to_rgb)


def read_images(
    images: Any, sketch: Sequence[int] | None = None, sketch_file: str | Path | None = None
) -> list[UInt8[np.ndarray, "_ _ 3"] | None]:
    """Images given as arguments: files are read, arrays are checked, and None stays None.

    Args:
      images: a sequence of files, arrays and None.
      sketch: the shape of the sketch, whose proportions the images need; None: not compared.
      sketch_file: its file, for `check_same_aspect`.

    Raises:
      UserError: another form, a file as in `read_grey`, or another aspect ratio.
    """
    if isinstance(images, str) or not isinstance(images, Sequence):
        raise UserError(f"The images are {images!r}; give a list of files or arrays.")
    found = []
    for one in images:
        file = one if isinstance(one, str | Path) else None
        image = one if file is None else read_rgb(file)
        if image is not None:
            rgb = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3
            _check_array("image", image, "height, width, 3", rgb)
            if sketch is not None:
                check_same_aspect(sketch, image.shape, sketch_file, file)
        found.append(image)
    return found


def as_grey(sketch: Any) -> UInt8[np.ndarray, "h w"]:
    """The grey values of a file; an array is checked and returned unchanged.

    Raises:
      UserError: another form, or as `read_grey`.
    """
    if isinstance(sketch, str | Path):
        return read_grey(sketch)
    grey = isinstance(sketch, np.ndarray) and sketch.ndim == 2
    _check_array("sketch", sketch, "height, width", grey)
    return sketch


def _check_array(what: str, given: Any, shape: str, fits: bool) -> None:
    """Refuses anything but a non-empty array of u8 whose shape fits."""
    if not (fits and given.dtype == np.uint8 and given.size > 0):
        found = f"{given!r:.40}"
        if isinstance(given, np.ndarray):
            found = f"an array of shape {given.shape} and type {given.dtype}"
        raise UserError(
            f"The {what} is {found}; give a file, or an array of shape ({shape}) and type uint8."
        )


def read_labels(path: str | Path) -> UInt8[np.ndarray, "h w"]:
    """The unchanged pixels of a grey label image.

    Raises:
      UserError: an image with colours, or as `read_grey`.
    """
    rgb = _read(path, "label image", lambda image: image.convert("RGB"))
    if (rgb != rgb[..., :1]).any():
        raise UserError(
            f"The label image {path} has colours; edit labels.png in shades of grey, which are the "
            "region numbers, and save it as PNG."
        )
    return rgb[..., 0]


def check_same_aspect(
    sketch: Sequence[int],
    image: Sequence[int],
    sketch_file: str | Path | Content | None = None,
    image_file: str | Path | Content | None = None,
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


def _exif_exchanges_sides(path: str | Path | Content) -> bool:
    """Whether the EXIF orientation of an image file is a rotation by 90° or 270°."""
    # Errors in EXIF data are ignored.
    with contextlib.suppress(Exception), Image.open(path, formats=FORMATS) as image:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return False


def subject_of(path: Path, what: str) -> str:
    """The first words of the errors of `read_grey` and `read_rgb`."""
    return f"The {what} {path if str(path).isprintable() else ascii(str(path))}"


def _read(
    given: str | Path | Content, what: str, convert: Callable[[Image.Image], Image.Image]
) -> np.ndarray:
    if not isinstance(given, str | Path):
        path = Path(given.name)
        return _decode_any(given, path, subject_of(path, what), convert)
    path = Path(given)
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
            return _decode_any(file, path, subject, convert)
    except OSError as error:
        raise UserError(
            f"{subject} cannot be opened: {error.strerror or error}; give a readable file."
        ) from error


def _decode_any(
    file: BinaryIO | Content,
    path: Path,
    subject: str,
    convert: Callable[[Image.Image], Image.Image],
) -> np.ndarray:
    head = file.read(4096)
    if not head:
        raise UserError(f"{subject} is empty (0 bytes); save it again.")
    file.seek(0)
    return _decode(file, head, path, subject, convert)


def _decode(
    file: BinaryIO | Content,
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
