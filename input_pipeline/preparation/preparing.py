"""From a data set's name to its records on disk."""

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
from input_pipeline.datasets.building import Builder, Options, Preparation
from input_pipeline.datasets.scanning.sources import changes, read_sources
from input_pipeline.preparation.processes import mapping
from input_pipeline.preparation.tfds_writing import correct_tfds
from input_pipeline.records import RecordSource, read_metadata
from ragaf_jax.errors import UserError, notify
from ragaf_jax.folders import alone_in
from ragaf_jax.graph.regions import REGION_KINDS


@dataclasses.dataclass(frozen=True)
class Running:
    """How the work is done, which changes nothing in what is made.

    Attributes:
      workers: processes of this machine; 1 is this process.
      max_rejected: share of the examples that may be left out.
      beam_runner: the name of a Beam runner, which then does the work instead.
      beam_options: see `beam.options`.
      place: the flag or field that names the folder of the data, for errors.
    """

    workers: int = 1
    max_rejected: float = 0.01
    beam_runner: str | None = None
    beam_options: str = ""
    place: str = "--data_dir"


def prepare(
    dataset: str, data_dir: Path, options: Options, running: Running = Running()
) -> list[Path]:
    """Prepares every data set that `dataset` means and that is not there yet; returns folders.

    Raises:
      UserError: no such data set, its pictures are not there or too many of them are broken,
        another preparation is at work in `data_dir`, or a folder there was made otherwise.
    """
    tfds.disable_progress_bar()
    correct_tfds()
    names = registry.names_of(dataset)
    if len(names) > 1 and options.root is not None:
        variables = [registry.find(name).root_variable for name in names]
        also = f", or name the folders in {' and '.join(variables)}" if all(variables) else ""
        raise UserError(
            f"--root is {options.root}, and {dataset} means {' and '.join(names)}; prepare each by "
            f"itself{also}."
        )
    folders = {
        name: record_format.folder(data_dir, name, options.size, options.recolorings, options.graph)
        for name in names
    }
    missing = [name for name, folder in folders.items() if not folder.exists()]
    for name in set(names) - set(missing):
        _check_same(name, folders[name], options)
        # Opening what is there already tells whether it is of use to this code.
        _open(name, data_dir, options)
    if not missing:  # a finished folder may be one that only others may write to
        return list(folders.values())
    builders = {name: _builder(name, data_dir, options) for name in missing}
    # With Beam, its workers do the work.
    workers = 1 if running.beam_runner else running.workers
    with (
        alone_in(data_dir, "preparation", running.place),
        mapping(workers, (openmoji.__name__, photos.__name__)) as over_processes,
    ):
        for name, builder in builders.items():
            if folders[name].exists():  # another preparation was quicker
                continue
            builder.map, builder.max_rejected = over_processes, running.max_rejected
            builder.beam = running.beam_runner is not None
            _write(name, builder, running)
            _open(name, data_dir, options)
    return list(folders.values())


def _open(dataset: str, data_dir: Path, options: Options) -> None:
    RecordSource(data_dir, dataset, "test", options.size, options.recolorings, graph=options.graph)


def _builder(dataset: str, data_dir: Path, options: Options) -> Builder:
    chosen = Preparation.of(dataset, _with_root(dataset, options))
    make = photos.Photos if registry.find(dataset).scan else openmoji.Openmoji
    return make(config=chosen, data_dir=os.fspath(data_dir))


def _with_root(dataset: str, options: Options) -> Options:
    """`options` with the folder of the pictures, the one named or that of the variable."""
    name, entry, root = registry.builder_name(dataset), registry.find(dataset), options.root
    if not entry.scan:
        return options
    variable = entry.root_variable
    if root is None and variable and os.environ.get(variable):
        root = Path(os.environ[variable])
    if root is None:
        also = f", or in the variable {variable}" if variable else ""
        raise UserError(
            f"Where the pictures of {name} lie is not said: give --root=<folder>{also}."
        )
    root = root.expanduser()
    if not root.is_dir():
        raise UserError(f"There is no folder {root}, which is to hold the pictures of {name}.")
    return dataclasses.replace(options, root=root.resolve())


def _check_same(dataset: str, folder: Path, options: Options) -> None:
    """Refuses to take what was prepared otherwise for what is asked for."""
    found = read_metadata(folder)
    asked: dict[str, Any] = {"limit": options.limit}
    if found.get("regions") != dataclasses.asdict(REGION_KINDS[options.regions]):
        raise UserError(
            f"{folder} was prepared with other regions than --regions={options.regions}; delete it "
            "or choose another --data_dir."
        )
    entry = registry.find(dataset)
    if entry.scan:
        asked["sketch"] = options.sketch
        if options.transform is not None:
            asked["transform"] = options.transform
    for field, value in asked.items():
        if found.get(field) != value:
            raise UserError(
                f"{folder} was prepared with --{field}={found.get(field)}, not {value}; delete it "
                "or choose another --data_dir."
            )
    if not entry.scan:
        return
    if not (options.root or os.environ.get(entry.root_variable)):
        notify(f"{folder} is not compared with its pictures, because no --root names them.")
        return
    options = _with_root(dataset, options)
    differences = _differences(folder, dataset, options, found)
    if differences:
        raise UserError(
            f"{folder} was prepared from other files than are in {options.root} now "
            f"({'; '.join(differences)}); delete it, with any cache in it, and prepare again, or "
            "choose another --data_dir."
        )


def _differences(
    folder: Path, dataset: str, options: Options, metadata: Mapping[str, Any]
) -> list[str]:
    """How the files of a root differ from those that a folder's records were made of."""
    scan, path = photos.scan_of(dataset, options), folder / record_format.SOURCES_FILE
    if not path.exists():
        notify(
            f"{folder} has no {path.name}, which older versions did not write: files replaced "
            "under the same names are not noticed."
        )
        same = photos.hash_of(scan) == metadata.get("source")
        return [] if same else ["other pictures, captions or splits"]
    try:
        before = read_sources(path)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"The list {path} cannot be read ({error}); delete {folder} and prepare it again."
        ) from None
    return changes(before, scan.items, options.root)


def _write(name: str, builder: Builder, running: Running) -> None:
    folder = Path(builder.data_dir)
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(leftover)
    beam_config = _beam_config(running) if running.beam_runner is not None else {}
    print(name)
    # TFDS prints of downloads, of which there are none, and makes a folder for them.
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
                    f"There is no space left in {folder.parent}; make room or choose another "
                    f"{running.place}."
                ) from error
            if not beam_config:
                raise
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise UserError(
                f"Beam's {running.beam_runner} ended with {type(error).__name__}: "
                f"{lines[0][:300] if lines else 'no message'}; see what it has logged above."
            ) from error


def _beam_config(running: Running) -> dict[str, Any]:
    """Of TFDS's download.

    Raises:
      UserError: Beam is not installed, or knows no such runner or option.
    """
    try:
        from input_pipeline.preparation import beam
    except ImportError:
        raise UserError(
            "--beam_runner needs Apache Beam, which is not installed; run: pip install "
            "'ragaf-jax[beam]'"
        ) from None
    assert running.beam_runner is not None
    return {
        "beam_runner": beam.runner(running.beam_runner),
        "beam_options": beam.options(running.beam_options),
    }
