import json
import os
import pickle
import shutil

import pytest
from photo_trees import write_coco

from input_pipeline.datasets.coco import scan
from input_pipeline.datasets.scanning.items import Rejected
from input_pipeline.datasets.scanning.splits import split_groups
from ragaf_jax.errors import UserError

TABLE = "annotations/captions_train2017.json"


@pytest.fixture
def root(rng, tmp_path):
    write_coco(tmp_path, rng, train=8, val=2)
    return tmp_path


def edit(root, change, table=TABLE):
    """Applies a function to an annotation file."""
    content = json.loads((root / table).read_text())
    change(content)
    (root / table).write_text(json.dumps(content))


def image(number, name=None):
    return {"id": number, "file_name": name or f"{number:012d}.jpg", "height": 9, "width": 9}


@pytest.mark.parametrize("year, prefix", [(2017, ""), (2014, "COCO_{}_")])
def test_every_photo_has_all_its_captions(rng, tmp_path, year, prefix):
    captions = write_coco(tmp_path, rng, train=7, val=3, year=year)
    found = scan(tmp_path)
    assert found.rejected == []
    assert [item.key for item in found.items] == sorted(captions)
    for item in found.items:
        folder = f"val{year}" if item.split == "test" else f"train{year}"
        assert item.image == tmp_path / folder / f"{prefix.format(folder)}{item.key}.jpg"
        assert item.image.is_file()
        assert item.sketch is None and item.category == "" and item.group == item.key
        assert sorted(item.captions) == sorted(captions[item.key])
    assert pickle.loads(pickle.dumps(found)) == found


def test_val_is_the_test_split_and_validation_is_cut_from_train(root):
    found = scan(root)
    tested = {item.key for item in found.items if item.split == "test"}
    assert tested == {path.stem for path in (root / "val2017").iterdir()}
    trained = [path.stem for path in (root / "train2017").iterdir()]
    expected = split_groups(trained, ("validation",))
    assert {item.key: item.split for item in found.items if item.split != "test"} == expected


def test_of_both_years_the_later_is_read(root, rng):
    found = scan(root)
    write_coco(root, rng, train=3, val=1, year=2014)
    assert scan(root) == found
    shutil.rmtree(root / "val2017")
    (root / "annotations" / "captions_val2014.json").unlink()
    with pytest.raises(UserError, match=r"captions_val2014.json is missing; .*trainval2014.zip"):
        scan(root)


def test_captions_are_tidied(root):
    def change(content):
        number = content["images"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != number]
        for text in ("  A cat\n on a\t mat. ", "A cat on a mat.", " \n", "", "Ein Kätzchen 🐈"):
            content["annotations"].append({"image_id": number, "id": 1, "caption": text})

    edit(root, change)
    number = json.loads((root / TABLE).read_text())["images"][0]["id"]
    found = scan(root)
    assert found.rejected == []
    item = next(item for item in found.items if item.key == f"{number:012d}")
    assert item.captions == ("A cat on a mat.", "Ein Kätzchen 🐈")


def test_what_the_listing_and_the_folder_disagree_on(rng, root):
    whole = scan(root)
    trained = [item.key for item in whole.items if item.split != "test"]
    gone, silent, twice, again = rng.choice(trained, 4, replace=False)
    (root / "train2017" / f"{gone}.jpg").unlink()

    def change(content):
        for annotation in content["annotations"]:
            if annotation["image_id"] == int(silent):
                annotation["caption"] = " \n "
        content["images"] += [image(int(twice)), image(999_999, f"{again}.jpg")]
        content["annotations"].append({"image_id": 777_777, "id": 5, "caption": "A ghost."})

    edit(root, change)
    found = scan(root)
    assert {item.key for item in found.items} == {i.key for i in whole.items} - {gone, silent}
    assert found.rejected == sorted(
        [
            Rejected(f"train2017/{gone}.jpg", f"is listed in {TABLE} but missing"),
            Rejected(f"train2017/{silent}.jpg", "has no caption"),
            Rejected(TABLE, f"lists the image {int(twice)} twice"),
            Rejected(f"train2017/{again}.jpg", "is listed again as image 999999"),
            Rejected(TABLE, "has a caption of the image 777777, which it does not list"),
        ]
    )


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "a\\b.jpg", "a\0.jpg", "sub/a.jpg", "", "..", "."]
)
def test_names_that_leave_the_folder(root, name):
    (root / "secret.jpg").write_bytes(b"x")
    whole = scan(root)
    edit(root, lambda content: content["images"].append(image(1) | {"file_name": name}))
    found = scan(root)
    assert found.items == whole.items
    shown = name.replace("\0", "\\x00")
    expected = Rejected(f"train2017/{shown}", "is not the name of a file in train2017")
    assert found.rejected == [expected]


