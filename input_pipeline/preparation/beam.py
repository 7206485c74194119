"""Preparation as an Apache Beam pipeline, on several machines.

Workers share a file system. Tasks are stored in files there, because the size of a pipeline is
limited to some megabytes, and rejected examples are written beside them.
"""

import contextlib
import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners import PipelineRunner, create_runner

from input_pipeline.datasets.scanning.items import Rejected
from ragaf_jax.errors import UserError

_TASKS_PER_FILE = 256
_REJECTED = "rejected"


class MakeRecords(beam.PTransform):
    """Tasks → (key, record)."""

    def __init__(self, make: Callable[[Any], Any], tasks: Sequence[Any], folder: Path):
        """Writes the tasks into `folder`."""
        super().__init__()
        folder.mkdir(parents=True)
        self._make, self._folder = make, folder
        self._files = []
        for begin in range(0, len(tasks), _TASKS_PER_FILE):
            file = folder / f"tasks-{begin:09d}.pkl"
            file.write_bytes(pickle.dumps(tasks[begin : begin + _TASKS_PER_FILE]))
            self._files.append(str(file))

    def expand(self, pipeline):
        made = (
            pipeline
            | "Files" >> beam.Create(self._files)
            | "Tasks" >> beam.FlatMap(_read)
            | "Spread" >> beam.Reshuffle()
            | "Make" >> beam.FlatMap(_outcome, self._make).with_outputs(_REJECTED, main="records")
        )
        _ = made[_REJECTED] | "Write" >> beam.io.WriteToText(str(self._folder / _REJECTED))
        return made["records"]


def take_rejected(folder: Path) -> list[Rejected]:
    """The rejected examples of all splits, sorted; deletes the pipelines' files."""
    lines = {
        line
        for path in folder.glob(f"*/{_REJECTED}*")
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    shutil.rmtree(folder)
    return [Rejected(**json.loads(line)) for line in sorted(lines)]


def runner(name: str) -> PipelineRunner:
    """The Beam runner of this name.

    Raises:
      UserError: Beam has no such runner.
    """
    try:
        return create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--beam_runner={name}: {str(error).rstrip('.')}.") from None


def options(text: str) -> PipelineOptions:
    """Beam's flags, given without dashes and separated by commas: "direct_num_workers=2,…".

    Raises:
      UserError: Beam has no such flag, or its value is invalid.
    """
    flags = [f"--{flag.strip()}" for flag in text.split(",") if flag.strip()]
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            result = PipelineOptions(["--default_sdk_harness_log_level=ERROR", *flags])
            known = result.get_all_options(retain_unknown_options=False)
    except SystemExit:  # argparse refuses the value
        reason = stderr.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise UserError(f"--beam_options={text} is invalid: {reason}; correct it.") from None
    for flag in flags:
        name = flag[2:].partition("=")[0]
        if name.removeprefix("no_") not in known:
            raise UserError(
                f"--beam_options contains {name!r}, which is not an option of Beam; remove it."
            )
    return result


def _read(file: str) -> Iterator[Any]:
    yield from pickle.loads(Path(file).read_bytes())


def _outcome(task: Any, make: Callable[[Any], Any]) -> Iterator[Any]:
    made = make(task)
    if isinstance(made, Rejected):
        yield beam.pvalue.TaggedOutput(_REJECTED, json.dumps(made._asdict()))
    else:
        yield from ((record["key"], record) for record in made)
