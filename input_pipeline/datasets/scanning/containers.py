"""Images on disk: files, members of tar files, cells of Parquet or Arrow files, and strokes."""

from pathlib import Path
from typing import NamedTuple

from ragaf_jax.errors import UserError
from ragaf_jax.images import Content, subject_of


class Member(NamedTuple):
    """An image in an uncompressed tar file."""

    file: Path  # the tar file
    name: str  # in it
    offset: int  # of its content in the file, bytes
    length: int  # of its content, bytes


class Cell(NamedTuple):
    """An image in a Parquet or Arrow file."""

    file: Path
    row: int  # from 0
    column: str  # "image", or "image.bytes" of a struct


class Strokes(NamedTuple):
    """A drawing in a line of ndjson, which is rendered."""

    file: Path
    line: int  # from 1
    offset: int  # of the line in the file, bytes
    length: int  # of the line, bytes


Location = Path | Member | Cell | Strokes


def path_of(location: Location) -> Path:
    """The path that messages show: the file, and the name or the row, from 1, and column in it."""
    match location:
        case Member(file, name):
            return file / name
        case Cell(file, row, column):
            return Path(f"{file}:{row + 1}:{column.partition('.')[0]}")
        case Strokes(file, line):
            return Path(f"{file}:{line}")
    return location


def opened(location: Location, what: str) -> Path | Content:
    """What `images.read_rgb` reads: the path of a file, or a content from a container.

    Raises:
      UserError: the container cannot be read; the error begins with `images.subject_of` of `what`.
    """
    if isinstance(location, Path):
        return location
    path = path_of(location)
    try:
        return Content(content_of(location), str(path))
    except OSError as error:
        raise UserError(
            f"{subject_of(path, what)} cannot be read ({error.strerror or error}); restore "
            "its file."
        ) from error


def content_of(location: Location) -> bytes:
    """The bytes of an image file; fewer if its tar file was truncated.

    Raises:
      OSError: it cannot be read, its cell is null, or its strokes are not a drawing.
    """
    # Slow imports (PyArrow, OpenCV), which configurations and other datasets do not need.
    match location:
        case Member(file, _, offset, length):
            return _part(file, offset, length)
        case Strokes(file, _, offset, length):
            from input_pipeline.datasets.scanning import strokes

            try:
                return strokes.rendered(_part(file, offset, length))
            except ValueError as error:
                raise OSError(str(error)) from error
        case Cell(file, row, column):
            from input_pipeline.datasets.scanning import arrow_files

            try:
                content = arrow_files.cell(file, row, column)
            except (ValueError, KeyError, StopIteration) as error:
                raise OSError(" ".join(str(error).split()) or "the row is gone") from error
            if content is None:
                raise OSError("the row has no embedded image")
            return content
    return location.read_bytes()


def _part(file: Path, offset: int, length: int) -> bytes:
    with file.open("rb") as opened_file:
        opened_file.seek(offset)
        return opened_file.read(length)
