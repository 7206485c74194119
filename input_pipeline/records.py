"""Random access to a prepared data set."""

import json
import os
from pathlib import Path
from typing import Any, SupportsIndex

import tensorflow_datasets as tfds

from input_pipeline import record_format
from ragaf_jax.errors import UserError
from ragaf_jax.tokenizer import Tokenizer


class RecordSource:
    """The records of one split, by index, as `record_format.features` describes them.

    Images are u8[S, S, 3], `sketch` u8[S, S, 1], `labels` and `true_labels` u8[S, S], texts `str`.

    Attributes:
      metadata: what the folder says of itself.
      tokenizer: the vocabulary of the training captions.
    """

    def __init__(
        self,
        data_dir: str | Path,
        dataset: str = "openmoji/recolor",
        split: str = "train",
        image_size: int = 64,
        recolorings: int = 16,
    ):
        """Opens a folder that `python -m input_pipeline.prepare` wrote.

        Args:
          data_dir: the folder of all data sets.
          dataset: "openmoji/recolor" or "openmoji/plain".
          split: "train", "validation" or "test".
          image_size: side S of its images, px.
          recolorings: records a drawing; of openmoji/recolor only.

        Raises:
          UserError: the data set is not there, is unknown or was written by other code.
        """
        folder = record_format.folder(Path(data_dir), dataset, image_size, recolorings)
        command = (
            f"python -m input_pipeline.prepare --dataset={dataset} --data_dir={data_dir} "
            f"--size={image_size}"
        )
        if dataset == "openmoji/recolor":
            command += f" --recolorings={recolorings}"
        self.metadata = _checked_metadata(folder, image_size, command)
        try:
            builder = tfds.builder_from_directory(os.fspath(folder))
            text = (folder / record_format.TOKENIZER_FILE).read_text(encoding="utf-8")
            splits = builder.as_data_source()
            for records in splits.values():
                records[0]  # files are opened when they are first read; a truncated one fails here
        except Exception as error:  # TFDS and ArrayRecord raise many kinds
            raise UserError(
                f"The data in {folder} cannot be read ({error}); delete the folder and run: "
                f"{command}"
            ) from error
        if split not in splits:
            raise UserError(f"{folder} has no split {split!r}; choose one of {', '.join(splits)}.")
        self._records = splits[split]
        self.tokenizer = Tokenizer.from_json(text)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        record = self._records[index]
        record["captions"] = [caption.decode() for caption in record["captions"]]
        for name in ("category", "key"):
            record[name] = record[name].decode()
        for name in ("labels", "true_labels"):
            record[name] = record[name][..., 0]
        return record


def _checked_metadata(folder: Path, image_size: int, command: str) -> dict[str, Any]:
    """The folder's metadata, once they are known to be what today's code would write."""
    if not folder.is_dir():
        others = sorted(other.name for other in folder.parent.glob("[0-9]*"))
        if others:
            raise UserError(
                f"{folder.parent} holds data of version {', '.join(others)} and this code reads "
                f"{folder.name}; run: {command}"
            )
        raise UserError(f"There is no data in {folder}; run: {command}")
    try:
        found = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"The data in {folder} cannot be read ({error}); delete the folder and run: {command}"
        ) from None
    for field, expected in record_format.metadata(image_size).items():
        if found.get(field) != expected:
            raise UserError(
                f"The data in {folder} were prepared with {field} = {found.get(field)} and this "
                f"code wants {expected}; delete the folder and run: {command}"
            )
    return found
