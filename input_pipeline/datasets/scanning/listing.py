"""Lists the files of a data set's folders, without leaving them.

Names come from the file system and from tables that nobody vouches for. A file is used only if a
listing of its folder has it: no name is ever opened that was not listed before, and no link is
followed that leads out of the data set.
"""

import os
import posixpath
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from input_pipeline.datasets.scanning.items import Rejected
from ragaf_jax.errors import UserError
from ragaf_jax.images import unreadable

# Control characters, and what Python makes of bytes that are not UTF-8.
_ODD = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
# What operating systems leave behind.
_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


class Listing(NamedTuple):
    """One folder's visible content by name, in the order of the names.

    Attributes:
      files: the path of each regular file relative to the root, all links resolved.
      folders: the same for each folder.
      rejected: links that lead out or nowhere, what is neither file nor folder, unusable names.
    """

    files: dict[str, str]
    folders: dict[str, str]
    rejected: list[Rejected]


def data_root(root: Path) -> Path:
    """The folder itself, absolute and without links.

    Raises:
      UserError: there is no such folder.
    """
    try:
        if root.is_dir():
            return root.resolve()
    except (OSError, ValueError):  # a name that is too long or holds a NUL byte
        pass
    raise UserError(f"The data folder {printable(str(root))} does not exist; name another one.")


def read_folder(root: Path, folder: str) -> Listing:
    """Lists one folder with one call to the system, and one more for each link.

    Args:
      root: as `data_root` gives it.
      folder: relative to the root, "" for the root itself.

    Raises:
      UserError: the folder is missing, cannot be read, or leads out of the root.
    """
    listing = Listing({}, {}, [])
    real = _inside(root, root / folder)
    if real is None:
        raise UserError(
            f"The folder {root / folder} is a link that leads out of {root}; move the data there."
        )
    try:
        with os.scandir(root / folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"The folder {root / folder} is missing; the data set is incomplete or {root} is not "
            "its root."
        ) from error
    except OSError as error:
        raise UserError(f"The folder {root / folder} cannot be read: {error.strerror}.") from error

    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _LITTER:
            continue
        path = join(folder, entry.name)
        target: str | None = join(real, entry.name)
        if entry.is_symlink():
            target = _inside(root, Path(entry.path))
        if _ODD.search(entry.name):
            reason = "has control characters or bytes that are not UTF-8 in its name"
        elif target is None:
            reason = "is a link that leads out of the data set"
        else:
            try:
                if entry.is_file():
                    listing.files[entry.name] = target
                    continue
                if entry.is_dir():
                    listing.folders[entry.name] = target
                    continue
                reason = "is neither a regular file nor a folder"
            except OSError as error:  # links that lead to one another
                reason = f"cannot be read: {error.strerror}"
        listing.rejected.append(Rejected(printable(path), reason))
    return listing


def walk(root: Path) -> tuple[dict[str, str], list[Rejected]]:
    """Every regular file in a data set: {its path relative to the root: the same without links}.

    Links to folders are followed, but each folder through one link alone: links can be laid so
    that there are more ways through them than atoms.
    """
    files: dict[str, str] = {}
    rejected: list[Rejected] = []
    linked: set[str] = set()
    pending = [""]
    with tqdm(desc="scanning", unit=" files", delay=1) as bar:
        while pending:
            folder = pending.pop()
            listing = read_folder(root, folder)
            rejected += listing.rejected
            files |= {join(folder, name): target for name, target in listing.files.items()}
            bar.update(len(listing.files))
            found = []
            for name, target in listing.folders.items():
                path = join(folder, name)
                if target != path:
                    if f"{path}/".startswith(join(target, "")) or target in linked:
                        rejected.append(
                            Rejected(path, "is a link to a folder that is read already")
                        )
                        continue
                    linked.add(target)
                found.append(path)
            pending += reversed(found)
    return files, rejected


def join(folder: str, name: str) -> str:
    """`folder/name` with "" as the root."""
    return f"{folder}/{name}" if folder else name


def stem(path: str) -> str:
    """A path without its extension."""
    return posixpath.splitext(path)[0]


def is_picture(name: str) -> bool:
    """Whether a file's extension, in capitals or not, is that of an image."""
    return unreadable(name) is None


def composed(name: str) -> str:
    """A name in Unicode's form NFC, in which an accented letter is one character."""
    return unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """A name as it can be written to a terminal, on one line, and to JSON."""
    return _ODD.sub(lambda found: ascii(found[0])[1:-1], name)


def _inside(root: Path, path: Path) -> str | None:
    """Where a path leads relative to the root, or None if not into it."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        return None
    return "" if real == root else real.relative_to(root).as_posix()
