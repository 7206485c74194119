"""A miniature of the data set, prepared once."""

from pathlib import Path

import pytest
from miniature import LIMIT, RECOLORINGS, SIZE

from input_pipeline.preparing import Options, prepare
from input_pipeline.records import RecordSource


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawings of every split, plain and twice recoloured."""
    folder = tmp_path_factory.mktemp("data")
    prepare("openmoji", folder, Options(SIZE, RECOLORINGS, LIMIT))
    return folder


@pytest.fixture
def source(data_dir: Path) -> RecordSource:
    """The recoloured training records."""
    return RecordSource(data_dir, "openmoji/recolor", "train", SIZE, RECOLORINGS)
