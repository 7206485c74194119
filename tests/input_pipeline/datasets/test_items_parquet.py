"""Parquet and Arrow files: their columns, rows and splits, and whatever is wrong in them."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from photo_trees import encoded, write_parquet

from input_pipeline.datasets.building import SPLITS
from input_pipeline.datasets.parquet import scan
from input_pipeline.datasets.scanning.containers import Cell, content_of
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import Execution, prepare
from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError

SIZE = 32
PIXELS = encoded(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8))


def write(path, columns, features=None, **options):
    """A table in one file, with Hugging Face's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    if path.suffix == ".parquet":
        pq.write_table(table, path, **options)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)


def reasons(found):
    return {line.file: line.reason for line in found.rejected}


def test_files_of_hugging_face_give_rows_captions_and_splits(rng, tmp_path):
    captions = write_parquet(tmp_path, rng, sketches=True)
    found = scan(tmp_path)
    assert found.rejected == [] and found.held == ("validation",)
    train = [item for item in found.items if item.split != "test"]
    assert [item.captions[0] for item in train] == captions[:6]
    assert [item.captions[0] for item in found.items if item.split == "test"] == captions[6:]
    assert train[0].key == "data/train-00000-of-00001/000000000" == train[0].group
    assert content_of(train[5].image)[:2] == b"\xff\xd8" and b"PNG" in content_of(train[5].sketch)
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_every_order_of_reading_gives_the_rows(rng, tmp_path, suffix):
    contents = [rng.bytes(int(size)) for size in rng.integers(1, 3000, 50)]
    file = tmp_path / f"x{suffix}"
    options = {"row_group_size": 20} if suffix == ".parquet" else {}
    for content in (contents, contents[::-1]):  # a replaced file is opened again
        write(file, {"image": [{"bytes": x, "path": None} for x in content]}, **options)
        for row in [*range(50), *rng.permutation(50).tolist()]:
            assert content_of(Cell(file, row, "image.bytes")) == content[row]
        with pytest.raises(OSError):
            content_of(Cell(file, 50, "image.bytes"))


def test_classes_lists_of_captions_and_rows_of_one_image_are_read(tmp_path):
    label = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    images = [PIXELS] * 6
    columns = {"image": images, "label": [0, 1, 0, 1, 0, -1], "image_id": [1, 1, 2, 3, 4, 5]}
    write(tmp_path / "a.arrow", columns, label)
    write(tmp_path / "cache-1.arrow", columns, label)
    captions = [["a", "b", "a"], ["c"], [], None, ["d"], ["e"]]
    write(tmp_path / "b.parquet", {"img": images, "captions": captions})
    found = scan(tmp_path)
    by_key = {item.key: item for item in found.items}
    assert by_key["a/000000001"].captions[0] == "A photo of a dog"
    assert by_key["a/000000001"].category == "dog"
    assert by_key["a/000000000"].group == by_key["a/000000001"].group == "train/1"
    assert by_key["b/000000000"].captions == ("a", "b")
    none = "has no caption"
    assert reasons(found) == {"a.arrow:6": none, "b.parquet:3": none, "b.parquet:4": none}


@pytest.mark.parametrize(
    "columns, reason",
    [
        ({"imgae": [PIXELS], "text": ["a"]}, r"no column of images .* rename imgae to image"),
        ({"image": ["a.png"], "text": ["a"]}, r"no column of images .*image: string"),
        ({"image": [[{"bytes": PIXELS}]], "text": ["a"]}, r"no column of images .*image: list<"),
        ({"image": [PIXELS], "Captoin": ["a"]}, r"no column of captions .*rename Captoin to cap"),
        ({"image": [PIXELS], "text": [{"en": "a"}]}, r"x.parquet:1 has a caption .*type dict"),
        ({"image": [PIXELS], "text": ["a\0"]}, r"x.parquet:1 has a caption .*NUL"),
    ],
)
def test_columns_that_cannot_be_used_end_in_one_sentence(tmp_path, columns, reason):
    write(tmp_path / "x.parquet", columns)
    with pytest.raises(UserError, match=rf"^No example .*{reason}"):
        scan(tmp_path)


def test_damaged_files_and_rows_are_listed_and_the_rest_used(rng, tmp_path):
    root, data = tmp_path / "root", tmp_path / "data"
    write_parquet(root, rng)
    whole = (root / "data" / "train-00000-of-00001.parquet").read_bytes()
    (root / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (root / "none.arrow").write_bytes(b"")
    images = [{"bytes": None, "path": "/etc/passwd"}, {"bytes": b"x", "path": None}, None]
    write(root / "odd.parquet", {"image": images, "text": ["a", "b", "c"]})
    options = Options(SIZE, root=root)
    (folder,) = prepare("parquet/some", data, options, Execution(max_rejected=0.5))
    lines = map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())
    found = {line["file"]: line["reason"] for line in lines}
    assert all(str(root) not in reason for reason in found.values())
    odd = {f"odd.parquet:{row}:image" for row in (1, 2, 3)}
    assert set(found) == {"cut.parquet", "none.arrow", *odd}
    assert "no embedded image" in found["odd.parquet:1:image"]
    sources = [RecordSource(data, "parquet/some", split, Options(SIZE)) for split in SPLITS]
    assert sum(map(len, sources)) == 9
    prepare("parquet/some", data, options)
    write(
        root / "odd.parquet",
        {"image": [images[0], {"bytes": b"y", "path": None}, None], "text": ["a", "b", "c"]},
    )
    with pytest.raises(UserError, match=r"\(other image: odd.parquet:2:image\)"):
        prepare("parquet/some", data, options)
