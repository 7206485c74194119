"""Lists the files of a dataset without leaving its root.

Names in the file system and in tables are untrusted. A file is opened only if the listing of its
folder contains it, and links that lead out of the dataset are not followed.
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

# Control characters, and surrogates, which represent bytes that are not UTF-8 in Python.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


class FolderContents(NamedTuple):
    """The visible content of one folder, sorted by name."""

    files: dict[str, str]  # {name of a regular file: its resolved path relative to the root}
    folders: dict[str, str]  # the same for folders
    rejected: list[Rejected]  # links that lead out or nowhere, special files, unusable names


def data_root(root: Path) -> Path:
    """The resolved path of a dataset's root.

    Raises:
      UserError: there is no such folder.
    """
    try:
        if root.is_dir():
            return root.resolve()
    except (OSError, ValueError):  # the name is too long or contains a NUL byte
        pass
    raise UserError(f"The data folder {printable(str(root))} does not exist; name another one.")


def read_folder(root: Path, folder: str) -> FolderContents:
    """Lists one folder, whose path is relative to `root`, a result of `data_root`.

    Raises:
      UserError: the folder is missing, unreadable, or a link that leads out of the root.
    """
    contents = FolderContents({}, {}, [])
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
            f"The folder {root / folder} is missing; the dataset is incomplete or {root} is not "
            "its root."
        ) from error
    except OSError as error:
        raise UserError(f"The folder {root / folder} cannot be read: {error.strerror}.") from error

    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
            continue
        path = join(folder, entry.name)
        target: str | None = join(real, entry.name)
        if entry.is_symlink():
            target = _inside(root, Path(entry.path))
        if _UNPRINTABLE.search(entry.name):
            reason = "has control characters or bytes that are not UTF-8 in its name"
        elif target is None:
            reason = "is a link that leads out of the dataset"
        else:
            try:
                if entry.is_file():
                    contents.files[entry.name] = target
                    continue
                if entry.is_dir():
                    contents.folders[entry.name] = target
                    continue
                reason = "is neither a regular file nor a folder"
            except OSError as error:  # a cycle of links
                reason = f"cannot be read: {error.strerror}"
        contents.rejected.append(Rejected(printable(path), reason))
    return contents


def walk(root: Path) -> tuple[dict[str, str], list[Rejected]]:
    """Every regular file in a dataset: {its path relative to the root: its resolved path}.

    Each folder is entered through at most one link, because the number of paths through links can
    be exponential.
    """
    files: dict[str, str] = {}
    rejected: list[Rejected] = []
    linked: set[str] = set()
    pending = [""]
    with tqdm(desc="scanning", unit=" files", delay=1) as bar:
        while pending:
            folder = pending.pop()
            contents = read_folder(root, folder)
            rejected += contents.rejected
            files |= {join(folder, name): target for name, target in contents.files.items()}
            bar.update(len(contents.files))
            entered = []
            for name, target in contents.folders.items():
                path = join(folder, name)
                if target != path:
                    if f"{path}/".startswith(join(target, "")) or target in linked:
                        reason = "is another link to a folder that is already read"
                        rejected.append(Rejected(path, reason))
                        continue
                    linked.add(target)
                entered.append(path)
            pending += reversed(entered)
    return files, rejected


def join(folder: str, name: str) -> str:
    """`folder/name` with "" as the root."""
    return f"{folder}/{name}" if folder else name


def stem(path: str) -> str:
    """A path without its extension."""
    return posixpath.splitext(path)[0]


def is_image(name: str) -> bool:
    """Whether the extension, in upper or lower case, is that of a readable image."""
    return unreadable(name) is None


def composed(name: str) -> str:
    """A name in Unicode form NFC, in which an accented letter is one character."""
    return unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """A name with escapes for characters that terminals or JSON do not allow."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], name)


def _inside(root: Path, path: Path) -> str | None:
    """The resolved path relative to the root, or None if it is outside."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        return None
    return "" if real == root else real.relative_to(root).as_posix()
