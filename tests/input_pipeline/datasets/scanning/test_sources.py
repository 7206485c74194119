"""Replaced, added and removed source files of records are detected."""

import json
import os
import shutil

import numpy as np
import photo_trees
import pytest
from commands import run_here

from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from input_pipeline.record_format import SOURCES_FILE
from ragaf_jax.errors import UserError

SIZE = 32


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, seed):
    """Prepared images with sketches and a table of captions; tests must not change them."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(seed)
    photo_trees.write_folder(folder / "root", rng, 6, "captions.csv", sketches=True)
    for image in (folder / "root" / "image").iterdir():  # of the sketches' proportions
        photo_trees.save(photo_trees.random_photo(rng, 90, 90), image)
    prepare("folder", folder / "data", Options(SIZE, root=folder / "root"))
    return folder


@pytest.fixture
def root(prepared, tmp_path):
    """A copy of the images that tests may change."""
    return shutil.copytree(prepared / "root", tmp_path / "root")


def first(folder):
    return sorted(path for path in folder.iterdir())[0]


def other_bytes(path):
    """Another image with the same file size and time, as after `cp -p`."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def other_sketches(root):
    for path in (root / "sketch").iterdir():
        other_bytes(path)


def other_captions(root):
    table = root / "captions.csv"
    table.write_text(table.read_text().replace("A ", "One "))


def one_more(root):
    with (root / "captions.csv").open("a") as table:
        table.write("more.png,A thing.\n")
    shutil.copy(first(root / "sketch"), root / "sketch" / "more.png")
    shutil.copy(first(root / "image"), root / "image" / "more.png")


def one_less(root):
    first(root / "image").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: other_bytes(first(root / "image")), r"other image: image/picture 000\.\w+\)"),
        (
            other_sketches,
            r"other sketch: sketch/picture 000.png, sketch/picture 001.png, .* and 3 more\)",
        ),
        (
            lambda root: shutil.rmtree(root / "sketch"),
            r"other sketch: that of image/picture 000\.\w+, .* and 3 more\)",
        ),
        (other_captions, r"other captions or split: image/picture 000\.\w+, .* and 3 more\)"),
        (one_more, r"added: image/more.png\)"),
        (one_less, r"gone: picture 000\)"),
    ],
)
def test_files_that_changed_under_the_same_names_are_named(prepared, root, change, said):
    change(root)
    with pytest.raises(UserError, match=said) as raised:
        prepare("folder", prepared / "data", Options(SIZE, root=root))
    assert str(raised.value).endswith(
        "; delete it, with any cache in it, and prepare again, or choose another --data_dir."
    )


def test_the_same_pictures_of_another_time_are_the_same(prepared, root):
    for path in root.rglob("*"):
        os.utime(path, ns=(0, 0))
    prepare("folder", prepared / "data", Options(SIZE, root=root))


def test_where_pictures_are_not_named_it_is_said_that_none_was_compared(prepared):
    command = ["--dataset=folder", f"--data_dir={prepared / 'data'}", f"--size={SIZE}"]
    ended = run_here("input_pipeline.prepare", *command)
    assert ended.status == 0
    assert "is not compared with its images, because no --root names them." in ended.stderr


def test_a_quick_trial_notices_changes_of_the_pictures_that_it_took(prepared, root, tmp_path):
    options = Options(SIZE, root=root, limit=1)
    (folder,) = prepare("folder", tmp_path / "data", options)
    lines = [json.loads(line) for line in (folder / SOURCES_FILE).read_text().splitlines()]
    taken = [line["key"] for line in lines if line["image"]]
    assert len(lines) == 6 and len(taken) == 3
    other_bytes(root / "sketch" / f"{taken[0]}.png")
    with pytest.raises(UserError, match=rf"\(other sketch: sketch/{taken[0]}.png\)"):
        prepare("folder", tmp_path / "data", options)


@pytest.mark.parametrize("content", ["{", '{"key": 1}\n', '{"wrong": 1}\n'])
def test_a_damaged_list_of_sources(prepared, root, tmp_path, content):
    data = shutil.copytree(prepared / "data", tmp_path / "data")
    (path,) = data.rglob(SOURCES_FILE)
    path.write_text(content)
    with pytest.raises(UserError, match=r"^The list .* cannot be read \(.*delete .* again\.$"):
        prepare("folder", data, Options(SIZE, root=root))


def test_records_of_an_older_version_are_compared_by_names_and_captions(
    prepared, root, tmp_path, capsys
):
    data = shutil.copytree(prepared / "data", tmp_path / "data")
    next(data.rglob(SOURCES_FILE)).unlink()
    prepare("folder", data, Options(SIZE, root=root))
    assert f"has no {SOURCES_FILE}, which older versions did not write" in capsys.readouterr().err
    other_captions(root)
    with pytest.raises(UserError, match=r"\(other images, captions or splits\)"):
        prepare("folder", data, Options(SIZE, root=root))
