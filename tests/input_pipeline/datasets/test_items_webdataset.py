"""Tar shards: their examples, splits and selection, and whatever is wrong in them."""

import json
import pickle
import tarfile

import numpy as np
import pytest
from photo_trees import encoded, random_caption, write_tar, write_webdataset

from input_pipeline.datasets.building import SPLITS
from input_pipeline.datasets.scanning.containers import content_of
from input_pipeline.datasets.scanning.splits import split_groups
from input_pipeline.datasets.webdataset import scan
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import Execution, prepare
from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError

SIZE = 32
PIXELS = encoded(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8))


def example(key, **others):
    """An image and a caption under a key, and other files with _ for dots."""
    files = {"png": PIXELS, "txt": f"a {key}".encode(), **others}
    return {f"{key}.{name.replace('_', '.')}": content for name, content in files.items()}


def examples(*keys):
    return {name: content for key in keys for name, content in example(key).items()}


def reasons(found):
    return {line.file: line.reason for line in found.rejected}


def test_shards_have_the_images_and_captions_that_were_written(rng, tmp_path):
    captions = write_webdataset(tmp_path, rng)
    found = scan(tmp_path)
    assert found.rejected == [] and found.held == ("validation", "test")
    assert {item.key: list(item.captions) for item in found.items} == captions
    assert {item.key: item.split for item in found.items} == split_groups(captions)
    for item in found.items:
        with tarfile.open(item.image.file) as tar:
            assert tar.extractfile(item.image.name).read() == content_of(item.image)
    assert pickle.loads(pickle.dumps(found)) == found


