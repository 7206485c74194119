"""Images on disk: whole files, and members of tar files, which are read without unpacking."""

from pathlib import Path
from typing import NamedTuple

from ragaf_jax.errors import UserError
from ragaf_jax.images import Content


class Member(NamedTuple):
    """An image in an uncompressed tar file."""

    file: Path  # the tar file
    name: str  # in it
    offset: int  # of its content in the file, bytes
    length: int  # of its content, bytes


Location = Path | Member


def path_of(location: Location) -> Path:
    """The path that messages show: that of the file, then the name in it."""
    return location if isinstance(location, Path) else location.file / location.name


def opened(location: Location) -> Path | Content:
    """What `images.read_rgb` reads: a file's path, or a content of a container.

    Raises:
      UserError: the container cannot be read.
    """
    if isinstance(location, Path):
        return location
    path = path_of(location)
    try:
        return Content(content_of(location), str(path))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"The shard of {path} cannot be read: {reason}; restore it.") from error


def content_of(location: Location) -> bytes:
    """The bytes of an image; fewer if its container was truncated.

    Raises:
      OSError: it cannot be read.
    """
    if isinstance(location, Path):
        return location.read_bytes()
    with location.file.open("rb") as file:
        file.seek(location.offset)
        return file.read(location.length)
