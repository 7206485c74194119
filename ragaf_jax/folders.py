"""Writes folders and files completely or not at all."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from ragaf_jax.errors import UserError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system that has none


def check_writable(folder: Path, replaceable: Collection[str]) -> None:
    """Refuses, before any work is done, a place where `whole_folder` could not write.

    Args:
      folder: where to.
      replaceable: names of what an earlier output has; only such a folder is replaced.

    Raises:
      UserError: `folder` is a file, holds something else than an earlier output, or lies where
        nothing may be written.
    """
    if folder.is_dir():
        if not {path.name for path in folder.iterdir()} <= set(replaceable):
            raise UserError(
                f"The output folder {folder} holds other files; name a new one or empty it."
            )
    elif folder.exists():
        raise UserError(f"The output {folder} is a file; name a folder.")
    existing = next(parent for parent in folder.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"The output {folder} cannot be made, because {existing} cannot be written to; name "
            "another folder."
        )


@contextlib.contextmanager
def alone_in(folder: Path, what: str, flag: str) -> Iterator[None]:
    """Keeps a second process from the same work in a folder; a killed one leaves no lock behind.

    Args:
      folder: is made, and removed again where nothing was written into it.
      what: is done there, such as "training".
      flag: names the folder, such as "--workdir".

    Raises:
      UserError: another process is at work there, or the folder cannot be made.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # what the system says of /proc and its like
        raise UserError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    file = folder / f".{what}.lock"
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another {what} is at work in {folder}; wait for it or choose another {flag}."
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
    """A new folder beside `folder` that takes its place at the end, or vanishes on an error."""
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
            f"The output {folder} cannot be written: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """A new folder whose files move into `folder`, which stays, at the end; none on an error."""
    with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=folder) as partial:
        yield Path(partial)
        for path in sorted(Path(partial).iterdir()):
            path.replace(folder / path.name)
