"""Data with aspect buckets: whole images, aligned sketches and regions, batches of one size."""

import json
import shutil

import numpy as np
import pytest
from commands import run_here
from fakes import tiny_config
from miniature import SIZE as OPENMOJI_SIZE
from photo_trees import save

from input_pipeline.configured import open_split
from input_pipeline.extraction.augment import KINDS, AugmentSketch
from input_pipeline.inspection.findings import open_splits
from input_pipeline.inspection.framing import framing_notes, framing_rows, framing_statistics
from input_pipeline.inspection.statistics import measure_all
from input_pipeline.loader import held_out_batch, train_iterator
from input_pipeline.mixture import Mixture
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from input_pipeline.records import RecordSource
from input_pipeline.size_order import WINDOW, SizeOrder
from ragaf_jax.batch import by_size
from ragaf_jax.errors import UserError
from ragaf_jax.framing import bucket_name, crop_to, nearest_bucket, parse_buckets

SIZE, NAMES = 32, ("40x24", "32x32", "24x40")
BUCKETS = parse_buckets(NAMES, SIZE, 8)
SHAPES = {"text_length": 12, "max_regions": 33, "max_edges": 320}
SIDES = ((120, 160), (160, 120), (128, 128))  # of the photos; their buckets are 40x24, 24x40, 32x32
RED, GREEN, BLUE = (200, 30, 30), (60, 160, 60), (30, 30, 200)
BOX = (0.6, 0.8, 0.2, 0.4)  # rows and columns of a blue box on each photo, and of its outline


