"""Reads cached latents and text states beside the records.

A cache is in `<folder of the records>/cache/<kind>-<key>/`; its key is the networks' fingerprint.
`RECORDS_FILE` has the fingerprint of the records. Arrays are bfloat16, stored as uint16, because
`.npy` lacks that type.
"""

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import BFloat16

from input_pipeline import record_format
from ragaf_jax.errors import UserError

RECORDS_FILE = "records"
# Small files with the sources, options, number and size of records.
_DESCRIPTIONS = ("metadata.json", "dataset_info.json", record_format.SOURCES_FILE)


def records_key(records: Path) -> str:
    """A fingerprint of the records in 16 hex digits, independent of their folder's path."""
    digest = hashlib.blake2b(digest_size=8)
    for name in _DESCRIPTIONS:
        path = records / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def of_these_records(cache: Path, records: Path) -> bool:
    """Whether a cache was computed from these records; true for older caches, which lack a key."""
    path = cache / RECORDS_FILE
    return not path.exists() or path.read_text(encoding="utf-8") == records_key(records)


def cache_folder(records: Path, kind: str, key: str) -> Path:
    """The folder of the cache with this key."""
    return records / "cache" / f"{kind}-{key}"


class TextStates:
    """The text encoder's states by caption, memory-mapped."""

    def __init__(self, folder: Path, split: str):
        captions = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
        self._index = {caption: index for index, caption in enumerate(captions)}
        self._states = _mapped(folder / f"{split}.npy")

    def __getitem__(self, caption: str) -> BFloat16[np.ndarray, "t d"]:
        return self._states[self._index[caption]]


def open_cache(
    records: Path, kind: str, key: str, split: str, count: int, command: str
) -> TextStates | BFloat16[np.ndarray, "n 2 h w d"]:
    """The text states, or mean and standard deviation (in channels) of images and mirror images.

    Args:
      records, split, count: the records' folder, split and number.
      kind: "text" or "latents".
      key: the networks' fingerprint.
      command: the command that makes the cache, for errors.

    Raises:
      UserError: the cache is missing, unreadable, or of other records.
    """
    folder = cache_folder(records, kind, key)
    run = f"run: {command} --cache={kind} --checkpoint=<the run's> [--vae=<the run's>]"
    if not folder.is_dir():
        others = sorted(other.name.split("-")[1] for other in folder.parent.glob(f"{kind}-*"))
        hint = f"{run}, or leave config.data.cache empty"
        if others:
            raise UserError(
                f"The cache of {kind} in {folder.parent} was made with other weights (key "
                f"{', '.join(others)}) than this run's (key {key}); {hint}."
            )
        raise UserError(f"There is no cache of {kind} in {records} (key {key}); {hint}.")
    if not of_these_records(folder, records):
        raise UserError(
            f"The cache {folder} was computed from other records than those in {records}; delete "
            f"it and {run}"
        )
    try:
        if kind == "text":
            return TextStates(folder, split)
        latents = _mapped(folder / f"{split}.npy")
        if len(latents) != count:
            raise ValueError(f"{len(latents)} images of {count}")
        return latents
    except (OSError, ValueError) as error:
        raise UserError(
            f"The cache {folder} cannot be read ({error}); delete it and {run}"
        ) from None


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r").view(ml_dtypes.bfloat16)
