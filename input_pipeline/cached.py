"""Reads cached latents and text states beside the records.

A cache is in `<folder of the records>/cache/<kind>-<key>/`; its key is the networks' fingerprint.
`RECORDS_FILE` has the fingerprint of the records. Arrays are bfloat16, stored as uint16, because
`.npy` lacks that type. Latents of data with buckets have one file per bucket, such as
`train_576x448.npy`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
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


def lacks_mirrored(
    cache: Path, split: str, mirrored_caption: Callable[[str], str | None] | None
) -> bool:
    """Whether a cache of text lacks a caption that mirroring makes of another one.

    Older versions cached other mirrored captions of photographs.

    Args:
      cache, split: the cache's folder and split.
      mirrored_caption: the rule; None if examples are not mirrored.
    """
    if mirrored_caption is None:
        return False
    try:
        captions = dict.fromkeys(_captions(cache, split))
    except (OSError, ValueError):  # `open_cache` names it
        return False
    mirrored = map(mirrored_caption, captions)
    return not all(caption is None or caption in captions for caption in mirrored)


def _captions(cache: Path, split: str) -> list[str]:
    return json.loads((cache / f"{split}.json").read_text(encoding="utf-8"))


class TextStates:
    """The text encoder's states by caption and, for SDXL, pooled text; memory-mapped."""

    def __init__(self, folder: Path, split: str):
        self._index = {caption: i for i, caption in enumerate(_captions(folder, split))}
        self._states = _mapped(folder / f"{split}.npy")
        pooled = folder / pooled_name(split)
        self._pooled = _mapped(pooled) if pooled.exists() else None

    def __getitem__(
        self, caption: str
    ) -> tuple[BFloat16[np.ndarray, "t d"], BFloat16[np.ndarray, " p"] | None]:
        index = self._index[caption]
        return self._states[index], None if self._pooled is None else self._pooled[index]


def pooled_name(split: str) -> str:
    """The name of the file with SDXL's pooled texts."""
    return f"{split}_pooled.npy"


def latents_name(split: str, bucket: str) -> str:
    """The name of the file with the latents of a bucket; "" for data without buckets."""
    return f"{split}_{bucket}.npy" if bucket else f"{split}.npy"


def open_cache(
    records: Path,
    kind: str,
    key: str,
    split: str,
    counts: Mapping[str, int],
    command: str,
    mirrored_caption: Callable[[str], str | None] | None,
) -> TextStates | dict[str, BFloat16[np.ndarray, "n 2 h w d"]]:
    """The text states; or by bucket the mean and standard deviation (in channels) of latents.

    Latents are those of each image and of its mirror image.

    Args:
      records, split: the records' folder and split.
      kind: "text" or "latents".
      key: the networks' fingerprint.
      counts: the number of records by the bucket's name; without buckets, the name is "".
      command: the command that makes the cache, for errors.
      mirrored_caption: as in `lacks_mirrored`.

    Raises:
      UserError: the cache is missing, unreadable, of other records, or lacks mirrored captions.
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
    if kind == "text" and lacks_mirrored(folder, split, mirrored_caption):
        raise UserError(
            f"The cache {folder} lacks mirrored captions, and config.data.mirror requires them; "
            f"delete it and {run}"
        )
    try:
        if kind == "text":
            return TextStates(folder, split)
        latents = {name: _mapped(folder / latents_name(split, name)) for name in counts}
        for name, count in counts.items():
            if len(latents[name]) != count:
                raise ValueError(f"{len(latents[name])} images of {count}")
        return latents
    except (OSError, ValueError) as error:
        raise UserError(
            f"The cache {folder} cannot be read ({error}); delete it and {run}"
        ) from None


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r").view(ml_dtypes.bfloat16)
