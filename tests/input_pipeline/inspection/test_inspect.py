"""What is looked at is what is on disk, and texts of a data set stay texts."""

import base64
import html.parser
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import photo_trees
import pytest
from measured import random_measured
from miniature import LIMIT, RECOLORINGS, SIZE
from PIL import Image

from input_pipeline.inspection import findings as inspection
from input_pipeline.inspection.findings import FILES, Selection, choose, inspect, open_splits, sheet
from input_pipeline.inspection.page import Example, markdown, page
from input_pipeline.inspection.statistics import Budgets, statistics
from input_pipeline.options import Options
from input_pipeline.preparation.preparing import prepare
from input_pipeline.records import RecordSource
from ragaf_jax.errors import UserError
from ragaf_jax.figures.graph import draw_regions
from ragaf_jax.graph.features import NODE_FEATURES
from ragaf_jax.graph.regions import Regions

BUDGETS = Budgets(text_length=40, max_regions=33, max_edges=192)
NASTY = "<script>alert(1)</script> & \"quoted\" 'single' </ul> | \x1b[31m\nnext"


class Seen(html.parser.HTMLParser):
    """The tags, the texts and the addresses of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.texts, self.addresses = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = [value for name, value in attrs if name in ("src", "href", "srcset")]
        self.addresses += [value for value in named if not value.startswith("#")]

    def handle_data(self, data):
        self.texts.append(data)


def pictures_of(text: str) -> list[np.ndarray]:
    data = [address.partition("base64,")[2] for address in Seen(text).addresses]
    return [np.array(Image.open(io.BytesIO(base64.b64decode(each)))) for each in data]


@pytest.fixture
def sources(data_dir):
    return open_splits("openmoji/recolor", data_dir, Options(SIZE, RECOLORINGS))


@pytest.fixture
def look(sources, tmp_path):
    """Inspects the miniature; returns the folder and the numbers."""

    def run(output: Path = tmp_path / "out", **wanted):
        selection = Selection("openmoji/recolor", **wanted)
        return output, inspect(sources, selection, BUDGETS, output)

    return run


def test_the_page_shows_the_records_that_were_chosen(look, sources):
    folder, found = look(examples=6, seed=3, split="test")
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert json.loads((folder / "statistics.json").read_text()) == found
    text = (folder / "index.html").read_text()
    pictures = pictures_of(text)
    assert len(pictures) == 6 * 4
    source = sources["test"]
    indices = choose([source[i]["group"] for i in range(len(source))], 6, 3)
    seen = Seen(text).texts
    for place, index in enumerate(indices):
        record = source[index]
        image, sketch, regions, graph = pictures[4 * place : 4 * place + 4]
        np.testing.assert_array_equal(image, record["image"])
        np.testing.assert_array_equal(sketch, record["sketch"][..., 0])
        background = record["nodes"][:, NODE_FEATURES.index("background")] > 0
        labels = Regions(record["labels"].astype(np.int32), len(background), background)
        drawn = draw_regions(record["sketch"][..., 0], labels, letters=26)
        # What is drawn is stored with loss, which blurs thin coloured lines.
        assert np.abs(regions.astype(int) - drawn).mean() < 4
        assert graph.shape[1] == drawn.shape[1] and graph.shape[0] > drawn.shape[0]
        assert record["key"] in seen
        assert all(caption in seen for caption in record["captions"])
    height = Image.open(folder / "contact_sheet.png").height
    assert height > 6 * 384


def test_statistics_count_the_whole_data_set(look):
    _, found = look(examples=1)
    counts = {split: each["records"] for split, each in found["splits"].items()}
    each = LIMIT * RECOLORINGS
    assert counts == {"train": each, "validation": each, "test": each, "all": 3 * each}
    assert found["splits"]["all"]["groups"] == 3 * LIMIT
    assert found["groups_in_several_splits"] == 0
    assert found["budgets"]["regions_kept"] == 32
    assert found["rejected"] == {"number": 0, "first": []}
    assert str(each) in markdown(found)


def test_pictures_of_other_data_sets_have_all_their_captions(rng, tmp_path):
    written = photo_trees.write_coco(tmp_path / "coco", rng)
    prepare("coco", tmp_path / "data", Options(SIZE, root=tmp_path / "coco"))
    sources = open_splits("coco", tmp_path / "data", Options(SIZE, 16))
    rejected = sources["train"].folder / "rejected.jsonl"
    rejected.write_text(json.dumps({"file": NASTY, "reason": "is damaged"}) + "\n")
    found = inspect(sources, Selection("coco", examples=99), BUDGETS, tmp_path / "out")
    assert found["categories"]["number"] == 0
    assert found["splits"]["all"]["captions"] == 5 * found["splits"]["all"]["records"]
    assert found["rejected"]["number"] == 1
    text = (tmp_path / "out" / "index.html").read_text()
    seen = Seen(text)
    assert NASTY in seen.texts and "script" not in seen.tags
    train = sources["train"]
    assert len(pictures_of(text)) == 4 * len(train)
    for index in range(len(train)):
        assert set(written[train[index]["key"]]) <= set(seen.texts)


def test_nothing_on_the_page_comes_from_elsewhere_or_runs(rng):
    pictures = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)] * 4
    examples = [Example(pictures, [NASTY, "étè 家"], NASTY, NASTY, "2 regions")]
    text = page(nasty_numbers(rng), "train", examples)
    seen = Seen(text)
    assert "script" not in seen.tags
    assert all(address.startswith("data:image/") for address in seen.addresses)
    assert seen.texts.count(NASTY) >= 2  # a caption and the key
    assert "étè 家" in seen.texts
    # What is to be looked at comes before the numbers, to which the contents lead.
    assert seen.tags.index("img") < seen.tags.index("table") and text.count('href="#section') == 6
    # Tags are closed where they should be, whatever the texts hold.
    for tag in ("ul", "article", "table", "div", "figure"):
        assert text.count(f"<{tag}") == text.count(f"</{tag}>")


def nasty_numbers(rng) -> dict:
    measured = random_measured(rng)
    measured.categories[:] = [NASTY] * len(measured.categories)
    measured.sided.append((NASTY, NASTY))
    return {
        "dataset": NASTY,
        "folder": NASTY,
        "graph": {"kind": "knn", "k": 6, "radius": 0.25},
        "image_size": 64,
        "rejected": {"number": 1, "first": [{"file": NASTY, "reason": NASTY}]},
        **statistics({"train": measured}, BUDGETS, 32),
    }


def test_markdown_keeps_its_columns_whatever_names_hold(rng):
    tables = markdown(nasty_numbers(rng)).split("\n\n")[1:5]
    for lines in (table.splitlines() for table in tables):
        columns = {line.replace("\\|", "").count("|") for line in lines}
        assert len(columns) == 1
        assert len({len(line) for line in lines}) == 1
    assert "\x1b" not in "".join(tables)


def test_a_wide_picture_is_not_widened_further(rng):
    for size, width in ((32, 384), (64, 384), (256, 512), (512, 512), (700, 512)):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        drawn = np.zeros((540, 512, 3), np.uint8)
        one = Example([pixels, pixels[..., 0], drawn, drawn], ["a"], "k", "", "")
        figure = sheet([one])
        assert figure.shape[1] == 4 * width + 3 * 8 + 2 * 16
        if width % size == 0:  # the picture's own pixels, inside a frame
            cell = pixels.repeat(width // size, 0).repeat(width // size, 1)[1:-1, 1:-1]
            left = figure[:, 17 : 17 + width - 2]
            tops = np.flatnonzero((left[:, : len(cell)] == cell[0]).all((1, 2)))
            assert any(np.array_equal(left[top : top + len(cell)], cell) for top in tops)


def test_records_of_other_drawings_come_first(rng):
    groups = [f"g{i}" for i in rng.integers(0, 12, 100)]
    distinct = len(set(groups))
    chosen = choose(groups, 60, 0)
    assert len(chosen) == len(set(chosen)) == 60
    assert len({groups[index] for index in chosen[:distinct]}) == distinct
    assert choose(groups, 60, 0) == chosen != choose(groups, 60, 1)
    assert choose(groups, 5, 0) == chosen[:5]
    assert sorted(choose(groups, 1000, 2)) == list(range(100))


def test_a_second_look_replaces_the_first_and_a_failed_one_does_not(look, monkeypatch):
    folder, _ = look(examples=2)
    before = (folder / "index.html").read_bytes()
    look(examples=2)
    assert (folder / "index.html").read_bytes() == before
    look(examples=3)
    after = (folder / "index.html").read_bytes()
    assert after != before
    monkeypatch.setattr(inspection, "sheet", lambda examples: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        look(examples=4)
    assert (folder / "index.html").read_bytes() == after
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}


def test_other_files_are_not_replaced_and_nothing_is_read_before(look, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    monkeypatch.setattr(RecordSource, "fields", lambda *names: 1 / 0)
    with pytest.raises(UserError, match="holds other files; give a new folder"):
        look(tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; give a folder"):
        look(tmp_path / "file")


def test_mixtures_and_missing_data_are_answered_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"'sketchy:0\.5,coco', a mixture; inspect each"):
        open_splits("sketchy:0.5,coco", tmp_path, Options(SIZE, 16))
    with pytest.raises(UserError, match=r"There is no data in .*run: python -m input_pipeline\.p"):
        open_splits("coco", tmp_path, Options(SIZE, 16))


def test_the_command_writes_beside_the_data_and_prints_the_table(data_dir):
    command = [sys.executable, "-m", "input_pipeline.inspect", "--dataset=openmoji/plain"]
    flags = [f"--data_dir={data_dir}", "--examples=2", "--text_length=8", "--max_edges=20"]
    root = Path(__file__).parents[3]
    done = subprocess.run([*command, *flags], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = data_dir / "inspect" / f"openmoji_plain_{SIZE}px"
    assert done.stdout.endswith("".join(f"{folder / name}\n" for name in FILES))
    found = json.loads((folder / "statistics.json").read_text())
    assert markdown(found) in done.stdout
    assert found["budgets"]["text_length"] == 8
    source = RecordSource(data_dir, "openmoji/plain", "train", Options(SIZE))
    lengths = [source.tokenizer.count(source[i]["captions"][0])[0] for i in range(len(source))]
    share = found["splits"]["train"]["shares"]["captions_cut"]
    assert share == np.mean(np.array(lengths) > 8)