def test_links_out_of_the_data_set(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    whole = scan(root)
    moved, linked = [item for item in whole.items if item.split == "train"][:2]
    shutil.move(moved.image, outside / "a.jpg")
    moved.image.symlink_to(outside / "a.jpg")
    shutil.move(linked.image, root / "elsewhere.jpg")  # a link that stays inside is fine
    linked.image.symlink_to(root / "elsewhere.jpg")
    found = scan(root)
    reason = "is a link that leads out of the dataset"
    assert found.rejected == [Rejected(f"train2017/{moved.key}.jpg", reason)]
    assert {item.key for item in found.items} == {item.key for item in whole.items} - {moved.key}

    shutil.move(root / "train2017", outside / "train2017")
    (root / "train2017").symlink_to(outside / "train2017")
    with pytest.raises(UserError, match="train2017 is a link that leads out of"):
        scan(root)


def test_one_file_under_two_names_is_read_once(root):
    """A link from one half into the other would put an example into both splits."""
    whole = scan(root)
    tested = next(item for item in whole.items if item.split == "test")
    linked = next(item for item in whole.items if item.split == "train")
    linked.image.unlink()
    linked.image.symlink_to(tested.image)
    found = scan(root)
    reason = f"is a link to val2017/{tested.key}.jpg, which is already used"
    assert found.rejected == [Rejected(f"train2017/{linked.key}.jpg", reason)]
    assert {item.key for item in found.items} == {item.key for item in whole.items} - {linked.key}


def test_a_photo_of_both_halves_is_not_trained_on(root):
    whole = scan(root)
    tested = next(item for item in whole.items if item.split == "test")
    shutil.copy(tested.image, root / "train2017")

    def change(content):
        content["images"].append(image(int(tested.key)))
        content["annotations"].append({"image_id": int(tested.key), "id": 1, "caption": "Too."})

    edit(root, change)
    found = scan(root)
    assert found.items == whole.items
    assert found.rejected == [Rejected(f"train2017/{tested.key}.jpg", "is also in val2017")]


def test_records_of_the_wrong_kind(root):
    whole = scan(root)
    number = json.loads((root / TABLE).read_text())["images"][0]["id"]

    def change(content):
        content["images"] += [{"id": "7", "file_name": "a.jpg"}, {"id": 7}, None]
        content["annotations"] += [{"image_id": number}, "text", {"image_id": [], "caption": ""}]
        for caption in (["A", "list"], 12, None, "nul\0", "lone \ud800"):
            content["annotations"].append({"image_id": number, "id": 1, "caption": caption})

    edit(root, change)
    found = scan(root)
    assert found.items == whole.items
    assert {line.file for line in found.rejected} == {TABLE}
    assert sorted(line.reason for line in found.rejected) == sorted(
        [f"has no id and file_name in its image {n}" for n in (8, 9, 10)]
        + [f"has no image_id and caption in its annotation {n}" for n in (40, 41, 42)]
        + [
            f"has a caption of the image {number} that {problem}"
            for problem in (
                "is of type list, not text",
                "is of type int, not text",
                "is of type NoneType, not text",
                "holds a NUL byte",
                "is not UTF-8",
            )
        ]
    )


def test_what_is_missing_or_broken_ends_in_one_sentence(rng, tmp_path):
    def broken(change, match):
        root = tmp_path / "coco"
        write_coco(root, rng)
        change(root)
        with pytest.raises(UserError, match=match) as caught:
            scan(root)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
        shutil.rmtree(root)

    def write(text):
        return lambda root: (root / TABLE).write_bytes(text)

    broken(lambda root: shutil.rmtree(root / "val2017"), "val2017 is missing")
    broken(lambda root: shutil.rmtree(root / "train2017"), "train2017 is missing")
    broken(lambda root: shutil.rmtree(root / "annotations"), "annotations is missing")
    broken(lambda root: (root / TABLE).unlink(), "captions_train2017.json is missing; unpack")
    broken(write(b'{"images": ['), "captions_train2017.json is not JSON")
    broken(write(b"\xff\xfe\xfa"), "captions_train2017.json is not JSON")
    broken(write(b"[" * 200_000), "captions_train2017.json is not JSON")
    broken(write(b"[]"), "captions_train2017.json has no lists named images and annotations")
    broken(write(b'{"images": []}'), "has no lists named images and annotations")
    broken(write(b'{"images": [], "annotations": {}}'), "has no lists named")
    empty = b'{"images": [], "annotations": []}'
    broken(write(empty), "Usable images to split: 0; 3 or more are needed")
    val = TABLE.replace("train", "val")
    broken(lambda root: (root / val).write_bytes(empty), "No photo in .*val2017 has a caption")

    def pipe(root):
        (root / TABLE).unlink()
        os.mkfifo(root / TABLE)

    broken(pipe, "captions_train2017.json is missing")
