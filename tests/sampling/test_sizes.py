"""Images of other heights and widths than in training, through every output."""

import json
import logging

import cv2
import jax
import numpy as np
import pytest
from commands import run_here
from fakes import WORDS
from pages import FILES
from PIL import Image

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.command.batch_requests import BatchRequest, read_requests
from ragaf_jax.sampling.command.many import run_batch
from ragaf_jax.sampling.numbered import relabelled
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA

PROMPT = f"a {WORDS[3]} house"
ODD = {"height": 14, "width": 22}  # 7 × 11 latents


@pytest.fixture
def pipeline(small_pipeline):
    return small_pipeline


def sketch(rng, height=200, width=300):
    """Two rectangles side by side, and a circle around one of them."""
    grey = np.full((height, width), 255, np.uint8)
    cv2.rectangle(grey, (15, 30), (120, height - 20), 0, 7)
    cv2.circle(grey, (width - 80, 100), int(rng.integers(55, 75)), 0, 7)
    return grey


@pytest.fixture
def file(rng, tmp_path):
    Image.fromarray(sketch(rng)).save(tmp_path / "sketch.png")
    return tmp_path / "sketch.png"


def test_a_new_size_compiles_once(rng, pipeline, caplog):
    first = pipeline(sketch(rng), PROMPT)
    height, width = first.images.shape[1:3]
    assert (height, width) == first.sketch_page.size == (12, 18)
    assert first.sketch.shape == first.regions.labels.shape == (height, width)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        others = [pipeline(sketch(rng, 400, 600), PROMPT, steps=2, seed=seed) for seed in (0, 1)]
        others.append(pipeline(sketch(rng), PROMPT, {1: "blue"}, width=18, height=12))
        assert all(other.images.shape == first.images.shape for other in others)
        assert [line for line in caplog.messages if "ompil" in line] == []


def test_each_region_has_its_text_in_its_cells_of_an_odd_size(rng, pipeline):
    page = pipeline.page(sketch(rng), **ODD)
    labels = page.numbered.regions.labels
    assert labels.shape == (14, 22) and page.page.shape[0] * 22 == page.page.shape[1] * 14
    number = page.numbered.numbers[1]
    asked = {"seed": int(rng.integers(2**32)), "steps": 3}
    plain, prompted = (
        pipeline(page, "a house", prompts, **asked) for prompts in (None, {number: "red"})
    )
    np.testing.assert_array_equal(prompted.coarse, plain.coarse)
    share = (labels == page.numbered.id_of(number)).reshape(7, 2, 11, 2).mean((1, 3))
    changed = (prompted.images[0] != plain.images[0]).reshape(7, 2, 11, 2, 3).any((1, 3, 4))
    own = (share >= 0.25) | (share == share.max())
    assert changed[own].mean() > 0.5 and not changed[~own].any()
    # Alone and beside another image, the image is the same.
    both = pipeline(page, "a house", {number: "red"}, count=2, **asked)
    np.testing.assert_array_equal(both.images[0], prompted.images[0])


def test_an_image_to_start_from_is_placed_like_its_sketch(rng, pipeline):
    photo = rng.integers(0, 256, (100, 150, 3)).astype(np.uint8)
    asked = {"image": photo, "stages": "2", "strength": 0.0}
    result = pipeline(sketch(rng), PROMPT, **asked, **ODD)
    assert result.given.shape == (14, 22, 3)
    white = (result.given == 255).all((0, 2))
    assert white.tolist() == [False] * 21 + [True] or white.sum() <= 1  # 3:2 in 22:14
    np.testing.assert_array_equal(result.given, result.coarse[0])


def test_a_size_that_the_model_cannot_sample_ends_in_a_sentence(rng, pipeline):
    for size, near in (({"width": 23}, "22 or 24"), ({"height": 0}, "2"), ({"width": 900}, "64")):
        with pytest.raises(UserError, match=rf"a multiple of 2 from 2 to 64, such as {near}\."):
            pipeline(sketch(rng), PROMPT, **size)
    for placed in (pipeline.page(sketch(rng)), pipeline.read(sketch(rng))):
        with pytest.raises(UserError, match="for 18 × 12 px, and width is 22 and height None"):
            pipeline(placed, PROMPT, width=22)
    long = pipeline.page(sketch(rng, 200, 900))
    assert long.size == (12, 24)
    notices = pipeline.request(long, PROMPT).notices
    assert any("The longer side of the sketch is 4.5 times" in notice for notice in notices)


