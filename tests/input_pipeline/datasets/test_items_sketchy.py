import os
import pickle
import shutil
from pathlib import Path

import pytest
from photo_trees import write_sketchy

from input_pipeline.datasets.scanning.items import Rejected
from input_pipeline.datasets.scanning.splits import split_groups
from input_pipeline.datasets.sketchy import PHOTO_OF, captions_of, scan
from ragaf_jax.errors import UserError

TX = "tx_000000000000"
SKETCHES, PHOTOS = Path("256x256/sketch") / TX, Path("256x256/photo") / TX


def splits_of(found):
    return {item.group: item.split for item in found.items}


@pytest.fixture
def root(rng, tmp_path):
    write_sketchy(tmp_path, rng, photos=4, sketches=3, info=False)
    return tmp_path


def test_every_sketch_lies_beside_its_photo(rng, tmp_path):
    photos = write_sketchy(tmp_path, rng, photos=3, sketches=2, info=False)
    found = scan(tmp_path)
    assert found.rejected == []
    keys = [item.key for item in found.items]
    assert keys == sorted(f"{photo}-{k}" for photo in photos for k in (1, 2))
    for item in found.items:
        category, name = item.key.split("/")
        assert item.image == tmp_path / PHOTOS / category / f"{item.group}.jpg"
        assert item.sketch == tmp_path / SKETCHES / category / f"{name}.png"
        assert item.image.is_file() and item.sketch.is_file()
        assert item.category == {"cat": "cat", "alarm_clock": "alarm clock"}[category]
        assert item.captions == captions_of(category)
    assert pickle.loads(pickle.dumps(found)) == found


def test_taggers_captions_of_a_photo_replace_the_templates(rng, tmp_path):
    photos = write_sketchy(tmp_path, rng, photos=3, sketches=2, info=False)
    one, two, three = (tmp_path / PHOTOS / f"{photo}.x" for photo in photos[:3])
    one.with_suffix(".json").write_text('{"caption": ["a cat on a sofa", "a tabby"]}')
    two.with_suffix(".txt").write_text("cat, sofa, no humans")
    three.with_suffix(".json").write_text("{")
    found = scan(tmp_path)
    said = {item.key: item.captions for item in found.items}
    for number, captions in enumerate(
        (("a cat on a sofa", "a tabby"), ("cat, sofa, no humans",), captions_of("cat"))
    ):
        assert {said[f"{photos[number]}-{k}"] for k in (1, 2)} == {captions}
    (line,) = found.rejected
    assert line.file == (PHOTOS / f"{photos[2]}.json").as_posix()
    assert line.reason.startswith("is not JSON (")


def test_all_sketches_of_a_photo_are_in_one_split_by_its_hash(root):
    found = scan(root)
    assert {(item.group, item.split) for item in found.items} == set(
        split_groups({item.group for item in found.items}).items()
    )
    assert set(splits_of(found).values()) == {"train", "validation", "test"}


def test_a_photo_of_two_categories_is_in_one_split(root):
    for half in (SKETCHES, PHOTOS):
        shutil.copytree(root / half / "cat", root / half / "tiger")
    found = scan(root)
    assert len({item.key for item in found.items}) == len(found.items) == 36
    assert len({(item.group, item.split) for item in found.items}) == 8
    assert len(splits_of(found)) == 8


def test_the_official_lists_decide(rng, tmp_path):
    photos = write_sketchy(tmp_path, rng, photos=8, sketches=2)
    found = scan(tmp_path)
    held = (tmp_path / "info" / "testset.txt").read_text().split()
    tested = {item.group for item in found.items if item.split == "test"}
    assert tested == {name.split("/")[1].removesuffix(".jpg") for name in held}
    rest = {photo.split("/")[1] for photo in photos} - tested
    for group, split in split_groups(rest, ("validation",)).items():
        assert splits_of(found)[group] == split
    left_out = (tmp_path / "info" / "invalid-error.txt").read_text().split()
    assert len(left_out) == 2 and len(found.items) == 2 * 16 - 2 and found.rejected == []
    assert not {Path(item.key).name for item in found.items} & set(left_out)


def test_names_in_the_lists_may_have_category_and_extension(rng, root):
    keys = [item.key for item in scan(root).items]
    sketches = [*rng.choice(keys[:12], 2, replace=False), *rng.choice(keys[12:], 1)]
    photo = next(key for key in keys if key not in sketches).rsplit("-", 1)[0]
    lines = [sketches[0], f"{sketches[1]}.png", Path(sketches[2]).name + ".svg", "", f"{photo}.jpg"]
    (root / "info").mkdir()
    (root / "info" / "invalid-pose.txt").write_text("\ufeff" + "\n".join(lines), "utf-8")
    left = [item.key for item in scan(root).items]
    expected = [key for key in keys if key not in sketches and key.rsplit("-", 1)[0] != photo]
    assert left == expected


def test_the_root_may_be_any_of_its_folders(rng, tmp_path):
    write_sketchy(tmp_path / "a", rng)
    whole = scan(tmp_path / "a")
    assert scan(tmp_path / "a" / "256x256") == whole
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert scan(tmp_path / "link") == whole
    (tmp_path / "a" / "256x256").rename(tmp_path / "b")
    (tmp_path / "a" / "info").rename(tmp_path / "b" / "info")
    flat = scan(tmp_path / "b")
    facts = [(item.key, item.group, item.split) for item in whole.items]
    assert [(item.key, item.group, item.split) for item in flat.items] == facts


def test_the_order_of_the_folder_does_not_matter(root, shuffle_folders):
    whole = scan(root)
    shuffle_folders()
    assert scan(root) == whole