def corners(height: int, width: int) -> list[int]:
    return [round(x) for x in (BOX[0] * height, BOX[1] * height, BOX[2] * width, BOX[3] * width)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photos with red borders and a blue box, and sketches of the box at half of their size."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(15):
        height, width = SIDES[i % 3]
        photo = np.full((height, width, 3), RED, np.uint8)
        photo[12:-12, 12:-12] = GREEN
        top, bottom, left, right = corners(height, width)
        photo[top:bottom, left:right] = BLUE
        save(photo, folder / "image" / f"{i}.png")
        sketch = np.full((height // 2, width // 2), 255, np.uint8)
        top, bottom, left, right = corners(*sketch.shape)
        sketch[top:bottom, left:right] = 0
        sketch[top + 3 : bottom - 3, left + 3 : right - 3] = 255
        save(sketch, folder / "sketch" / f"{i}.png")
        (folder / "image" / f"{i}.txt").write_text("a box")
    return folder


@pytest.fixture(scope="module")
def data_dir_of(root, tmp_path_factory):
    """A folder of the photos' data, cropped or not."""
    folders = {}
    for crop in (False, True):
        folders[crop] = tmp_path_factory.mktemp("data")
        prepare("folder", folders[crop], Options(SIZE, root=root, buckets=BUCKETS, crop=crop))
    return folders


def opened(folder, split="train", buckets=BUCKETS) -> RecordSource:
    return RecordSource(folder, "folder", split, Options(SIZE, buckets=buckets))


@pytest.mark.parametrize("crop", [False, True])
def test_image_sketch_and_regions_stay_aligned_and_whole_unless_cropped(data_dir_of, crop):
    sizes = set()
    for split in ("train", "validation", "test"):
        source = opened(data_dir_of[crop], split)
        for index in range(len(source)):
            record, size = source[index], source.size(index)
            sizes.add(size)
            source_size = tuple(record["source_size"].tolist())
            assert size == nearest_bucket(source_size, BUCKETS) and source_size in SIDES
            image, sketch, labels = record["image"], record["sketch"][..., 0], record["labels"]
            assert image.shape[:2] == sketch.shape == labels.shape == size
            factors = np.array(size) / source_size
            scale = factors.max() if crop else factors.min()
            middle = np.array(size) / 2 + scale * np.array(source_size) * (0.2, -0.2)
            y, x = middle.astype(int)
            blue = (np.abs(image.astype(int) - BLUE) < 60).all(-1)
            assert blue[y, x]
            for there in (blue, sketch < 128, labels == labels[y, x]):
                assert np.abs(np.argwhere(there).mean(0) + 0.5 - middle).max() <= 1
            red = image[..., 0].astype(int) - image[..., 1] > 80
            shown = red.any(0).sum(), red.any(1).sum()
            if not crop:  # the red border is whole
                assert shown == tuple(round(scale * side) for side in source_size[::-1])
            margins = 0 if crop else 1 - factors.min() / factors.max()
            assert (image > 250).all(-1).mean() == pytest.approx(margins, abs=0.05)
    assert sizes == set(BUCKETS)


def test_margins_have_no_lines(tmp_path):
    for i in range(5):
        save(np.full((60, 120 + i, 3), 80, np.uint8), tmp_path / "root" / f"{i}.png")
        (tmp_path / "root" / f"{i}.txt").write_text("a wall")
    prepare("folder", tmp_path, Options(SIZE, root=tmp_path / "root", buckets=BUCKETS))
    source = opened(tmp_path)
    assert all((source[i]["sketch"] == 255).all() for i in range(len(source)))
    assert all((source[i]["image"] == 255).any() for i in range(len(source)))


# Each bucket's photos before preparation, and the part of them that remains of them cropped.
SOURCES = {(24, 40): (120, 160, 3, 0), (40, 24): (160, 120, 0, 3), (32, 32): (128, 128, 0, 0)}


@pytest.mark.parametrize("crop", [False, True])
def test_batches_of_prepared_data_have_one_size_and_their_inputs(data_dir_of, crop):
    source = opened(data_dir_of[crop])
    augment = AugmentSketch(**dict.fromkeys(KINDS, 1.0))
    batches = train_iterator(source, 2, 0, **SHAPES, augment=augment)
    found = set()
    for _ in range(12):
        batch = next(batches)
        size = batch.image.shape[1:3]
        assert batch.sketch.shape[1:3] == batch.labels.shape[1:] == size
        height, width, *corner = SOURCES[size]
        sizes = [height, width, *(corner if crop else (0, 0)), *size]
        np.testing.assert_array_equal(batch.sizes, [sizes] * 2)
        found.add(size)
    assert found == set(source.sizes) == set(BUCKETS)
    assert sum(len(source.of_size(size)) for size in BUCKETS) == len(source)
    for size in BUCKETS:
        part = source.of_size(size)
        batch, truth = held_out_batch(part, range(len(part)), **SHAPES)
        assert batch.image.shape[1:3] == truth.true_labels.shape[1:] == size
        assert truth.keys == tuple(fields["key"] for fields in part.fields("key"))
        assert part.sizes == (size,) and part.of_size(size).size(0) == size
    everything, _ = held_out_batch(source, range(len(source)), **SHAPES)
    for indices, group in by_size(everything):
        np.testing.assert_array_equal(group.sizes, everything.sizes[indices])
        assert (group.sizes[:, 4:] == group.sketch.shape[1:3]).all()


def test_a_mixture_has_the_original_sizes_of_the_data_that_record_them(data_dir_of, root, tmp_path):
    prepare("folder", tmp_path, Options(SIZE, root=root))
    squares = opened(tmp_path, buckets=())
    mixed = Mixture((opened(data_dir_of[True]), squares), (1.0, 1.0), squares.tokenizer)
    batches = train_iterator(mixed, 4, 0, **SHAPES)
    found = {tuple(row) for _ in range(12) for row in next(batches).sizes.tolist()}
    own = {(*source, *size) for size, source in SOURCES.items()}
    assert found == own | {(SIZE, SIZE, 0, 0, SIZE, SIZE)}


class Sized:
    """In-memory records of several sizes, numbered by the colours of their images."""

    def __init__(self, record, tokenizer, sizes, numbers=None):
        self.tokenizer, self._record, self._all = tokenizer, record, sizes
        self._numbers = range(len(sizes)) if numbers is None else numbers

    @property
    def sizes(self):
        return tuple(sorted({self._all[number] for number in self._numbers}))

    def of_size(self, size):
        same = [number for number in self._numbers if self._all[number] == size]
        return Sized(self._record, self.tokenizer, self._all, same)

    def __len__(self):
        return len(self._numbers)

    def __getitem__(self, index):
        number = self._numbers[index]
        size = self._all[number]
        blank = {"sketch": np.zeros((*size, 1), np.uint8), "labels": np.zeros(size, np.uint8)}
        image = np.full((*size, 3), number, np.uint8)
        return self._record | blank | {"image": image, "key": str(number)}

    def without(self, *images):
        return self


COUNTS = {(4, 8): 50, (8, 8): 30, (8, 4): 5}


@pytest.fixture
def sized(source) -> Sized:
    sizes = [size for size, count in COUNTS.items() for _ in range(count)]
    return Sized(source[0], source.tokenizer, sizes)


def numbers(batch) -> list[int]:
    return np.rint((batch.image[:, 0, 0, 0] + 1) * 127.5).astype(int).tolist()


def test_all_processes_have_parts_of_the_same_batches_of_one_size(sized, rng):
    seed = int(rng.integers(1 << 31))
    whole = train_iterator(sized, 4, seed, **SHAPES)
    batches = [next(whole) for _ in range(96)]
    for count in (2, 4):
        shares = [
            train_iterator(sized, 4 // count, seed, **SHAPES, process_index=i, process_count=count)
            for i in range(count)
        ]
        for step, batch in enumerate(batches[: 32 // count]):
            parts = [next(share) for share in shares]
            np.testing.assert_array_equal(np.concatenate([x.image for x in parts]), batch.image)
            keys = [key for share in shares for key in share.keys(step)]
            assert keys == whole.keys(step) == [str(number) for number in numbers(batch)]
    of_size = {size: [] for size in COUNTS}
    order = [batch.image.shape[1:3] for batch in batches]
    for batch, size in zip(batches, order, strict=True):
        of_size[size] += numbers(batch)
    first = 0
    for size, count in COUNTS.items():  # every epoch has every record once
        for begin in range(0, len(of_size[size]) - count + 1, count):
            epoch = of_size[size][begin : begin + count]
            assert sorted(epoch) == list(range(first, first + count))
        first += count
        # Sizes are as frequent as their records.
        assert abs(order[:64].count(size) - 64 * count / len(sized)) <= 2
    assert order[:32] != order[64:]
    other = train_iterator(sized, 1, seed + 1, **SHAPES)
    assert [next(other).image.shape[1:3] for _ in range(32)] != order[:32]


def test_every_batch_of_every_size_comes_once_and_as_often_as_its_share(rng):
    shares = rng.uniform(0.02, 1, int(rng.integers(2, 8))).tolist()
    order = SizeOrder(shares, int(rng.integers(1 << 31)))
    for begin in (0, WINDOW * int(rng.integers(1 << 40))):
        pairs = [order[begin + i] for i in range(10 * WINDOW)]
        for size, share in enumerate(shares):
            batches = [batch for its_size, batch in pairs if its_size == size]
            assert batches == list(range(batches[0], batches[0] + len(batches)))
            exact = share / sum(shares)
            assert abs(batches[0] - begin * exact) <= len(shares) + begin * 2**-29
            assert abs(len(batches) - 10 * WINDOW * exact) <= len(shares)


def test_a_saved_state_continues_with_the_same_batches_of_all_sizes(sized, rng):
    seed = int(rng.integers(1 << 31))
    batches = train_iterator(sized, 4, seed, **SHAPES)
    states, expected = [], []
    for _ in range(24):
        states.append(json.dumps(batches.get_state()))
        expected.append(next(batches).image)
    for begin in (0, *rng.integers(1, 20, 3).tolist()):
        resumed = train_iterator(sized, 4, seed, **SHAPES)
        resumed.set_state(json.loads(states[begin]))
        for image in expected[begin : begin + 4]:
            np.testing.assert_array_equal(next(resumed).image, image)


def test_sizes_keep_the_shares_of_a_mixture(sized, rng):
    one = Sized(sized[0], sized.tokenizer, [(8, 8)] * 20 + [(4, 8)] * 9 + [(8, 4)])
    two = Sized(sized[0], sized.tokenizer, [(8, 8)] * 10)
    mixed = Mixture((one, two), (1.0, 3.0), sized.tokenizer)
    assert set(mixed.sizes) == {(8, 8), (4, 8), (8, 4)}
    assert mixed.of_size((8, 8)).weights == pytest.approx((2 / 3, 3))
    assert mixed.of_size((4, 8)).weights == pytest.approx((0.3,))
    batches = train_iterator(mixed, 2, int(rng.integers(1 << 31)), **SHAPES)
    order = [next(batches).image.shape[1:3] for _ in range(64)]
    assert abs(order.count((8, 8)) - 64 * (2 / 3 + 3) / 4) <= 2
    assert abs(order.count((4, 8)) - 64 * 0.3 / 4) <= 2


def test_one_size_has_the_order_of_data_without_buckets(sized):
    part = sized.of_size((8, 8))
    mixed = Mixture((part,), (1.0,), sized.tokenizer)
    keys = [train_iterator(each, 4, 3, **SHAPES).keys(5) for each in (part, mixed)]
    assert keys[0] == keys[1] and set(keys[0]) <= {str(number) for number in range(50, 80)}


@pytest.mark.parametrize("crop", [False, True])
def test_inspection_counts_the_buckets_and_what_is_cropped_or_padded(data_dir_of, crop):
    sources = open_splits("folder", data_dir_of[crop], Options(SIZE, buckets=BUCKETS))
    measured = measure_all(sources, sources["train"].tokenizer)
    found = framing_statistics(measured, BUCKETS, crop)
    for bucket, size in zip(found["buckets"], BUCKETS, strict=True):
        assert bucket["size"] == bucket_name(size) and bucket["records"]["all"] == 5
        assert sum(bucket["records"].values()) == 10
        height, width = SIDES[[nearest_bucket(side, BUCKETS) for side in SIDES].index(size)]
        kept = crop_to(np.zeros((height, width), bool), size).size / (height * width)
        assert bucket["share"]["mean"] == pytest.approx(1 - kept, abs=0.02)
    assert found["far"] == 0 or found["share"]["max"] > 0.2
    rows, (note, *_) = framing_rows(found), framing_notes(found)
    assert len(rows) == 4 and all(len(row) == 7 for row in rows)
    assert ("image is cropped on average" if crop else "is white margin on average") in note
    few = framing_statistics(measured, BUCKETS, crop) | {"far": 3, "enlarged": 2}
    assert [text[-3:] for text in framing_notes(few)[1:]] == [" 3.", " 2."]
    (note,) = framing_notes(framing_statistics(measured, (), True))
    assert note.startswith("Images are cropped to their central squares")


def test_other_buckets_are_refused_with_those_that_exist(data_dir_of, root, tmp_path):
    run = r"or run: python -m input_pipeline.prepare --dataset=folder .*--size=32 --root=<.*>"
    said = r"has data with buckets 24x40,32x32,40x24; choose these, "
    with pytest.raises(UserError, match=said + run + " --buckets=32x32$"):
        opened(data_dir_of[False], buckets=((32, 32),))
    with pytest.raises(UserError, match=said + run + "$"):
        opened(data_dir_of[False], buckets=())
    options = Options(SIZE, root=root, buckets=BUCKETS, crop=True)
    with pytest.raises(UserError, match="was prepared with --crop=False, not True; delete it"):
        prepare("folder", data_dir_of[False], options)
    prepare("folder", tmp_path, Options(SIZE, root=root))
    with pytest.raises(UserError, match="32px has squares; choose no buckets, or run"):
        opened(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(data_dir_of[False], copy)
    (sizes,) = copy.rglob("sizes.json")
    sizes.write_text(json.dumps({"train": [0]}))
    with pytest.raises(UserError, match=r"cannot be read \(sizes.json is of other records\)"):
        opened(copy)


def test_rendered_squares_need_their_size_among_the_buckets(data_dir):
    config = tiny_config(1)
    config.data.update({"image_size": OPENMOJI_SIZE, "recolorings": 2, "dir": str(data_dir)})
    config.data.update({"max_regions": 33, "max_edges": 192, "buckets": ("72x56",)})
    with pytest.raises(UserError, match="buckets is 72x56, .* squares of 64 px; add '64x64'"):
        open_split(config.data, "train")
    config.data.buckets = ("72x56", "64x64")
    assert open_split(config.data, "train").sizes == ((64, 64),)


def test_the_commands_take_buckets(root, tmp_path):
    flags = [f"--data_dir={tmp_path}", "--dataset=folder", f"--size={SIZE}"]
    prepared = [*flags, f"--root={root}", "--workers=1", "--crop"]
    done = run_here("input_pipeline.prepare", *prepared)
    assert done.status == 1 and "--crop is given without --buckets, and squares" in done.stderr
    done = run_here("input_pipeline.prepare", *prepared, "--buckets=40x24,30x30")
    assert done.status == 1 and "--buckets has 30x30; the networks need sides" in done.stderr
    done = run_here("input_pipeline.prepare", *prepared, f"--buckets={','.join(NAMES)}")
    assert done.status == 0, done.stderr
    done = run_here("input_pipeline.inspect", *flags, f"--buckets={','.join(NAMES)}")
    assert done.status == 0, done.stderr
    assert "| 24x40  | " in done.stdout and "of an image is cropped on average" in done.stdout
    (found,) = tmp_path.glob("inspect/folder_32px_3sizes-*/statistics.json")
    assert len(json.loads(found.read_text())["framing"]["buckets"]) == 3
    assert "Images per bucket" in (found.parent / "index.html").read_text()
