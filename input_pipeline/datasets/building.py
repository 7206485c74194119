"""The common part of all builders, which turns tasks into records, in processes or by Beam.

A dataset defines the tasks of each split and the function that makes a task's records. Unusable
tasks, such as broken images, are listed in `rejected.jsonl`; too many of them stop the build.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.core.example_parser import ExampleParserNp
from tqdm import tqdm

from input_pipeline import record_format
from input_pipeline.datasets import registry
from input_pipeline.datasets.scanning.items import Rejected
from input_pipeline.datasets.scanning.sources import Source
from input_pipeline.datasets.sides import swap_sides
from input_pipeline.options import Options
from ragaf_jax.errors import UserError
from ragaf_jax.framing import Size, nearest_bucket
from ragaf_jax.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")

Record = dict[str, Any]  # as `record_format.encode` gives it
Make = Callable[[Any], list[Record] | Rejected]


@dataclasses.dataclass(kw_only=True, eq=False)
class Preparation(tfds.core.BuilderConfig):
    """The configuration of one folder of records."""

    dataset: str
    options: Options


class Work(NamedTuple):
    """The tasks of a dataset."""

    make: Make  # makes a task's records; module-level, because other processes call it
    tasks: dict[str, Sequence[Any]]  # of every split in `SPLITS`; picklable
    rejected: Sequence[Rejected] = ()  # files that the scan found unusable
    left_out: int = 0  # the number of further examples, which `limit` leaves out
    source: str = ""  # a hash of the files on disk; "" for datasets from packages
    sources: Sequence[Source] = ()  # the files of each example; empty for datasets from packages


class Rejections:
    """The rejected examples, whose share is limited.

    Attributes:
      list: all so far.
    """

    def __init__(self, total: int, most: float, report: Path):
        """Allows the share `most` of `total` examples; `report` lists them if there are more."""
        self.list: list[Rejected] = []
        self._total, self._most, self._report = total, most, Path(report)

    def add(self, rejected: Iterable[Rejected]) -> None:
        """Extends the list; raises `UserError` if it is too long."""
        self.list += rejected
        if len(self.list) <= self._most * self._total:
            return
        raise UserError(
            f"{len(self.list)} of {self._total} examples cannot be used{self.reported()}: repair "
            f"or delete them, or allow a larger share than {self._most:g} with --max_rejected."
        )

    def reported(self) -> str:
        """Writes the report unless the list is empty; returns a phrase for errors."""
        if not self.list:
            return ""
        self._report.parent.mkdir(parents=True, exist_ok=True)
        self.write(self._report)
        first = " ".join(self.list[0]).encode(errors="backslashreplace").decode()
        return f" (the first: {first}; all so far: {self._report})"

    def write(self, path: Path) -> None:
        """Writes the list, sorted."""
        write_json_lines(path, sorted(self.list))


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes the records of `work`.

    Attributes:
      map: applies `Work.make` to the tasks in order; `processes.mapping` makes parallel ones.
      beam: whether a Beam pipeline does this instead.
      max_rejected: the share of all examples that may be rejected.
    """

    VERSION = tfds.core.Version(record_format.FORMAT_VERSION)
    map: Callable[[Make, Iterable[Any]], Iterator[list[Record] | Rejected]] = staticmethod(map)
    beam = False
    max_rejected = 0.01
    # Nothing is downloaded. TFDS's default needs `importlib_resources`, which TFDS 4.9.10 does not
    # install on current Pythons.
    url_infos = None

    @property
    def report(self) -> Path:
        """The file that lists rejected examples if the build fails."""
        # `data_path` is TFDS's incomplete folder, which TFDS deletes when the build fails.
        return Path(self.data_path).parent / record_format.REJECTED_FILE

    def work(self) -> Work:
        """The tasks of the dataset."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Further metadata of the folder."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        dataset, options = self.builder_config.dataset, self.builder_config.options
        entry = registry.find(dataset)
        facts = record_format.metadata(dataset, options, **self.facts(), limit=options.limit)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images, sketches, region graphs and captions of {dataset}.",
            homepage=entry.homepage,
            license=entry.license,
            features=record_format.features(
                options.size, record_format.buckets_of(dataset, options)
            ),
            metadata=tfds.core.MetadataDict(facts),
        )

    def _split_generators(self, dl_manager) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        work = self.work()
        if work.source:
            self.info.metadata["source"] = work.source
        total = sum(map(len, work.tasks.values())) + len(work.rejected) + work.left_out
        self._sources = work.sources
        self.report.unlink(missing_ok=True)
        self._rejections = Rejections(total, self.max_rejected, self.report)
        self._rejections.add(work.rejected)
        for split, tasks in work.tasks.items():
            if not tasks:
                self._refuse_empty(split)
        if self.beam:
            # An optional dependency that takes seconds to import.
            from input_pipeline.preparation import beam

            self._beam_folder = Path(self.data_path) / "beam"
            return {
                split: beam.MakeRecords(work.make, tasks, self._beam_folder / split)
                for split, tasks in work.tasks.items()
            }
        return {
            split: self._generate_examples(split, work.make, tasks)
            for split, tasks in work.tasks.items()
        }

    def _generate_examples(
        self, split: str, make: Make, tasks: Sequence[Any]
    ) -> Iterator[tuple[str, Record]]:
        count = 0
        with tqdm(total=len(tasks), desc=f"{split:<10}", unit=" examples") as bar:
            for made in self.map(make, tasks):
                if isinstance(made, Rejected):
                    self._rejections.add([made])
                else:
                    yield from ((record["key"], record) for record in made)
                    count += len(made)
                bar.set_postfix(records=count, refresh=False)
                bar.update()
        if not count:
            self._refuse_empty(split)

    def _refuse_empty(self, split: str) -> NoReturn:
        raise UserError(
            f"The split {split!r} has no usable example{self._rejections.reported()}: repair or "
            "add examples."
        )

    def _download_and_prepare(self, *args, **kwargs) -> None:
        super()._download_and_prepare(*args, **kwargs)
        # `data_path` is still the incomplete folder, which TFDS renames when all files are in it.
        if self.beam:
            from input_pipeline.preparation import beam

            self._rejections.add(beam.take_rejected(self._beam_folder))
        if self._rejections.list:
            self._rejections.write(Path(self.data_path) / record_format.REJECTED_FILE)
        if self._sources:
            write_json_lines(Path(self.data_path) / record_format.SOURCES_FILE, self._sources)
        tokenizer = Tokenizer.train(self._training_captions())
        (self.data_path / record_format.TOKENIZER_FILE).write_text(tokenizer.to_json())
        config = self.builder_config
        if buckets := record_format.buckets_of(config.dataset, config.options):
            sizes = {split: self._buckets_of_records(split, buckets) for split in SPLITS}
            (self.data_path / record_format.SIZES_FILE).write_text(json.dumps(sizes))

    def _training_captions(self) -> Iterator[str]:
        """The captions of the training records, and those of their mirror images."""
        mirrored = registry.find(self.builder_config.dataset).mirrored_caption
        for captions in self._written("train", "captions"):
            for caption in captions:
                text = caption.decode()
                # Also the exact exchange, so that a vocabulary does not depend on the rule.
                yield from (text, swap_sides(text), mirrored(text) or text)

    def _buckets_of_records(self, split: str, buckets: Sequence[Size]) -> list[int]:
        """The index in `buckets` of each record."""
        sizes = (tuple(size.tolist()) for size in self._written(split, "source_size"))
        return [buckets.index(nearest_bucket(size, buckets)) for size in sizes]

    def _written(self, split: str, feature: str) -> Iterator[Any]:
        """One feature of the written records in order, because Beam may make them elsewhere."""
        specification = self.info.features.get_serialized_info()
        parser = ExampleParserNp({feature: specification[feature]})
        files = sorted(os.fspath(path) for path in self.data_path.glob(f"*-{split}.array_record*"))
        records = ArrayRecordDataSource(files)
        for begin in range(0, len(records), 64):
            for record in records.__getitems__(range(begin, min(begin + 64, len(records)))):
                yield parser.parse_example(record)[feature]


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Writes one line of JSON per named tuple, in ASCII because file names need not be UTF-8."""
    path.write_text("".join(json.dumps(row._asdict()) + "\n" for row in rows))
