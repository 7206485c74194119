import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniature import LIMIT, RECOLORINGS, SIZE

from input_pipeline import record_format
from input_pipeline.datasets import openmoji_art
from input_pipeline.options import Options
from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import GraphConfig
from ragaf_jax.graph.features import EDGE_FEATURES, NODE_FEATURES
from ragaf_jax.graph.prepare import page_size, sketch_regions
from ragaf_jax.graph.regions import RegionConfig
from ragaf_jax.palette import PALETTE, nearest


def test_records_have_their_shapes(source):
    assert source.metadata["image_size"] == SIZE
    assert source.metadata["recolorings"] == RECOLORINGS
    assert source.metadata["limit"] == LIMIT
    for index in range(len(source)):
        record = source[np.int64(index)]
        added = {"mirrors", "mirrored_caption", "cropped"}
        assert set(record) == {*record_format.features(SIZE), *added}
        assert record["mirrors"] and not record["cropped"]
        assert record["mirrored_caption"]("a left hand") == "a right hand"
        assert record["image"].shape == (SIZE, SIZE, 3) and record["image"].dtype == np.uint8
        assert record["sketch"].shape == (SIZE, SIZE, 1) and record["sketch"].dtype == np.uint8
        n, e = len(record["nodes"]), len(record["edges"])
        for name in ("labels", "true_labels"):
            assert record[name].shape == (SIZE, SIZE) and record[name].dtype == np.uint8
        assert set(np.unique(record["labels"])) == set(range(n))
        assert record["true_labels"].max() <= len(record["true_colors"])
        assert record["nodes"].shape == (n, len(NODE_FEATURES))
        assert record["edges"].shape == (e, len(EDGE_FEATURES))
        for name in ("senders", "receivers"):
            assert record[name].shape == (e,) and record[name].dtype == np.int32
            assert record[name].max() < n
        assert record["captions"] and all(isinstance(text, str) for text in record["captions"])
        assert isinstance(record["key"], str) and isinstance(record["category"], str)


def test_regions_and_graph_are_those_of_the_line_drawing(source):
    paths = {drawing.key: drawing.path for drawing in openmoji_art.find_drawings()}
    for index in range(0, len(source), RECOLORINGS + 1):
        record = source[index]
        root = openmoji_art.read_svg(paths[record["key"].split("/")[0]])
        page = openmoji_art.render_lines(root, page_size(SIZE))
        expected = sketch_regions(page, (SIZE, SIZE), RegionConfig(), GraphConfig(), max_edges=1024)
        np.testing.assert_array_equal(record["sketch"][..., 0], expected.sketch)
        np.testing.assert_array_equal(record["labels"], expected.regions.labels)
        for name, array in expected.graph._asdict().items():
            np.testing.assert_array_equal(record[name], array)


def test_the_colours_that_captions_say_are_in_the_picture(data_dir):
    checked = 0
    for split in ("train", "validation", "test"):
        source = RecordSource(data_dir, "openmoji/recolor", split, Options(SIZE, RECOLORINGS))
        for index in range(len(source)):
            record = source[index]
            for part, color in enumerate(record["true_colors"], 1):
                pixels = record["image"][record["true_labels"] == part]
                if color >= 0 and len(pixels) >= 12:
                    assert nearest(np.median(pixels, axis=0)[None])[0] == color
                    assert PALETTE[color] in record["captions"][0]
                    checked += 1
    assert checked > 20


def test_plain_records_say_name_and_colours_and_know_no_parts(data_dir):
    source = RecordSource(data_dir, "openmoji/plain", "train", Options(SIZE))
    for index in range(len(source)):
        record = source[index]
        name, _, colors = record["captions"][0].partition(": ")
        assert name == record["category"]
        said = colors.replace(" and ", ", ").split(", ")
        assert 1 <= len(said) <= 3 and set(said) <= set(PALETTE)
        assert not record["true_labels"].any() and record["true_colors"].tolist() == [-1]


def test_the_vocabulary_knows_the_training_captions_and_their_mirror_images(source):
    for index in range(len(source)):
        assert not source.tokenizer.unknown_words(source[index]["captions"][0])
    assert not source.tokenizer.unknown_words("large red top left, small blue bottom right")


@pytest.fixture
def damaged(data_dir: Path, tmp_path: Path) -> Path:
    """A copy of plain for tests to damage; returns the folder of its version."""
    folder = record_format.folder(tmp_path, "openmoji/plain", Options(SIZE))
    shutil.copytree(data_dir / folder.relative_to(tmp_path), folder)
    return folder


def open_plain(folder: Path) -> RecordSource:
    return RecordSource(folder.parents[2], "openmoji/plain", "train", Options(SIZE))


def test_missing_data_are_answered_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(UserError) as error:
        RecordSource(tmp_path, "openmoji/recolor", "train", Options(128, 3))
    command = f"--dataset=openmoji/recolor --data_dir={tmp_path} --size=128 --recolorings=3"
    assert str(error.value).endswith(f"run: python -m input_pipeline.prepare {command}")


def test_data_of_another_version_do_not_load(damaged):
    damaged.rename(damaged.parent / "0.9.0")
    with pytest.raises(UserError, match=r"version 0\.9\.0 and this code reads 1\.1\.0; run: "):
        open_plain(damaged)


@pytest.mark.parametrize(
    "field, value", [("format", "0.9.0"), ("image_size", 32), ("graph", {}), ("regions", None)]
)
def test_data_made_otherwise_do_not_load(damaged, field, value):
    metadata = json.loads((damaged / "metadata.json").read_text())
    (damaged / "metadata.json").write_text(json.dumps({**metadata, field: value}))
    with pytest.raises(UserError, match=f"prepared with {field} = "):
        open_plain(damaged)


@pytest.mark.parametrize(
    "name", ["metadata.json", "dataset_info.json", "features.json", "tokenizer.json"]
)
def test_half_a_folder_does_not_load(damaged, name):
    open_plain(damaged)
    (damaged / name).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        open_plain(damaged)


def test_truncated_records_do_not_load(damaged):
    (path,) = damaged.glob("*train*")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cannot be read"):
        open_plain(damaged)


def test_unknown_names_are_answered_with_the_known_ones(data_dir):
    with pytest.raises(UserError, match="no dataset 'openmoji'; choose openmoji/plain"):
        RecordSource(data_dir, "openmoji", "train", Options(SIZE))
    with pytest.raises(UserError, match="no split 'dev'; choose one of .*validation"):
        RecordSource(data_dir, "openmoji/plain", "dev", Options(SIZE))


def test_an_index_beyond_the_last_is_no_fault_of_a_file(source):
    with pytest.raises(ValueError, match="Record key should be in"):
        source[len(source)]
