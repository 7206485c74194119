"""Names and folders of datasets, which must not change for data on disk."""

from pathlib import Path

import pytest

from input_pipeline.datasets import photos
from input_pipeline.datasets.building import Preparation
from input_pipeline.datasets.registry import DATASETS, find
from input_pipeline.options import Options
from input_pipeline.record_format import FORMAT_VERSION, config_name, folder

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("dataset", "path"),
    [
        ("openmoji/plain", "openmoji/plain_64px"),
        ("openmoji/recolor", "openmoji/recolor_64px_x16"),
        ("sketchy", "sketchy/64px"),
        ("coco", "coco/64px"),
        ("folder", "folder/64px"),
        ("folder/cats", "folder/cats_64px"),
        ("webdataset/cats", "webdataset/cats_64px"),
        ("parquet", "parquet/64px"),
    ],
)
def test_prepared_data_are_found_where_they_were_written(dataset, path, tmp_path):
    options = Options(64)
    assert folder(tmp_path, dataset, options) == tmp_path / path / FORMAT_VERSION
    if find(dataset).scan:
        name = config_name(dataset, options)
        config = Preparation(name=name, dataset=dataset, options=options)
        builder = photos.Photos(config=config, data_dir=str(tmp_path))
        assert Path(builder.data_dir) == tmp_path / path / FORMAT_VERSION
        assert builder.info.full_name == f"{path}/{FORMAT_VERSION}"


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_is_documented(dataset):
    lines = (ROOT / "docs" / "data.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{dataset}`")]
    assert find(dataset).root_variable in row
