"""Random access to a prepared dataset."""

import contextlib
import copy
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from input_pipeline import record_format
from input_pipeline.cached import cache_folder, lacks_mirrored, of_these_records, open_cache
from input_pipeline.datasets import registry
from input_pipeline.options import Options, flags_of
from ragaf_jax.errors import UserError
from ragaf_jax.framing import Size, bucket_name
from ragaf_jax.graph.build import DEFAULT_GRAPH
from ragaf_jax.graph.regions import REGION_KINDS
from ragaf_jax.tokenizer import Tokenizer

_BATCH = 64  # records per read


class RecordSource:
    """The records of one split by index, with the fields of `record_format.features`.

    Images are u8[H, W, 3], `sketch` u8[H, W, 1], `labels` and `true_labels` u8[H, W], texts `str`.
    H = W = S without buckets. `mirrors` follows `config.data.mirror`; `cropped` is whether images
    were cropped to their bucket.

    Attributes:
      metadata: of the folder.
      regions: the kind of its regions, a name in `REGION_KINDS`; None if unknown.
      mirrored_caption: the dataset's rule, as in `registry.Dataset`.
      tokenizer: with the vocabulary of the training captions.
      folder: of the records.
    """

    def __init__(
        self,
        data_dir: str | Path,
        dataset: str,
        split: str,
        options: Options,
        mirror: str = "own",
    ):
        """Opens a folder that `python -m input_pipeline.prepare` wrote.

        Args:
          data_dir: the folder of all datasets.
          dataset: a name in `registry.DATASETS`, or such as "folder/<name>".
          split: "train", "validation" or "test".
          options: with the size, the buckets, the recolourings and the graph of the folder; errors
            name also the regions.
          mirror: `config.data.mirror`.

        Raises:
          UserError: the dataset is missing, unknown, or written by an incompatible version.
        """
        folder = record_format.folder(Path(data_dir).expanduser(), dataset, options)
        command = (
            f"python -m input_pipeline.prepare --dataset={dataset} --data_dir={data_dir} "
            f"--size={options.size}"
        )
        if (entry := registry.find(dataset)).recolored:
            command += f" --recolorings={options.recolorings}"
        if entry.scan:
            command += " --root=<folder of the images>"
        if options.regions != Options.regions:
            command += f" --regions={options.regions}"
        buckets = record_format.buckets_of(dataset, options)
        command += flags_of(options.graph, buckets)
        self.metadata = _checked_metadata(folder, dataset, options, command)
        self.regions = _kind_of(self.metadata)
        try:
            builder = tfds.builder_from_directory(os.fspath(folder))
            text = (folder / record_format.TOKENIZER_FILE).read_text(encoding="utf-8")
            splits = builder.as_data_source()
            counts = {name: len(records) for name, records in splits.items()}
            buckets_of = _read_buckets(folder, counts) if buckets else {}
            for records in splits.values():
                for indices, _ in _files(records):
                    records[indices.start]  # files are opened, and can fail, at their first read
        except Exception as error:  # TFDS and ArrayRecord raise many kinds
            raise UserError(
                f"The data in {folder} cannot be read ({error}); delete the folder and run: "
                f"{command}"
            ) from error
        if split not in splits:
            raise UserError(f"{folder} has no split {split!r}; choose one of {', '.join(splits)}.")
        self._records = splits[split]
        self._split, self._command = split, command
        self._buckets = buckets or ((options.size, options.size),)
        self._names = [bucket_name(size) for size in buckets] or [""]  # in files of caches
        # The bucket of each record, and the records of this source; None for all.
        self._buckets_of = buckets_of.get(split, np.zeros(len(self._records), int))
        self._chosen: Int[np.ndarray, " n"] | None = None
        self._ranks: Int[np.ndarray, " n"]  # of each record in its bucket, for cached latents
        self._mirrors = entry.mirrors or mirror == "captions"
        self.mirrored_caption = entry.mirrored_caption
        self._left_out: tuple[str, ...] = ()
        self._caches: dict[str, Any] = {}
        self.folder = folder
        self.tokenizer = Tokenizer.from_json(text)

    def __len__(self) -> int:
        return len(self._records if self._chosen is None else self._chosen)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The heights and widths of the records, each once, from narrow to wide."""
        found = self._buckets_of if self._chosen is None else self._buckets_of[self._chosen]
        return tuple(self._buckets[bucket] for bucket in np.unique(found))

    def size(self, index: int) -> Size:
        """Height and width of the record at an index, which is not read."""
        return self._buckets[self._buckets_of[self._place(index)]]

    def of_size(self, size: Size) -> "RecordSource":
        """The records of one size, in order."""
        same = self._buckets_of == self._buckets.index(size)
        source = copy.copy(self)
        chosen = np.arange(len(same)) if self._chosen is None else self._chosen
        source._chosen = chosen[same[chosen]]
        return source

    def _place(self, index: int) -> int:
        """The place in the split of a record of this source."""
        return index if self._chosen is None else int(self._chosen[index])

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        """The record at an index.

        Raises:
          UserError: its file has been damaged or deleted.
        """
        place = self._place(index.__index__())
        with self._naming_files([place]):
            record = self._records[place]
        record |= {
            "mirrors": self._mirrors,
            "mirrored_caption": self.mirrored_caption,
            "cropped": self.metadata.get("crop", False),
        }
        for name in self._left_out:
            del record[name]
        if "latents" in self._caches:
            name = self._names[self._buckets_of[place]]
            record["latents"] = self._caches["latents"][name][self._ranks[place]]
        if "text" in self._caches:
            record["text_states"] = self._caches["text"]
        return _converted(record)

    def fields(self, *names: str) -> Iterator[dict[str, Any]]:
        """These fields of every record, in order, without decoding the others."""
        known = self._records.dataset_info.features
        chosen = tfds.features.FeaturesDict({name: known[name] for name in names})
        raw = dataclasses.replace(
            self._records, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        for begin in range(0, len(self), _BATCH):
            indices = [self._place(i) for i in range(begin, min(begin + _BATCH, len(self)))]
            with self._naming_files(indices):
                batch = [chosen.deserialize_example_np(one) for one in raw.__getitems__(indices)]
            yield from map(_converted, batch)

    def without(self, *images: str) -> "RecordSource":
        """The same records without these images, which saves their decoding."""
        source = copy.copy(self)
        source._left_out = (*self._left_out, *images)
        decoders = {name: tfds.decode.SkipDecoding() for name in source._left_out}
        source._records = dataclasses.replace(self._records, decoders=decoders)
        return source

    def prepared_caches(self, keys: Mapping[str, str]) -> tuple[str, ...]:
        """The kinds of available caches; `keys` as in `with_caches`."""
        folders = {kind: cache_folder(self.folder, kind, key) for kind, key in keys.items()}
        return tuple(
            kind
            for kind, folder in folders.items()
            if folder.is_dir()
            and of_these_records(folder, self.folder)
            and (kind != "text" or not lacks_mirrored(folder, self._split, self._rule))
        )

    @property
    def _rule(self) -> Callable[[str], str | None] | None:
        """`mirrored_caption` if examples are mirrored."""
        return self.mirrored_caption if self._mirrors else None

    def with_caches(self, keys: Mapping[str, str]) -> "RecordSource":
        """The same records with cached outputs of networks.

        Latents replace `image` by `latents` bf16[2, h, w, 2c]: mean and standard deviation (in
        channels) of the image and of its mirror image. Text adds `text_states`, which maps a
        caption to bf16[T, D].

        Args:
          keys: the networks' fingerprints by the kind of cache, "latents" or "text".

        Raises:
          UserError: a cache is missing, unreadable, or lacks captions of mirrored examples.
        """
        if not keys:
            return self
        source = self.without("image") if "latents" in keys else copy.copy(self)
        places = {
            name: np.flatnonzero(self._buckets_of == bucket)
            for bucket, name in enumerate(self._names)
        }
        counts = {name: len(those) for name, those in places.items() if len(those)}
        source._caches = self._caches | {
            kind: open_cache(self.folder, kind, key, self._split, counts, self._command, self._rule)
            for kind, key in keys.items()
        }
        source._ranks = np.zeros(len(self._buckets_of), int)
        for those in places.values():
            source._ranks[those] = np.arange(len(those))
        return source

    @contextlib.contextmanager
    def _naming_files(self, indices: Sequence[int]) -> Iterator[None]:
        """Turns errors of reading into a `UserError` that names the files of these records."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # TFDS and ArrayRecord raise many kinds
            files = [
                os.fspath(self.folder / name)
                for in_file, name in _files(self._records)
                if in_file.start <= indices[-1] and indices[0] < in_file.stop
            ]
            if not files:  # the index is out of range
                raise
            raise UserError(
                f"A record of {self._split} cannot be read from {' or '.join(files)}, which is "
                f"missing or damaged ({error}); restore it, or delete the folder and run: "
                f"{self._command}"
            ) from error


