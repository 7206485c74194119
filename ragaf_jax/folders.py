"""Writes folders and files atomically."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from ragaf_jax.errors import UserError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # from file systems without locks


def check_writable(folder: Path, replaceable: Collection[str]) -> None:
    """Refuses folders that `whole_folder` could not write, before any work is done.

    Args:
      folder: the output.
      replaceable: names of files in outputs; a folder with other files is not replaced.

    Raises:
      UserError: `folder` is a file, has other files, or has no writable parent.
    """
    if folder.is_dir():
        if not {path.name for path in folder.iterdir()} <= set(replaceable):
            raise UserError(
                f"The output folder {folder} holds other files; give a new folder or empty it."
            )
    elif folder.exists():
        raise UserError(f"The output {folder} is a file; give a folder.")
    existing = next(parent for parent in folder.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"The output {folder} cannot be created, because {existing} is not writable; give "
            "another folder."
        )


@contextlib.contextmanager
def alone_in(folder: Path, what: str, flag: str) -> Iterator[None]:
    """Locks a folder against a second process of the same kind; the lock ends with the process.

    Args:
      folder: is created, and removed if it stays empty.
      what: the kind of process, such as "training".
      flag: of the folder, such as "--workdir".

    Raises:
      UserError: another process has the lock, or the folder cannot be created.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # in /proc and similar folders
        raise UserError(
            f"The folder {folder} cannot be created: {error.strerror}; give another {flag}."
        ) from error
    file = folder / f".{what}.lock"
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another {what} is running in {folder}; wait for it or give another {flag}."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        try:
            yield
        finally:
            if made and [path.name for path in folder.iterdir()] == [file.name]:
                file.unlink()
                folder.rmdir()


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that replaces `folder` at the end; an error deletes it."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise UserError(
            f"The output {folder} cannot be written: {error.strerror or error}; give another "
            "folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder whose files are moved into `folder` at the end, unless it fails."""
    with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=folder) as partial:
        yield Path(partial)
        for path in sorted(Path(partial).iterdir()):
            path.replace(folder / path.name)
