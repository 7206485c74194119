"""A miniature of the dataset, prepared once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from miniature import LIMIT, RECOLORINGS, SIZE

from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from input_pipeline.records import RecordSource


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawings of every split, plain and twice recoloured; shared by all xdist workers."""
    # Each worker has a folder of its own in one of the run's. Preparing again does nothing.
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "openmoji_data"
    prepare("openmoji", folder, Options(SIZE, RECOLORINGS, LIMIT))
    return folder


@pytest.fixture
def source(data_dir: Path) -> RecordSource:
    """The recoloured training records."""
    return RecordSource(data_dir, "openmoji/recolor", "train", Options(SIZE, RECOLORINGS))


@pytest.fixture
def shuffle_folders(rng, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After its call, folders are listed in a new random order each time."""
    scandir = os.scandir

    class Shuffled:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = list(entries)
            rng.shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    return lambda: monkeypatch.setattr(os, "scandir", Shuffled)