def _read_buckets(folder: Path, counts: Mapping[str, int]) -> dict[str, Int[np.ndarray, " n"]]:
    """The bucket of every record, by split; `counts` are the numbers of records."""
    path = folder / record_format.SIZES_FILE
    found = json.loads(path.read_text(encoding="utf-8"))
    if {split: len(buckets) for split, buckets in found.items()} != counts:
        raise ValueError(f"{path.name} is of other records")
    return {split: np.array(buckets, int) for split, buckets in found.items()}


def _files(records: Any) -> list[tuple[range, str]]:
    """The range of records in each file of TFDS's data source, and the file's name."""
    files = records.dataset_info.splits[records.split].file_instructions
    ends = list(itertools.accumulate(file.take for file in files))
    return [
        (range(end - file.take, end), Path(file.filename).name)
        for end, file in zip(ends, files, strict=True)
    ]


def _converted(record: dict[str, Any]) -> dict[str, Any]:
    """A record of TFDS with texts as `str` and label maps without a channel axis."""
    for name in record:
        if name == "captions":
            record[name] = [caption.decode() for caption in record[name]]
        elif name in ("category", "key", "group"):
            record[name] = record[name].decode()
        elif name in ("labels", "true_labels"):
            record[name] = record[name][..., 0]
    return record


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a folder of records.

    Raises:
      UserError: they cannot be read.
    """
    try:
        return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"The data in {folder} cannot be read ({error}); delete the folder and prepare them "
            "again."
        ) from None


def _kind_of(metadata: Mapping[str, Any]) -> str | None:
    """The name in `REGION_KINDS` of a folder's regions; None if unknown."""
    found = metadata.get("regions")
    kinds = (name for name, kind in REGION_KINDS.items() if dataclasses.asdict(kind) == found)
    return next(kinds, None)


