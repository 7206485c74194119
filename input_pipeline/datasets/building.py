"""The common part of all builders: tasks become records, in processes or by Beam.

A data set says which tasks there are, by split, and how a task becomes records. A task that cannot
(a broken image) is left out, listed in `rejected.jsonl`, and too many of them stop the build.
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
from input_pipeline.datasets.scanning.items import Rejected
from input_pipeline.datasets.scanning.sources import Source, write_sources
from input_pipeline.mirror import swap_sides
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import DEFAULT_GRAPH, GraphConfig
from ragaf_jax.tokenizer import Tokenizer

SPLITS = ("train", "validation", "test")

Record = dict[str, Any]  # as `record_format.encode` gives it
Make = Callable[[Any], list[Record] | Rejected]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a data set is made with.

    Attributes:
      size: side of the images, px.
      recolorings: records of a drawing; of openmoji/recolor only.
      limit: drawings or photos of each split, in a shuffled order that never changes; 0 takes all.
      root: the folder of the pictures as downloaded; of datasets that are scanned only.
      sketch: how pictures become sketches, one of `sketch.METHODS`.
      transform: Sketchy's alignment; None for the first that is there.
      regions: what the regions of a sketch are, a name in `REGION_KINDS`.
      graph: which of them are connected.
    """

    size: int
    recolorings: int = 16
    limit: int = 0
    root: Path | None = None
    sketch: str = "canny"
    transform: str | None = None
    regions: str = "strokes"
    graph: GraphConfig = DEFAULT_GRAPH


@dataclasses.dataclass(kw_only=True, eq=False)
class Preparation(tfds.core.BuilderConfig):
    """One folder of records."""

    dataset: str
    options: Options

    @classmethod
    def of(cls, dataset: str, options: Options) -> "Preparation":
        """The one of these options, under the name of its folder."""
        parts = options.size, options.recolorings, options.graph
        return cls(
            name=record_format.config_name(dataset, *parts), dataset=dataset, options=options
        )


class Work(NamedTuple):
    """What a data set is made of.

    Attributes:
      make: a function of a module, so that it can be sent to other processes.
      tasks: of every split in `SPLITS`; picklable.
      rejected: what was found to be of no use before anything was read.
      left_out: how many more examples there are, of which only a few are asked for.
      source: a hash of what was found on disk; "" where it is always the same.
      sources: what each example is made of; none where that is always the same.
    """

    make: Make
    tasks: dict[str, Sequence[Any]]
    rejected: Sequence[Rejected] = ()
    left_out: int = 0
    source: str = ""
    sources: Sequence[Source] = ()


class Rejections:
    """What is left out, and whether it is too much.

    Attributes:
      list: so far.
    """

    def __init__(self, total: int, most: float, report: Path):
        """Counts from zero.

        Args:
          total: of all that there is to prepare.
          most: the share of it that may be rejected.
          report: the file that gets the list if it is more.
        """
        self.list: list[Rejected] = []
        self._total, self._most, self._report = total, most, Path(report)

    def add(self, rejected: Iterable[Rejected]) -> None:
        """Adds to the list.

        Raises:
          UserError: it has become too long.
        """
        self.list += rejected
        if len(self.list) <= self._most * self._total:
            return
        raise UserError(
            f"{len(self.list)} of {self._total} examples cannot be used{self.reported()}: mend or "
            f"delete them, or allow a larger share than {self._most:g} with --max_rejected."
        )

    def reported(self) -> str:
        """Writes the report, if there is anything in it; gives what to say of it."""
        if not self.list:
            return ""
        self._report.parent.mkdir(parents=True, exist_ok=True)
        self.write(self._report)
        first = " ".join(self.list[0]).encode(errors="backslashreplace").decode()
        return f" (the first: {first}; all so far: {self._report})"

    def write(self, path: Path) -> None:
        """A line of JSON each, in ASCII: names of files need not be UTF-8."""
        path.write_text("".join(json.dumps(x._asdict()) + "\n" for x in sorted(self.list)))


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes the records of `work`.

    Attributes:
      map: applies `Work.make` to every task, in their order; `processes.mapping` spreads it out.
      beam: leaves it to a Beam pipeline instead.
      max_rejected: the share of all examples that may be left out.
    """

    VERSION = tfds.core.Version(record_format.FORMAT_VERSION)
    map: Callable[[Make, Iterable[Any]], Iterator[list[Record] | Rejected]] = staticmethod(map)
    beam = False
    max_rejected = 0.01
    # Nothing is downloaded. TFDS's own look-up needs `importlib_resources`, which TFDS 4.9.10 does
    # not install on today's Pythons.
    url_infos = None

    @property
    def report(self) -> Path:
        """The file that lists what is rejected where that ends the build."""
        # `data_path` is TFDS's incomplete folder, which goes when the build fails.
        return Path(self.data_path).parent / record_format.REJECTED_FILE

    def work(self) -> Work:
        """All there is to do."""
        raise NotImplementedError

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
                self._nothing_left(split)
        if self.beam:
            # Takes seconds to import, and is not installed with the rest.
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
            self._nothing_left(split)

    def _nothing_left(self, split: str) -> NoReturn:
        raise UserError(
            f"Nothing is left for the split {split!r}{self._rejections.reported()}: mend or add "
            "examples."
        )

    def _download_and_prepare(self, *args, **kwargs) -> None:
        super()._download_and_prepare(*args, **kwargs)
        # Here, too, `data_path` is the incomplete folder: all of it appears at once or not.
        if self.beam:
            from input_pipeline.preparation import beam

            self._rejections.add(beam.take_rejected(self._beam_folder))
        if self._rejections.list:
            self._rejections.write(Path(self.data_path) / record_format.REJECTED_FILE)
        if self._sources:
            write_sources(Path(self.data_path) / record_format.SOURCES_FILE, self._sources)
        tokenizer = Tokenizer.train(self._training_captions())
        (self.data_path / record_format.TOKENIZER_FILE).write_text(tokenizer.to_json())

    def _training_captions(self) -> Iterator[str]:
        """Read back, because the records may have been made on other machines; and mirrored."""
        specification = self.info.features.get_serialized_info()
        parser = ExampleParserNp({"captions": specification["captions"]})
        files = sorted(os.fspath(path) for path in self.data_path.glob("*-train.array_record*"))
        records = ArrayRecordDataSource(files)
        for begin in range(0, len(records), 64):
            for record in records.__getitems__(range(begin, min(begin + 64, len(records)))):
                for caption in parser.parse_example(record)["captions"]:
                    text = caption.decode()
                    yield from (text, swap_sides(text))