def test_sketches_classes_and_lists_of_captions_are_read(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        members = {}
        for n in range(count):
            files = {"sketch_png": PIXELS, "cls": b"1\n"}
            files |= {"json": json.dumps({"prompt": ["a dog", "a hound"]}).encode()} if n else {}
            members |= {k: v for k, v in example(f"a/{n}", **files).items() if n or "txt" not in k}
        write_tar(tmp_path / f"x-{split}-00.tar", members)
    (tmp_path / "classnames.txt").write_text("cat\nalarm clock\n")
    found = scan(tmp_path)
    assert found.rejected == [] and found.held == ()
    assert [item.split for item in found.items] == ["test", *["train"] * 3, "validation"]
    assert {item.category for item in found.items} == {"alarm clock"}
    assert all(item.sketch.name == f"{item.image.name[:-4]}.sketch.png" for item in found.items)
    first, second = found.items[1:3]
    assert first.captions[0] == "A photo of an alarm clock"
    assert second.captions == ("a a/1", "a dog", "a hound")


def test_braces_and_wildcards_select_shards(tmp_path):
    for number in range(8, 12):
        write_tar(tmp_path / f"s-{number:03d}.tar", examples("abcdef"[number - 8], "x", "y"))

    def chosen(pattern):
        return sorted({item.image.file.name for item in scan(tmp_path, pattern).items})

    assert chosen("s-{008..010}.tar") == ["s-008.tar", "s-009.tar", "s-010.tar"]
    assert chosen("s-{009,011}.tar") == ["s-009.tar", "s-011.tar"]
    assert chosen("s-01?.tar") == ["s-010.tar", "s-011.tar"]
    with pytest.raises(UserError, match=r"--shards=s-\{.* names s-012.tar, which is not in"):
        scan(tmp_path, "s-{010..012}.tar")
    with pytest.raises(UserError, match="at most 1000000 are allowed"):
        scan(tmp_path, "{0..99999999999}.tar")


def test_links_to_shards_neither_repeat_examples_nor_leave_the_root(tmp_path):
    outside = write_tar(tmp_path / "outside.tar", examples("z"))
    write_tar(tmp_path / "root" / "test-0.tar", examples("x", "y"))
    write_tar(tmp_path / "root" / "a-train.tar", examples("a", "b", "c"))
    (tmp_path / "root" / "train-1.tar").symlink_to("test-0.tar")
    (tmp_path / "root" / "train-2.tar").symlink_to(outside)
    found = scan(tmp_path / "root")
    assert [item.split for item in found.items if item.key.startswith("test")] == ["test"] * 2
    assert len(found.items) == 5
    assert reasons(found) == {
        "train-1.tar": "is the same file as test-0.tar",
        "train-2.tar": "is a link that leads out of the dataset",
    }


def test_whatever_is_wrong_in_a_shard_is_listed_and_the_rest_used(tmp_path):
    members = [*examples("a", "b", "c", "d", "e").items()]
    members += [*example("f", jpg=PIXELS).items(), *example("a").items()]
    members += [("../up.png", PIXELS), ("/etc/x.png", PIXELS), ("n\nl.png", PIXELS)]
    members += [("g.png", PIXELS), *example("h", json=b"{").items(), ("i.cls", b"3")]
    members += [*example("j", txt=b"\xff").items()]
    path = write_tar(tmp_path / "0.tar", members)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("k.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = scan(tmp_path)
    assert [item.key for item in found.items] == [f"0/{name}" for name in "abcde"]
    why = reasons(found)
    assert why.pop("0.tar/f.jpg") == "has the same name as 0.tar/f.png"
    assert why.pop("0.tar/a") == "has the name of an earlier example in its shard"
    assert why.pop("0.tar/g.png") == "has no caption (files: png)"
    assert "JSON" in why.pop("0.tar/h.json") and "UTF-8" in why.pop("0.tar/j.txt")
    assert "link" in why.pop("0.tar/k.png")
    assert why.pop(r"0.tar/n\nl.png").startswith("has control characters")
    assert set(why.values()) == {"has a name outside its tar file"} and len(why) == 2


# Each file of an example has 1 KiB with its header.
@pytest.mark.parametrize("kept, left", [(3772, {"1/a", "1/b"}), (3200, {"1/a"}), (0, set())])
def test_a_truncated_shard_keeps_its_whole_examples(tmp_path, kept, left):
    write_tar(tmp_path / "0.tar", examples("a", "b", "c", "d", "e"))
    path = write_tar(tmp_path / "1.tar", examples("a", "b"))
    path.write_bytes(path.read_bytes()[:kept])
    found = scan(tmp_path)
    whole = {item.key for item in found.items if item.key.startswith("1")}
    assert whole == left and len(found.items) == 5 + len(left)
    assert [line.file.split("/")[0] for line in found.rejected] == ["1.tar"] * len(found.rejected)
    assert found.rejected


def test_compressed_shards_end_in_one_sentence(tmp_path):
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(UserError, match=r"^No example .*0.tar.gz is no complete, uncom.*gunzip it"):
        scan(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^There are no files \*.tar or "):
        scan(tmp_path / "empty")


def test_records_of_shards_list_broken_images_and_detect_changes(rng, tmp_path):
    root, data = tmp_path / "root", tmp_path / "data"
    captions = write_webdataset(root, rng)
    broken = example("x", png=PIXELS[:60]) | {"y.png": b"", "y.txt": b"a y"}
    write_tar(root / "2.tar", broken)
    options = Options(SIZE, root=root)
    (folder,) = prepare("webdataset/some", data, options, Execution(max_rejected=0.5))
    lines = map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())
    found = {line["file"]: line["reason"] for line in lines}
    assert set(found) == {"2.tar/x.png", "2.tar/y.png"}
    assert found["2.tar/y.png"] == "is empty (0 bytes); save it again"
    sources = [RecordSource(data, "webdataset/some", split, Options(SIZE)) for split in SPLITS]
    assert sum(map(len, sources)) == len(captions)
    prepare("webdataset/some", data, options)
    other = dict.fromkeys(["0.png", "0.txt"], PIXELS) | {"0.txt": random_caption(rng).encode()}
    write_tar(root / "2.tar", other)
    with pytest.raises(UserError, match=r"added: 2.tar/0.png; gone: 2/x, 2/y"):
        prepare("webdataset/some", data, options)