@pytest.mark.parametrize("sketch", PHOTO_OF)
def test_every_rendering_has_its_photos(rng, tmp_path, sketch):
    photo = "tx_000100000000" if sketch == "tx_000100000000" else TX
    write_sketchy(tmp_path, rng, sketch_transform=sketch, photo_transform=photo)
    found = scan(tmp_path)
    assert scan(tmp_path, transform=sketch) == found
    for item in found.items:
        assert item.sketch.parts[-3] == sketch and item.image.parts[-3] == photo


def test_a_rendering_that_is_not_there_ends_in_one_sentence(rng, root):
    for transform in ("tx_000100000000", "tx_000000000001", "../photo"):
        with pytest.raises(UserError, match=rf"{transform} is not in .* available: {TX}\."):
            scan(root, transform)
    (root / "256x256" / "photo" / TX).rename(root / "256x256" / "photo" / "tx_000100000000")
    with pytest.raises(UserError, match="available: none"):
        scan(root)


def test_a_sketch_without_its_photo_is_rejected_and_a_photo_alone_is_not_used(root):
    photo = sorted((root / PHOTOS / "cat").iterdir())[0]
    alone = sorted((root / PHOTOS / "cat").iterdir())[1]
    photo.unlink()
    for sketch in (root / SKETCHES / "cat").glob(f"{alone.stem}-*"):
        sketch.unlink()
    found = scan(root)
    assert not {photo.stem, alone.stem} & set(splits_of(found))
    assert found.rejected == [
        Rejected(
            f"{SKETCHES}/cat/{photo.stem}-{k}.png",
            f"has no photo: {PHOTOS}/cat/{photo.stem}.jpg is missing",
        )
        for k in (1, 2, 3)
    ]
    shutil.rmtree(root / PHOTOS / "alarm_clock")
    with pytest.raises(UserError, match="Usable images to split: 2; 5 or more"):
        scan(root)


def test_what_else_lies_in_the_folders(root, tmp_path_factory):
    whole = scan(root)
    outside = tmp_path_factory.mktemp("outside")
    shutil.copytree(root / SKETCHES / "cat", outside / "cat")
    sketch = whole.items[-1].sketch
    for name in (".DS_Store", "checked.txt", "Thumbs.db"):
        (sketch.parent / name).write_bytes(b"x")
    (sketch.parent / "odd.png").write_bytes(b"x")
    os.mkfifo(sketch.with_name(f"{whole.items[-1].group}-7.png"))
    sketch.with_name(f"{whole.items[-1].group}-8.png").symlink_to(outside / "cat" / sketch.name)
    sketch.with_name("bad\nname-1.png").write_bytes(b"x")
    (root / SKETCHES / "dog").symlink_to(outside / "cat")
    found = scan(root)
    assert found.items == whole.items
    group = whole.items[-1].group
    assert found.rejected == [
        Rejected(
            f"{SKETCHES}/cat/bad\\nname-1.png",
            "has control characters or bytes that are not UTF-8 in its name",
        ),
        Rejected(f"{SKETCHES}/cat/{group}-7.png", "is neither a regular file nor a folder"),
        Rejected(f"{SKETCHES}/cat/{group}-8.png", "is a link that leads out of the dataset"),
        Rejected(f"{SKETCHES}/cat/odd.png", "is not named <photo>-<number>.png"),
        Rejected(f"{SKETCHES}/dog", "is a link that leads out of the dataset"),
    ]


def test_a_list_of_other_photos_ends_in_one_sentence(root):
    (root / "info").mkdir()
    (root / "info" / "testset.txt").write_text("cat/n1_1.jpg\r\ncat/n1_2.jpg\r\n")
    with pytest.raises(UserError, match="None of the 8 photos in .* is among the 2 of"):
        scan(root)


def test_what_is_not_sketchy_ends_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="missing does not exist"):
        scan(tmp_path / "missing")
    with pytest.raises(UserError, match="does not exist"):
        scan(tmp_path / "a\0b")
    with pytest.raises(UserError, match="holds neither 256x256/ nor sketch/ and photo/"):
        scan(tmp_path)
    for half in (SKETCHES, PHOTOS):
        (tmp_path / half).mkdir(parents=True)
    with pytest.raises(UserError, match="Usable images to split: 0"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("cat", "A photo of a cat"),
        ("alarm_clock", "A photo of an alarm clock"),
        ("hourglass", "A photo of an hourglass"),
        ("horse", "A photo of a horse"),
        ("umbrella", "A photo of an umbrella"),
        ("unicycle", "A photo of a unicycle"),
        ("owl", "A photo of an owl"),
        ("scissors", "A photo of scissors"),
        ("car_(sedan)", "A photo of a car (sedan)"),
        ("hot-air_balloon", "A photo of a hot-air balloon"),
    ],
)
def test_captions_are_english(category, expected):
    captions = captions_of(category)
    assert captions[0] == expected
    assert len(set(captions)) == len(captions) >= 3
    article = expected.removeprefix("A photo of ")
    assert all(caption.endswith(f" of {article}") for caption in captions)


def test_one_photo_under_two_names_is_used_under_one(root):
    """Otherwise its sketches could be in two splits."""
    whole = scan(root)
    first, *_, last = sorted({item.image for item in whole.items})
    last.unlink()
    last.symlink_to(first)
    found = scan(root)
    gone = {item.key for item in whole.items if item.image == last}
    assert {item.key for item in found.items} == {item.key for item in whole.items} - gone
    (link,) = (x for x in found.rejected if x.file == last.relative_to(root).as_posix())
    assert link.reason.endswith(f" to {first.relative_to(root).as_posix()}, which is already used")
    assert len(found.rejected) == 1 + len(gone)
