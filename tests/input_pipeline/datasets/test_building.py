"""Rejected examples, their limit, and the records of Beam pipelines."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import photo_trees
import pytest
from PIL import Image

from input_pipeline.datasets.building import Rejections
from input_pipeline.datasets.scanning.items import Rejected
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import Execution, prepare
from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError

SIZE = 32


def rejected_of(path: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(set(line) == {"file", "reason"} for line in lines)
    return {line["file"]: line["reason"] for line in lines}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".preparation.lock"
    }


def test_a_hundredth_may_be_rejected_and_no_more(tmp_path):
    report = tmp_path / "not yet there" / "rejected.jsonl"
    rejections = Rejections(200, 0.01, report)
    rejections.add([Rejected("a.jpg", "is damaged")])
    rejections.add([Rejected("b\udce9.jpg", "is empty")])  # a name that is not UTF-8
    assert not report.exists()
    with pytest.raises(UserError, match=r"^3 of 200 .*: a.jpg is damaged; .*than 0\.01 with"):
        rejections.add([Rejected("c.jpg", "is no image")])
    assert [json.loads(line)["file"] for line in report.read_bytes().splitlines()][2] == "c.jpg"


@pytest.fixture
def pictures(tmp_path, rng):
    """A folder of images; two are broken and one has no caption."""
    root = tmp_path / "pictures"
    captions = photo_trees.write_folder(root, rng, pictures=12)
    whole = sorted(path for path in root.iterdir() if path.suffix != ".jsonl")
    truncated, garbage = whole[3], whole[7]
    truncated.write_bytes(truncated.read_bytes()[:200])
    garbage.write_bytes(rng.bytes(500))
    photo_trees.save(photo_trees.random_photo(rng, 40, 50), root / "uncaptioned.png")
    # A name that is no ordinary text, of a picture that is none.
    odd = truncated.rename(root / f"a\N{NO-BREAK SPACE}b{truncated.suffix}")
    table = root / "metadata.jsonl"
    table.write_text(table.read_text().replace(truncated.name, odd.name))
    return root, len(captions), {odd.name, garbage.name, "uncaptioned.png"}


def test_broken_pictures_are_left_out_and_listed(tmp_path, pictures):
    root, count, broken = pictures
    options, data = Options(SIZE, root=root), tmp_path / "data"
    with pytest.raises(UserError, match=r"of 13 examples cannot be used.*--max_rejected"):
        prepare("folder", data, options)
    listed = data / "folder" / f"{SIZE}px" / "rejected.jsonl"
    assert set(rejected_of(listed)) <= broken
    assert not list(data.glob("folder/*/1*")) and not list(data.glob("folder/*/incomplete*"))

    # By way of a link: what is listed is named from the root on all the same.
    (tmp_path / "link").symlink_to(root)
    options = dataclasses.replace(options, root=tmp_path / "link")
    (folder,) = prepare("folder", data, options, Execution(max_rejected=0.5))
    assert not listed.exists()
    found = rejected_of(folder / "rejected.jsonl")
    assert set(found) == broken
    assert all(reason and str(root) not in reason for reason in found.values())
    records = [
        RecordSource(data, "folder", split, Options(SIZE))
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, records)) == count - 2


def test_sketches_that_do_not_belong_to_their_pictures_are_listed(tmp_path, rng):
    """EXIF data rotate images, so that a sketch without them has another aspect ratio."""
    root = tmp_path / "pictures"
    for i in range(8):
        photo = photo_trees.random_photo(rng, 60, 80)
        (root / "image").mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 0 else 1  # to be turned by 90°
        Image.fromarray(photo).save(root / "image" / f"{i}.jpg", exif=exif)
        page = np.full((60, 80), {1: 255, 2: 0}.get(i, 255), np.uint8)
        if i not in (1, 2):
            page[20:40, 30] = page[20, 30:50] = 0
        photo_trees.save(page, root / "sketch" / f"{i}.png")
        (root / "image" / f"{i}.txt").write_text("a thing\n")
    options = Options(SIZE, root=root)
    (folder,) = prepare("folder", tmp_path / "data", options, Execution(max_rejected=0.5))
    found = rejected_of(folder / "rejected.jsonl")
    assert set(found) == {"sketch/0.png", "sketch/1.png", "sketch/2.png"}
    assert found["sketch/0.png"] == (
        "has 80 × 60 pixels and the image 60 × 80 after its EXIF rotation, which is another aspect "
        "ratio; rotate one by 90°"
    )
    for name in ("sketch/1.png", "sketch/2.png"):
        assert found[name] == "has no lines: all its pixels have one colour"


def test_the_vocabulary_has_the_words_of_mirrored_captions(tmp_path, rng):
    root = tmp_path / "pictures"
    photo_trees.write_folder(root, rng, pictures=6)
    table = root / "metadata.jsonl"
    text = "A moon on the Left"
    rows = [json.loads(line) | {"text": text} for line in table.read_text().splitlines()]
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    prepare("folder", tmp_path / "data", Options(SIZE, root=root))
    tokenizer = RecordSource(tmp_path / "data", "folder", "train", Options(SIZE)).tokenizer

    assert tokenizer.unknown_words("the moon on a right") == []
    assert tokenizer.unknown_words("a setting moon") == ["setting"]


def test_pictures_of_which_none_can_be_read_are_answered_with_a_sentence(tmp_path, pictures):
    root, *_ = pictures
    for path in root.iterdir():
        if path.suffix != ".jsonl":
            path.write_bytes(b"nothing of use")
    with pytest.raises(
        UserError,
        match=r"^Usable images to split: 0; .*\(the first: .* all so far: .*rejected.jsonl\)\.$",
    ):
        prepare("folder", tmp_path / "data", Options(SIZE, root=root), Execution(max_rejected=1.0))
    assert not list((tmp_path / "data").glob("folder/*/*.*.*"))


def test_what_was_prepared_otherwise_is_not_taken_for_what_is_asked(tmp_path, rng):
    root, other = tmp_path / "one", tmp_path / "other"
    for folder in (root, other):
        photo_trees.write_folder(folder, rng, pictures=5)
    options, data = Options(SIZE, root=root), tmp_path / "data"
    (folder,) = prepare("folder/own-1", data, options)
    assert folder == data / "folder" / f"own-1_{SIZE}px" / "1.1.0"
    assert prepare("folder/own-1", data, dataclasses.replace(options, root=None)) == [folder]
    with pytest.raises(UserError, match=r"was prepared from other files than .*other now"):
        prepare("folder/own-1", data, dataclasses.replace(options, root=other))
    root.rename(tmp_path / "moved")  # the same pictures
    options = dataclasses.replace(options, root=tmp_path / "moved")
    assert prepare("folder/own-1", data, options) == [folder]
    assert str(tmp_path) not in (folder / "metadata.json").read_text()
    for field, value in {"sketch": "xdog", "limit": 1}.items():
        with pytest.raises(UserError, match=f"prepared with --{field}=.* not {value}; delete it"):
            prepare("folder/own-1", data, dataclasses.replace(options, **{field: value}))


@pytest.mark.parametrize("name", ["folder/", "folder/../up", "folder/a b", "folder/.hidden", "x"])
def test_names_of_no_data_set_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"There is no dataset '{name}'"):
        prepare(name, tmp_path / "data", Options(SIZE, root=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_looked_for_where_the_environment_says(tmp_path, monkeypatch, rng):
    for variable in ("SKETCHY_ROOT", "COCO_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=r"give --root=<folder>, or in the variable COCO_ROOT\.$"):
        prepare("coco", tmp_path / "data", Options(SIZE))
    with pytest.raises(UserError, match=r"give --root=<folder>\.$"):
        prepare("folder", tmp_path / "data", Options(SIZE))
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "coco"))
    with pytest.raises(UserError, match=r"The folder .*/coco for the images of coco does"):
        prepare("coco", tmp_path / "data", Options(SIZE))
    assert not (tmp_path / "data").exists()
    photo_trees.write_coco(tmp_path / "coco", rng, train=4, val=2)
    prepare("coco", tmp_path / "data", Options(SIZE))
    assert len(RecordSource(tmp_path / "data", "coco", "test", Options(SIZE))) == 2
    photo_trees.write_coco(tmp_path / "others", rng, train=4, val=2)
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "others"))
    with pytest.raises(UserError, match=r"was prepared from other files .*\(added: .*; gone: "):
        prepare("coco", tmp_path / "data", Options(SIZE))
    said = r"--root is .* and both names sketchy and coco; .* in SKETCHY_ROOT and COCO_ROOT\.$"
    for name, message in {"both": said, "openmoji": r"; prepare each separately\.$"}.items():
        with pytest.raises(UserError, match=message):
            prepare(name, tmp_path / "data", Options(SIZE, root=tmp_path / "coco"))


def test_beam_in_this_process_makes_the_same_bytes(tmp_path, pictures):
    root, _, broken = pictures
    options = Options(SIZE, root=root, buckets=((40, 24), (32, 32), (24, 40)))
    for name, runner in (("beam", "DirectRunner"), ("alone", None)):
        execution = Execution(workers=1, max_rejected=0.5, beam_runner=runner)
        prepare("folder", tmp_path / name, options, execution)
    (listed,) = (tmp_path / "beam").rglob("rejected.jsonl")
    assert set(rejected_of(listed)) == broken
    assert contents(tmp_path / "beam") == contents(tmp_path / "alone")


@pytest.mark.beam
@pytest.mark.slow
def test_beam_makes_the_same_bytes_and_rejects_the_same(tmp_path, pictures):
    root, _, broken = pictures
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from input_pipeline import prepare\n"
        "from ragaf_jax.errors import run_cli\n"
        "if __name__ == '__main__':\n"
        "    prepare.define_flags()\n"
        "    run_cli(prepare.main)\n"
    )
    arguments = [f"--dataset=folder --size={SIZE} --root={root} --max_rejected=0.5"]
    options = "--beam_options=direct_num_workers=2,direct_running_mode=multi_processing"
    for name in ("tensorflow", "torch"):  # whoever imports one of them, in any process, fails
        stand_in = tmp_path / "stand-ins" / name / "__init__.py"
        stand_in.parent.mkdir(parents=True)
        stand_in.write_text(f"raise AssertionError('{name} is imported')")
    runs = {
        "beam": ["--beam_runner=DirectRunner", options],
        "processes": ["--workers=2"],
    }
    for name, more in runs.items():
        result = subprocess.run(
            [sys.executable, script, *arguments[0].split(), f"--data_dir={tmp_path / name}", *more],
            env={**os.environ, "PYTHONPATH": f"{tmp_path / 'stand-ins'}{os.pathsep}{Path.cwd()}"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert "3 rejected: " in result.stdout
    (listed,) = (tmp_path / "beam").rglob("rejected.jsonl")
    assert set(rejected_of(listed)) == broken
    assert contents(tmp_path / "beam") == contents(tmp_path / "processes")


def test_beam_is_asked_for_in_its_own_words(tmp_path, rng):
    photo_trees.write_folder(tmp_path / "pictures", rng, pictures=5)
    options = Options(SIZE, root=tmp_path / "pictures")
    for execution, sentence in (
        (Execution(beam_runner="NoSuchRunner"), "--beam_runner=NoSuchRunner: "),
        (
            Execution(beam_runner="DirectRunner", beam_options="workerz=2"),
            "contains 'workerz', which is not an option of Beam",
        ),
        (
            Execution(beam_runner="DirectRunner", beam_options="direct_num_workers=two"),
            "is invalid: argument --direct_num_workers: invalid int value: 'two'",
        ),
    ):
        with pytest.raises(UserError, match=sentence):
            prepare("folder", tmp_path / "data", options, execution)
        assert not list((tmp_path / "data").rglob("1.*"))


@pytest.mark.beam
def test_beam_that_fails_ends_in_a_sentence(tmp_path, rng):
    root = tmp_path / "pictures"  # of given splits, which are not read before Beam does
    photo_trees.write_folder(root, rng, pictures=2, layout="splits")
    for path in root.glob("*/picture*"):
        path.write_bytes(b"nothing of use")
    execution = Execution(beam_runner="DirectRunner", max_rejected=1.0)
    with pytest.raises(UserError, match=r"^Beam's DirectRunner failed with .* examples is 0"):
        prepare("folder", tmp_path / "data", Options(SIZE, root=root), execution)
    assert not list((tmp_path / "data").rglob("1.*"))
