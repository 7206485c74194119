"""Prepares datasets: from a name to records on disk."""

import contextlib
import dataclasses
import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline import record_format
from input_pipeline.datasets import openmoji, photos, registry
from input_pipeline.datasets.building import Builder, Preparation
from input_pipeline.datasets.scanning.sources import changes, read_sources
from input_pipeline.options import Options
from input_pipeline.preparation.processes import mapping
from input_pipeline.preparation.tfds_writing import correct_tfds
from input_pipeline.records import RecordSource, read_metadata
from ragaf_jax.errors import UserError, notify
from ragaf_jax.folders import alone_in
from ragaf_jax.graph.regions import REGION_KINDS


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a dataset is prepared, without effect on its records."""

    workers: int = 1  # processes on this machine; 1 is this process
    max_rejected: float = 0.01  # share of the examples that may be rejected
    beam_runner: str | None = None  # the name of a Beam runner to use instead of processes
    beam_options: str = ""  # see `beam.options`
    place: str = "--data_dir"  # the flag or field with the folder of the data, for errors


def prepare(
    dataset: str, data_dir: Path, options: Options, execution: Execution = Execution()
) -> list[Path]:
    """Prepares the missing datasets among those that `dataset` names; returns all their folders.

    Raises:
      UserError: no such dataset, its images are missing or too many of them are broken, another
        preparation uses `data_dir`, or a folder there was prepared with other options.
    """
    tfds.disable_progress_bar()
    correct_tfds()
    names = registry.names_of(dataset)
    if len(names) > 1 and options.root is not None:
        variables = [registry.find(name).root_variable for name in names]
        also = f", or name the folders in {' and '.join(variables)}" if all(variables) else ""
        raise UserError(
            f"--root is {options.root}, and {dataset} names {' and '.join(names)}; prepare each "
            f"separately{also}."
        )
    folders = {name: record_format.folder(data_dir, name, options) for name in names}
    missing = [name for name, folder in folders.items() if not folder.exists()]
    for name in set(names) - set(missing):
        _check_same(name, folders[name], options)
        RecordSource(data_dir, name, "test", options)  # checks that it is readable
    if not missing:  # a complete folder may be read-only
        return list(folders.values())
    builders = {name: _builder(name, data_dir, options) for name in missing}
    workers = 1 if execution.beam_runner else execution.workers
    with (
        alone_in(data_dir, "preparation", execution.place),
        mapping(workers, (openmoji.__name__, photos.__name__)) as over_processes,
    ):
        for name, builder in builders.items():
            if folders[name].exists():  # another preparation finished first
                continue
            builder.map, builder.max_rejected = over_processes, execution.max_rejected
            builder.beam = execution.beam_runner is not None
            _write(name, builder, execution)
            RecordSource(data_dir, name, "test", options)
    return list(folders.values())


def _builder(dataset: str, data_dir: Path, options: Options) -> Builder:
    name = record_format.config_name(dataset, options)
    builder = photos.Photos if registry.find(dataset).scan else openmoji.Openmoji
    config = Preparation(name=name, dataset=dataset, options=_with_root(dataset, options))
    return builder(config=config, data_dir=os.fspath(data_dir))


def _with_root(dataset: str, options: Options) -> Options:
    """`options` with a root, which the environment variable names unless `options` does."""
    name, entry, root = registry.builder_name(dataset), registry.find(dataset), options.root
    if not entry.scan:
        return options
    variable = entry.root_variable
    if root is None and variable and os.environ.get(variable):
        root = Path(os.environ[variable])
    if root is None:
        also = f", or in the variable {variable}" if variable else ""
        raise UserError(
            f"The folder of the images of {name} is not given: give --root=<folder>{also}."
        )
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(
            f"The folder {root} for the images of {name} does not exist; name another one."
        )
    return dataclasses.replace(options, root=root.resolve())


def _check_same(dataset: str, folder: Path, options: Options) -> None:
    """Refuses a folder that was prepared with other options or from other files."""
    found = read_metadata(folder)
    expected: dict[str, Any] = {"limit": options.limit}
    if found.get("regions") != dataclasses.asdict(REGION_KINDS[options.regions]):
        raise UserError(
            f"{folder} was prepared with other regions than --regions={options.regions}; delete it "
            "or choose another --data_dir."
        )
    entry = registry.find(dataset)
    if entry.scan:
        expected["sketch"] = options.sketch
        if options.transform is not None:
            expected["transform"] = options.transform
        if options.buckets:
            expected["crop"] = options.crop
    for field, value in expected.items():
        if found.get(field) != value:
            raise UserError(
                f"{folder} was prepared with --{field}={found.get(field)}, not {value}; delete it "
                "or choose another --data_dir."
            )
    if not entry.scan:
        return
    if not (options.root or os.environ.get(entry.root_variable)):
        notify(f"{folder} is not compared with its images, because no --root names them.")
        return
    options = _with_root(dataset, options)
    differences = _differences(folder, dataset, options, found)
    if differences:
        raise UserError(
            f"{folder} was prepared from other files than {options.root} now contains "
            f"({'; '.join(differences)}); delete it, with any cache in it, and prepare again, or "
            "choose another --data_dir."
        )


def _differences(
    folder: Path, dataset: str, options: Options, metadata: Mapping[str, Any]
) -> list[str]:
    """How the files of a root differ from the sources of a folder's records."""
    scan, path = photos.scan_of(dataset, options), folder / record_format.SOURCES_FILE
    if not path.exists():
        notify(
            f"{folder} has no {path.name}, which older versions did not write: files that were "
            "replaced under the same names are not detected."
        )
        same = photos.hash_of(scan) == metadata.get("source")
        return [] if same else ["other images, captions or splits"]
    try:
        before = read_sources(path)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"The list {path} cannot be read ({error}); delete {folder} and prepare it again."
        ) from None
    return changes(before, scan.items, options.root)


def _write(name: str, builder: Builder, execution: Execution) -> None:
    folder = Path(builder.data_dir)
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(leftover)
    runner = execution.beam_runner
    beam_config = _beam_config(runner, execution.beam_options) if runner is not None else {}
    print(name)
    # TFDS reports downloads and creates a folder for them, although there are none.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as downloads:
        try:
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(**beam_config),
                file_format="array_record",
            )
        except UserError:
            raise
        except Exception as error:
            if "No space left on device" in str(error):
                raise UserError(
                    f"No space is left in {folder.parent}; free some or choose another "
                    f"{execution.place}."
                ) from error
            if not beam_config:
                raise
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise UserError(
                f"Beam's {runner} failed with {type(error).__name__}: "
                f"{lines[0][:300] if lines else 'no message'}; see its log above."
            ) from error


def _beam_config(runner: str, options: str) -> dict[str, Any]:
    """Beam's fields of TFDS's download configuration.

    Raises:
      UserError: Beam is not installed, or has no such runner or option.
    """
    try:
        from input_pipeline.preparation import beam
    except ImportError:
        raise UserError(
            "--beam_runner needs Apache Beam, which is not installed; run: pip install "
            "'ragaf-jax[beam]'"
        ) from None
    return {"beam_runner": beam.runner(runner), "beam_options": beam.options(options)}
