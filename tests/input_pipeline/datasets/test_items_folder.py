import csv
import json
import os
import pickle
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from photo_trees import LAYOUTS, save, write_folder

from input_pipeline.datasets.folder import scan
from input_pipeline.datasets.scanning.items import Rejected
from input_pipeline.datasets.scanning.splits import split_groups
from ragaf_jax.errors import UserError
from ragaf_jax.images import SUFFIXES

PIXELS = np.zeros((4, 4, 3), np.uint8)


def pictures(root: Path, *names: str) -> None:
    """Images with a text file each, in a folder with enough others."""
    for name in names:
        path = save(PIXELS, root / name)
        path.with_suffix(".txt").write_text(f"{path.stem}\n")


@pytest.fixture
def root(tmp_path):
    pictures(tmp_path, *(f"{letter}.png" for letter in "abcdef"))
    return tmp_path


def captions_of(found):
    return {item.key: item.captions for item in found.items}


def jsonl(path: Path, *rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(rng, tmp_path, layout):
    captions = write_folder(tmp_path, rng, pictures=6, layout=layout)
    found = scan(tmp_path)
    assert found.rejected == []
    assert captions_of(found) == {key: (caption,) for key, caption in sorted(captions.items())}
    for item in found.items:
        assert item.image.is_file() and item.category == "" and item.group == item.key
        assert (item.sketch is not None) is (layout in ("conditioning", "prompt.json"))
        if layout == "conditioning":
            assert item.sketch == tmp_path / "conditioning_images" / f"{item.key}.png"
        elif item.sketch:
            assert item.sketch == tmp_path / "source" / item.image.name
    if layout == "splits":
        assert all(item.split == item.key.split("/")[0] for item in found.items)
    else:
        assert {item.key: item.split for item in found.items} == split_groups(captions)
    assert pickle.loads(pickle.dumps(found)) == found


def test_pictures_with_sketches(rng, tmp_path):
    captions = write_folder(tmp_path, rng, 6, "captions.csv", sketches=True)
    found = scan(tmp_path)
    assert found.rejected == [] and len(found.items) == 6
    for item in found.items:
        assert item.sketch == tmp_path / "sketch" / f"{item.key}.png" and item.sketch.is_file()
    gone = str(rng.choice(list(captions)))
    (tmp_path / "sketch" / f"{gone}.png").unlink()
    less = scan(tmp_path)
    assert [item.key for item in less.items] == sorted(captions.keys() - {gone})
    image = next(item.image for item in found.items if item.key == gone)
    assert less.rejected == [Rejected(f"image/{image.name}", "has no sketch")]


@pytest.mark.parametrize(("images", "sketches"), [("images", "sketches"), ("image", "sketch")])
def test_folders_within_the_folders(tmp_path, images, sketches):
    pictures(tmp_path / images, *(f"{n}/x.JPG" for n in range(5)), "deep/er/y.webp")
    for name in (*(f"{n}/x.png" for n in range(5)), "deep/er/y.jpg"):
        save(PIXELS, tmp_path / sketches / name)
    found = scan(tmp_path)
    assert [item.key for item in found.items] == [*(f"{n}/x" for n in range(5)), "deep/er/y"]
    assert found.items[-1].sketch == tmp_path / sketches / "deep/er/y.jpg"
    assert found.rejected == []


@pytest.mark.parametrize("extension", [*sorted(SUFFIXES), ".PNG", ".Jpg"])
def test_extensions(root, extension):
    pictures(root, f"z{extension}")
    assert captions_of(scan(root))["z"] == ("z",)


def test_what_operating_systems_leave_behind(root):
    whole = scan(root)
    for name in (".a.png", "._a.png", "Thumbs.db", "__MACOSX/._a.png", ".git/x.png", "README.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    assert scan(root) == whole


def test_several_captions_of_a_picture(root):
    (root / "a.caption").write_bytes("\ufeffeine  Katze\r\n auf dem Dach".encode())
    jsonl(
        root / "metadata.jsonl",
        {"file_name": "a.png", "text": ["one", "two", " one "]},
        "",
        {"file_name": "a.png", "text": "three"},
        {"file_name": "b.png", "prompt": "four", "caption": "five"},
    )
    found = scan(root)
    assert found.rejected == []
    said = captions_of(found)
    assert set(said["a"]) == {"one", "two", "three", "a", "eine Katze auf dem Dach"}
    assert len(said["a"]) == 5
    assert set(said["b"]) == {"five", "b"} and said["c"] == ("c",)


JSON_CAPTIONS = {
    "BLIP": ('{"caption": "a  cat", "score": 0.9}', ("a cat",)),
    "several": ('{"caption": ["a cat", "on a roof", "a cat"]}', ("a cat", "on a roof")),
    "a list": ('["a cat", "on a roof"]', ("a cat", "on a roof")),
    "transformers": ('[{"generated_text": "a cat"}]', ("a cat",)),
    "text": ('"a cat"', ("a cat",)),
    "byte order mark": ('\ufeff{"text": "une étoile"}', ("une étoile",)),
    "img2dataset": ('{"caption": "g", "url": "http://x", "width": 5}', ()),
    "no caption": ('{"caption": null, "text": ""}', ()),
    "boxes": ('{"shapes": [{"points": [[1, 2]]}]}', ()),
    "numbers": ("[[1, 2], 3]", ()),
    "large": ('{"caption": "x", "imageData": "' + "A" * 200_000 + '"}', ()),
}


@pytest.mark.parametrize("case", JSON_CAPTIONS)
def test_json_of_taggers_beside_a_picture(root, case):
    """Other tools' JSON changes nothing; a picture with nothing else has no caption."""
    content, captions = JSON_CAPTIONS[case]
    pictures(root, "g.png", "h.png")
    (root / "h.txt").unlink()
    for name in "gh":
        (root / f"{name}.json").write_text(content, encoding="utf-8")
    found = scan(root)
    said = captions_of(found)
    assert said["g"] == ("g", *captions) and said["a"] == ("a",)
    alone = ("g",) if case == "img2dataset" else captions
    assert said.get("h", ()) == alone
    reason = "has no caption, and h.json has none"
    assert found.rejected == ([] if alone else [Rejected("h.png", reason)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"caption": "a cat"', "is not JSON (Expecting"),
        (b"a cat", "is not JSON (Expecting"),
        (b"", "is not JSON (Expecting"),
        (b"[" * 50_000, "is not JSON ("),
        (b"1" * 5000, "is not JSON (Exceeds"),
        (b'{"caption": 7}', "has a caption that is of type int, not text"),
        (b'{"caption": {"en": "x"}}', "has a caption that is of type dict, not text"),
        (b'{"caption": ["x", null]}', "has a caption that is of type NoneType, not text"),
        (b'["x\\u0000"]', "has a caption that holds a NUL byte"),
        (b'["\\ud83d"]', "has a caption that is not UTF-8"),
        ('["Kätzchen"]'.encode("latin-1"), "has a caption that is not UTF-8"),
        ('["a cat"]'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
    ],
)
def test_broken_json_beside_a_picture_spoils_only_itself(root, content, reason):
    (root / "a.json").write_bytes(content)
    pictures(root, "g.png")
    (root / "g.txt").rename(root / "g.json")
    (root / "g.json").write_bytes(content)
    found = scan(root)
    assert captions_of(found) == {name: (name,) for name in "abcdef"}
    assert [line.file for line in found.rejected] == ["a.json", "g.json"]
    assert all(line.reason.startswith(reason) for line in found.rejected)


def test_tables_within_folders_and_above_them(tmp_path):
    for name in "abcdef":
        save(PIXELS, tmp_path / "image" / "x" / f"{name}.png")
    rows = [("file_name", "caption"), ("image/x/a.png", "A"), ("x/b.png", "B, and more")]
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    jsonl(
        tmp_path / "image" / "x" / "metadata.jsonl",
        *({"file_name": f"{name}.png", "text": name.upper()} for name in "cdef"),
    )
    found = scan(tmp_path)
    assert found.rejected == []
    expected = {f"x/{name}": (name.upper(),) for name in "abcdef"}
    assert captions_of(found) == expected | {"x/b": ("B, and more",)}


ROWS = {
    "repeated": ({"file_name": "a.png", "text": "A"}, "repeats an earlier row"),
    "missing": ({"file_name": "z.png", "text": "A"}, "names a missing file: z.png"),
    "out": ({"file_name": "../z.png", "text": "A"}, "names a file outside the dataset: ../z.png"),
    "out and in": (
        {"file_name": "x/../../../a.png", "text": "A"},
        "names a file outside the dataset: x/../../../a.png",
    ),
    "absolute": (
        {"file_name": "/etc/passwd", "text": "A"},
        "has a file_name that is not relative to the table's folder",
    ),
    "backslash": (
        {"file_name": "image\\a.png", "text": "A"},
        "has a file_name that has \\ between its folders instead of /",
    ),
    "nul": ({"file_name": "a\0.png", "text": "A"}, "has a file_name that holds a NUL byte"),
    "surrogate": (
        {"file_name": "\ud800.png", "text": "A"},
        "names a missing file: \\ud800.png",
    ),
    "no picture": ({"file_name": "a.txt", "text": "A"}, "names a file that is not an image: a.txt"),
    "no name": ({"text": "A"}, "has no file_name"),
    "odd name": ({"file_name": ["a.png"], "text": "A"}, "has no file_name"),
    "no caption": ({"file_name": "b.png"}, "has no text or caption or prompt"),
    "empty": ({"file_name": "b.png", "text": " \n"}, "has an empty caption"),
    "empty list": ({"file_name": "b.png", "text": []}, "has an empty caption"),
    "number": ({"file_name": "b.png", "text": 7}, "has a caption that is of type int, not text"),
    "null": (
        {"file_name": "b.png", "text": None},
        "has a caption that is of type NoneType, not text",
    ),
    "mixed": (
        {"file_name": "b.png", "text": ["x", 1]},
        "has a caption that is of type int, not text",
    ),
    "nul caption": ({"file_name": "b.png", "text": "x\0"}, "has a caption that holds a NUL byte"),
    "lone surrogate": ({"file_name": "b.png", "text": "\ud83d"}, "has a caption that is not UTF-8"),
    "no object": ([1, 2], "is not a JSON object"),
    "sketch missing": (
        {"file_name": "b.png", "text": "B", "conditioning_image": "y.png"},
        "names a missing file: y.png",
    ),
    "sketch out": (
        {"file_name": "b.png", "text": "B", "conditioning_image": "../y.png"},
        "names a file outside the dataset: ../y.png",
    ),
    "sketch absolute": (
        {"file_name": "b.png", "text": "B", "conditioning_image": "/a.png"},
        "has a conditioning_image that is not relative to the table's folder",
    ),
    "sketch nul": (
        {"file_name": "b.png", "text": "B", "conditioning_image": "y\0.png"},
        "has a conditioning_image that holds a NUL byte",
    ),
    "sketch odd": (
        {"file_name": "b.png", "text": "B", "conditioning_image": {"path": "y.png"}},
        "has a conditioning_image that is not the name of a file",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_cannot_be_used(tmp_path, case):
    row, reason = ROWS[case]
    for name in "abcdefg":
        save(PIXELS, tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("A")
    rows = [{"file_name": f"{name}.png", "text": name.upper()} for name in "acdefg"]
    jsonl(tmp_path / "metadata.jsonl", *rows, row, {"file_name": "g.png", "text": "later"})
    found = scan(tmp_path)
    lines = [line for line in found.rejected if line.file != "b.png"]
    assert lines == [Rejected("metadata.jsonl:7", reason)]
    # A row that names its picture stands for it: only one line tells of the loss.
    named = isinstance(row, dict) and row.get("file_name") == "b.png"
    assert (Rejected("b.png", "has no caption") in found.rejected) is not named
    assert captions_of(found) == {
        **{name: (name.upper(),) for name in "acdef"},
        "g": ("G", "later"),
    }


def test_a_list_of_sources_and_targets_is_read_as_lines_are(rng, tmp_path):
    write_folder(tmp_path, rng, pictures=6, layout="prompt.json")
    table = tmp_path / "prompt.json"
    expected = scan(tmp_path)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    broken = [{**rows[0], "source": "../x.png"}, {**rows[0], "target": "a\0"}, 3]
    table.write_text(json.dumps([*rows, *broken], indent=1))
    found = scan(tmp_path)
    assert found.items == expected.items
    assert [line.file for line in found.rejected] == [f"prompt.json:{n}" for n in (7, 8, 9)]
    assert "outside" in found.rejected[0].reason and "NUL" in found.rejected[1].reason
    table.write_text("[")
    with pytest.raises(UserError, match="has a caption .*prompt.json:1 is not JSON"):
        scan(tmp_path)


def test_an_address_beside_a_file_name_is_no_sketch(root):
    jsonl(root / "metadata.jsonl", {"file_name": "a.png", "text": "A", "source": "http://x.org"})
    assert scan(root).rejected == [] and scan(root).items[0].sketch is None


def test_bytes_that_are_not_utf8_spoil_their_own_row(tmp_path):
    for name in "abcdefg":
        save(PIXELS, tmp_path / f"{name}.png")
    rows = [f"{name}.png,{name}\n".encode() for name in "abcdef"]
    latin = "g.png,Kätzchen\n".encode("latin-1")
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\n" + latin + b"".join(rows))
    found = scan(tmp_path)
    assert found.rejected == [Rejected("metadata.csv:2", "has a caption that is not UTF-8")]
    assert len(found.items) == 6


def test_csv_with_other_columns_and_broken_rows(tmp_path):
    for name in "abcdefg":
        save(PIXELS, tmp_path / f"{name}.png")
    rows = ["id, file_name ,prompt", *(f'{n},{n}.png,"{n},\n{n}"' for n in "abcdef")]
    rows += ["g,g.png,unquoted, comma", "", "7", f"g,g.png,{'x' * 200_000}", "g,g.png,never read"]
    (tmp_path / "captions.csv").write_text("\r\n".join(rows), newline="")
    found = scan(tmp_path)
    assert captions_of(found) == {name: (f"{name}, {name}",) for name in "abcdef"}
    assert [(line.file, line.reason.split(";")[0].split("(")[0]) for line in found.rejected] == [
        ("captions.csv:14", "has 4 fields and the header 3"),
        ("captions.csv:16", "has 1 fields and the header 3"),
        ("captions.csv:17", "is not CSV "),
        ("g.png", "has no caption"),
    ]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("name,text", "has no column file_name in its header (name, text); rename one"),
        (
            "file_name,label",
            "has no column text or caption or prompt in its header (file_name, label); rename one",
        ),
        ("", "has no column file_name in its header (empty); rename one"),
    ],
)
def test_tables_with_other_headers(root, header, reason):
    (root / "metadata.csv").write_text(f"{header}\na.png,x\n")
    found = scan(root)
    assert found.rejected == [Rejected("metadata.csv:1", reason)] and len(found.items) == 6


def test_lines_that_are_not_json(root):
    jsonl(root / "metadata.jsonl", "{'file_name': 'a.png'}", "[" * 100_000, '{"file_name"')
    found = scan(root)
    assert [line.file for line in found.rejected] == [f"metadata.jsonl:{n}" for n in (1, 2, 3)]
    assert all(line.reason.startswith("is not JSON (") for line in found.rejected)


def test_text_files_that_are_no_captions(root):
    pictures(root, *(f"{name}.png" for name in "uvwxyz"))
    (root / "v.txt").write_bytes("Kätzchen".encode("latin-1"))
    (root / "w.txt").write_text(" \n\t")
    (root / "x.txt").write_bytes(b"a\0b")
    (root / "y.txt").write_text("log " * 100_000)
    (root / "z.txt").unlink()
    os.mkfifo(root / "z.txt")
    found = scan(root)
    assert sorted(captions_of(found)) == list("abcdefu")
    assert found.rejected == [
        Rejected("v.txt", "is not UTF-8"),
        Rejected("w.txt", "is empty"),
        Rejected("x.txt", "holds a NUL byte"),
        Rejected("y.txt", "is longer than 100,000 bytes, which is too long for a caption"),
        Rejected("z.png", "has no caption"),
        Rejected("z.txt", "is neither a regular file nor a folder"),
    ]


def test_names_that_come_twice(root):
    pictures(root, "a.jpg", "image/z.png")
    shutil.rmtree(root / "image")
    save(PIXELS, root / "b.webp")
    for name in ("a.png", "b.png", "b.jpg", "c.png", "d.png", "e.png", "f.png"):
        save(PIXELS, root / "sketch" / name)
    found = scan(root)
    assert found.rejected == [
        Rejected("a.png", "has the same name as a.jpg"),
        Rejected("b.webp", "has the same name as b.png"),
        Rejected("sketch/b.png", "has the same name as sketch/b.jpg"),
    ]
    assert sorted(captions_of(found)) == list("abcdef")
    assert found.items[0].image == root / "a.jpg"


def test_rows_that_name_different_sketches(root):
    for name in "abcdef":
        save(PIXELS, root / "lines" / f"{name}.png")
        (root / f"{name}.txt").unlink()
    rows = [
        {"file_name": f"{n}.png", "text": n, "conditioning_image": f"lines/{n}.png"}
        for n in "abcdef"
    ]
    other = {"file_name": "a.png", "text": "more", "conditioning_image": "lines/b.png"}
    jsonl(root / "metadata.jsonl", *rows, other)
    found = scan(root)
    reason = "names another sketch than an earlier row"
    assert found.rejected == [Rejected("metadata.jsonl:7", reason)]
    assert found.items[0].captions == ("a",) and len(found.items) == 6


def test_links(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    pictures(outside, "o.png", "p.png")
    whole = scan(root)
    (root / "out.png").symlink_to(outside / "o.png")
    (root / "out").symlink_to(outside)
    (root / "nowhere.png").symlink_to(root / "missing.png")
    (root / "loop").symlink_to(root)
    (root / "same").symlink_to("more")
    (root / "twice").symlink_to("more")
    pictures(root, "more/m.png")
    (root / "linked.png").symlink_to("a.png")
    (root / "linked.txt").symlink_to("b.txt")
    (root / "this.png").symlink_to("that.png")
    (root / "that.png").symlink_to("this.png")
    found = scan(root)
    assert found.rejected == [
        Rejected("loop", "is another link to a folder that is already read"),
        Rejected("nowhere.png", "is neither a regular file nor a folder"),
        Rejected("out", "is a link that leads out of the dataset"),
        Rejected("out.png", "is a link that leads out of the dataset"),
        Rejected("that.png", "cannot be read: Too many levels of symbolic links"),
        Rejected("this.png", "cannot be read: Too many levels of symbolic links"),
        Rejected("twice", "is another link to a folder that is already read"),
    ]
    new = {"linked": ("b",), "more/m": ("m",), "same/m": ("m",)}
    assert captions_of(found) == dict(sorted((captions_of(whole) | new).items()))
    group = {item.key: item.group for item in found.items}
    assert group["linked"] == "a" and group["same/m"] == "more/m"
    split = {item.key: item.split for item in found.items}
    assert split["linked"] == split["a"] and split["same/m"] == split["more/m"]


def test_many_ways_through_links_end(root):
    for level in range(30):
        folder = root / f"level{level:02d}"
        folder.mkdir()
        for name in ("x", "y"):
            (folder / name).symlink_to(root / f"level{level + 1:02d}")
    pictures(root, "level30/z.png")
    found = scan(root)
    assert {item.group for item in found.items} == {*"abcdef", "level30/z"}


def test_names_that_cannot_be_written_down(root):
    whole = scan(root)
    for name in (b"line\nbreak.png", b"\xff\xfe.png"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(b"x")
    found = scan(root)
    assert found.items == whole.items
    assert [line.file for line in found.rejected] == ["\\udcff\\udcfe.png", "line\\nbreak.png"]
    json.dumps(found.rejected).encode()
    pictures(root, "Screenshot 1.00\u202fPM 🐈.png")  # odd, but a name
    assert len(scan(root).items) == 7


def test_splits_that_are_folders(tmp_path):
    for folder, names in (("train", "abcdefgh"), ("val", "ij"), ("test", "a")):
        pictures(tmp_path / folder, *(f"{name}.png" for name in names))
    found = scan(tmp_path)
    assert found.rejected == [] and len(found.items) == 11
    folder = {"train": "train", "validation": "val", "test": "test"}
    assert all(item.key.startswith(f"{folder[item.split]}/") for item in found.items)

    shutil.rmtree(tmp_path / "val")  # what is not given is cut from train
    splits = {item.key: item.split for item in scan(tmp_path).items}
    trained = [f"train/{name}" for name in "abcdefgh"]
    assert splits == {"test/a": "test"} | split_groups(trained, ("validation",))

    shutil.rmtree(tmp_path / "test")
    assert {item.key: item.split for item in scan(tmp_path).items} == split_groups(trained)

    pictures(tmp_path, "cars/x.png")  # now "train" is a thing on rails
    found = scan(tmp_path)
    groups = [*trained, "cars/x"]
    assert {item.key: item.split for item in found.items} == split_groups(groups)


def test_a_link_does_not_bring_a_test_picture_into_training(tmp_path):
    for folder, names in (("train", "abcd"), ("validation", "ef"), ("test", "gh")):
        pictures(tmp_path / folder, *(f"{name}.png" for name in names))
    (tmp_path / "train" / "z.png").symlink_to("../test/g.png")
    (tmp_path / "train" / "z.txt").write_text("z")
    (tmp_path / "test" / "y.png").symlink_to("../train/a.png")
    (tmp_path / "test" / "y.txt").write_text("y")
    found = scan(tmp_path)
    assert found.rejected == [
        Rejected("train/a.png", "is also in the test split"),
        Rejected("train/z.png", "is also in the test split"),
    ]
    assert {item.key: item.split for item in found.items if item.split == "test"} == {
        "test/g": "test",
        "test/h": "test",
        "test/y": "test",
    }


def test_a_root_table_may_name_pictures_of_the_splits(tmp_path):
    names = [f"{split}/{n}.png" for split in ("train", "validation", "test") for n in range(3)]
    for name in names:
        save(PIXELS, tmp_path / name)
    jsonl(tmp_path / "metadata.jsonl", *({"file_name": name, "text": name} for name in names))
    found = scan(tmp_path)
    assert captions_of(found) == {n.removesuffix(".png"): (n,) for n in sorted(names)}


def test_the_order_of_the_folder_does_not_matter(rng, tmp_path, shuffle_folders):
    write_folder(tmp_path, rng, 8, "captions.csv", sketches=True)
    (tmp_path / "image" / "copy.png").symlink_to(tmp_path / "sketch" / "picture 000.png")
    whole = scan(tmp_path)
    shuffle_folders()
    assert scan(tmp_path) == whole and whole.rejected


def test_what_is_no_data_set_ends_in_one_sentence(rng, tmp_path):
    def refused(match):
        with pytest.raises(UserError, match=match) as caught:
            scan(tmp_path / "data")
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")

    refused("data does not exist")
    (tmp_path / "data").mkdir()
    refused("There are no images in")
    save(PIXELS, tmp_path / "data" / "a.png")
    refused(r"has a caption; put a text file .* metadata.jsonl or metadata.csv .* captions.csv")
    (tmp_path / "data" / "a.txt").write_text("")
    refused(r"No image in .* has a caption \(first problem: a.txt is empty\); put")
    pictures(tmp_path / "data", "a.png")
    refused("Usable images to split: 1; 5 or more are needed")
    pictures(tmp_path / "data", "train/a.png", "test/b.png")
    refused(r"a\.png is beside the splits train and test; move it")
    (tmp_path / "data" / "a.png").unlink()
    (tmp_path / "data" / "test" / "b.txt").unlink()
    refused("No image of the test split in .* can be used.*; repair the split")
    pictures(tmp_path / "data", "test/b.png", "cars/c.png")
    refused("cars is beside the splits train and test; move it")


@pytest.mark.parametrize(
    "name, dataset", [("a/x.TAR", "webdataset"), ("x.arrow", "parquet"), ("x.ndjson", "quickdraw")]
)
def test_shards_in_a_folder_name_their_dataset(tmp_path, name, dataset):
    (tmp_path / "a").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"no images in .*, and --dataset={dataset} reads {name};"):
        scan(tmp_path)


def test_names_are_found_in_both_unicode_forms(tmp_path):
    """macOS decomposes é into e and an accent; tables and other systems use one character."""
    decomposed = [f"{name}e\u0301.png" for name in ("caf", "a", "b", "c", "d")]
    for name in decomposed:
        save(PIXELS, tmp_path / "image" / name)
        save(PIXELS, tmp_path / "sketch" / unicodedata.normalize("NFC", name))
    for name in decomposed[1:]:
        text = (tmp_path / "image" / unicodedata.normalize("NFC", name)).with_suffix(".txt")
        text.write_text("a thing\n")
    (tmp_path / "captions.csv").write_text("file_name,text\ncaf\u00e9.png,a cup\n")
    found = scan(tmp_path)
    assert len(found.items) == 5 and not found.rejected
    assert all(item.sketch is not None for item in found.items)


def test_images_in_other_formats_are_listed(root):
    (root / "x.heic").touch()
    (root / "y.SVG").touch()
    assert [rejected.file for rejected in scan(root).rejected] == ["x.heic", "y.SVG"]
    assert "save it as PNG or JPEG" in scan(root).rejected[0].reason


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "metadata.csv",
            b"file_name;text\na.png;a\n",
            "';' between its columns; save it with comm",
        ),
        (
            "metadata.csv",
            b"file_name,captions\na.png,a\n",
            r"no column text or .* \(file_name, captions\); ren",
        ),
        (
            "metadata.csv",
            b"filename,text\na.png,a\n",
            r"no column file_name .* \(filename, text\); rename",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "a.png"}'.encode("utf-16"),
            "is UTF-16; save it as UTF-8",
        ),
        ("a.txt", "a cat".encode("utf-16"), r"a.txt is UTF-16; save it as UTF-8"),
        ("A.txt", b"a cat", r"has a caption, and the name of A\.txt differs in case; put a text"),
        ("a.TXT", b"a cat", r"has a caption, and the name of a\.TXT differs in case; put a text"),
        (
            "metadata.csv",
            b"file_name,text\nA.png,a\n",
            r"names a missing file: A\.png, and the name of a\.png differs in case",
        ),
        ("captions.json", b"[]", "and the table captions.json is not supported"),
        ("train.parquet", b"PAR1", "and the table train.parquet is not supported"),
    ],
)
def test_why_no_caption_was_found(tmp_path, name, content, said):
    save(PIXELS, tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        scan(tmp_path)