def test_edited_labels_have_the_proportions_of_the_page(rng, pipeline):
    page = pipeline.page(sketch(rng), **ODD)
    edited = relabelled(page.numbered, np.full((140, 220), 7, np.uint8), 8)
    assert edited.numbers == (7,) and edited.regions.labels.shape == (14, 22)
    with pytest.raises(UserError, match="proportions of 14 × 22 px"):
        relabelled(page.numbered, np.zeros((220, 140), np.uint8), 8)


def sample(*flags):
    return run_here("ragaf_jax.sample", *flags)


def test_an_output_of_any_size_is_whole_and_repeats(file, rng, tmp_path, pipeline, monkeypatch):
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    output, again, other = (tmp_path / name for name in ("out", "again", "other"))
    stages = "--stage1=one", "--stage2=two"
    given = *stages, f"--sketch={file}", f"--prompt={PROMPT}", "--width=22", "--height=14"
    done = sample(*given, f"--output={output}")
    assert done.status == 0, done.stderr
    assert done.stdout == f"wrote {output}: 22 × 14 px images, upscaled to 512 px\n"
    assert {path.name for path in output.iterdir()} == FILES
    sizes = {name: Image.open(output / name).size for name in FILES if name.endswith("png")}
    assert sizes["stage1_output.png"] == sizes["stage2_output.png"] == (22, 14)
    assert sizes["stage2_upscaled.png"] == (512, 326)
    width, height = sizes["sketch.png"]
    assert width * 14 == height * 22 and 150 < height < 256 < width
    assert sizes["labels.png"][0] * 14 == sizes["labels.png"][1] * 22
    metadata = json.loads((output / METADATA).read_text())
    assert metadata["image_size"] == {"width": 22, "height": 14}
    done = sample(f"--from={output / METADATA}", f"--output={again}")
    assert done.status == 0, done.stderr
    for name in ("stage2_output.png", "labels.png", "sketch.png"):
        assert (again / name).read_bytes() == (output / name).read_bytes()
    # Another sketch has its own proportions, and older outputs were squares.
    Image.fromarray(sketch(rng, 300, 300)).save(tmp_path / "square.png")
    flags = f"--from={output / METADATA}", f"--output={other}", "--regions-only"
    assert sample(*flags, f"--sketch={tmp_path / 'square.png'}").status == 0
    assert Image.open(other / "sketch.png").size == (256, 256)
    (output / METADATA).write_text(json.dumps({**metadata, "image_size": 16}))
    assert sample(*flags).status == 0 and Image.open(other / "sketch.png").size == (256, 256)
    assert sample(*flags, "--letterbox", "--width=24").status == 0
    assert Image.open(other / "sketch.png").size == (312, 208)
    done = sample(*given, "--letterbox", f"--output={other}")
    assert done.status == 1 and "--letterbox is given with --width=22" in done.stderr


def test_rows_of_a_batch_have_their_own_sizes(file, rng, tmp_path, pipeline):
    Image.fromarray(sketch(rng, 300, 300)).save(tmp_path / "square.png")
    table = tmp_path / "prompts.csv"
    table.write_text(
        "sketch,prompt,width,height,name\nsketch.png,a,,,own\nsketch.png,a,22,14,wide\n"
        "square.png,a,,,square\nsketch.png,a,23,14,bad\n"
    )
    rows = read_requests(tmp_path, table)
    assert rows[1:3] == [
        BatchRequest("wide", file, "a", width=22, height=14),
        BatchRequest("square", tmp_path / "square.png", "a"),
    ]
    options = pipeline.options(steps=1, stages="1")
    given = pipeline, rows, tmp_path / "out", options, 4, {}
    done = run_batch(*given)
    assert sorted(done.sampled) == ["own", "square", "wide"]
    assert done.sizes == {(12, 18), (14, 22), (16, 16)}
    assert list(done.failed) == ["bad"] and "width is 23" in done.failed["bad"]
    sizes = {
        name: Image.open(tmp_path / "out" / name / "stage1_output.png").size
        for name in done.sampled
    }
    assert sizes == {"own": (18, 12), "wide": (22, 14), "square": (16, 16)}
    # Outputs of the same size exist; those of another are sampled again.
    assert sorted(run_batch(*given).existing) == ["own", "square", "wide"]
    again = run_batch(*given, letterbox=True)
    assert again.existing == ["wide", "square"] and again.sizes == {(16, 16)}
    table.write_text("sketch,prompt,width\nsketch.png,a,wide\n")
    with pytest.raises(UserError, match="the width is 'wide'; give a whole number"):
        read_requests(tmp_path, table)