def _near(folder: Path, dataset: str, options: Options) -> list[str]:
    """The data of this size with other graphs or buckets, each with what to choose for it."""
    usual = dataclasses.replace(options, graph=DEFAULT_GRAPH, buckets=())
    name = record_format.config_name(dataset, usual)
    buckets = list(map(bucket_name, record_format.buckets_of(dataset, options)))
    found = []
    for other in sorted(path.parent for path in folder.parents[1].glob(f"*/{folder.name}")):
        if not f"{other.name}_".startswith(f"{name}_"):
            continue
        try:
            its = read_metadata(other / folder.name).get("buckets", [])
        except UserError:  # that folder is not the one to read
            continue
        if its == buckets:
            found.append(f"{other.name} has data with another graph; choose that graph")
        elif its:
            which = ",".join(its)
            found.append(f"{other.name} has data with buckets {which}; choose these")
        else:
            found.append(f"{other.name} has squares; choose no buckets")
    return found


def _checked_metadata(folder: Path, dataset: str, options: Options, command: str) -> dict[str, Any]:
    """The folder's metadata, which must match those that this code writes."""
    if not folder.is_dir():
        if others := sorted(other.name for other in folder.parent.glob("[0-9]*")):
            raise UserError(
                f"{folder.parent} contains data of version {', '.join(others)} and this code reads "
                f"{folder.name}; run: {command}"
            )
        if others := _near(folder, dataset, options):
            raise UserError(
                f"There is no data in {folder}, but {' and '.join(others)}, or run: {command}"
            )
        raise UserError(f"There is no data in {folder}; run: {command}")
    found = read_metadata(folder)
    options = dataclasses.replace(options, regions=_kind_of(found) or Options.regions)
    for field, expected in record_format.metadata(dataset, options).items():
        if found.get(field) != expected:
            raise UserError(
                f"The data in {folder} were prepared with {field} = {found.get(field)} and this "
                f"code needs {expected}; delete the folder and run: {command}"
            )
    return found
