"""Region prompts of an adopted Stable Diffusion, with a ControlNet and without."""

import json

import cv2
import jax
import numpy as np
import pytest
from commands import run_here
from PIL import Image
from test_tokenizer import write_folder
from written import random_trees, write

from ragaf_jax.demo.canvas import upload_sketch
from ragaf_jax.demo.generation import generate
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA

pytestmark = pytest.mark.slow

SIZE = {"width": 48, "height": 32}
STEPS = {"steps": 2, "guidance": 3.0}
LEFT, RIGHT = (0.25, 0.5), (0.75, 0.5)


def halves():
    """A 3:2 page, cut into a left and a right region."""
    page = np.full((400, 600), 255, np.uint8)
    cv2.line(page, (330, 0), (330, 399), 0, 9)
    return page


def adopt(files, workdir, control):
    """A pipeline of the stage that the command makes of these files."""
    flags = [f"--config.init.checkpoint={files}", f"--config.init.control={control}"]
    flags += ["--config.data.image_size=32", "--config.data.max_regions=9"]
    flags += ["--config.model.dtype=float32", f"--workdir={workdir}"]
    config = "--config=configs/stage1.py:openmoji_sd"
    done = run_here("main.py", config, "--mode=adopt", *flags)
    assert done.status == 0, done.stderr
    return Pipeline.restore(workdir)


@pytest.fixture(scope="module")
def files(seed, tmp_path_factory):
    """A Stable Diffusion with random parameters, and a ControlNet in its folder."""

    def scaled(leaf):
        return leaf * max(1, np.prod(leaf.shape[:-1])) ** -0.5

    trees = jax.tree.map(scaled, random_trees(np.random.default_rng(seed)))
    folder = write(tmp_path_factory.mktemp("adopted") / "sd", trees)
    write_folder(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def pipeline(files):
    """With the ControlNet."""
    return adopt(files, files.parent / "run", files / "controlnet")


def sampled(pipeline, workdir, folder, monkeypatch):
    """The command's images with region prompts for all steps, and for none."""
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    sketch, images = folder / "halves.png", []
    Image.fromarray(halves()).save(sketch)
    flags = [f"--stage1={workdir}", f"--sketch={sketch}", "--prompt=a house"]
    flags += [f"--{name}={value}" for name, value in (SIZE | STEPS).items()]
    flags += ["--region=0=red", "--region=1=horse", "--negative_region=1=dust"]
    for end in (1, 0):
        output = folder / f"until{end}"
        done = run_here("ragaf_jax.sample", *flags, f"--region_end={end}", f"--output={output}")
        assert done.status == 0, done.stderr
        images.append(np.asarray(Image.open(output / "stage1_output.png")))
        recorded = json.loads((output / METADATA).read_text())
        assert recorded["region_prompts"] == {"0": "red", "1": "horse"}
        assert recorded["region_negative_prompts"] == {"1": "dust"}
    return images


def test_the_command_samples_prompts_of_regions(files, pipeline, tmp_path, monkeypatch):
    images = sampled(pipeline, files.parent / "run", tmp_path, monkeypatch)
    assert images[0].shape == (32, 48, 3) and (images[0] != images[1]).any()


@pytest.mark.products
def test_so_it_does_without_a_controlnet(files, tmp_path, monkeypatch):
    """The sketch then acts by its regions alone: with one text for all, it has no effect."""
    pipeline = adopt(files, tmp_path / "run", "unet")
    images = sampled(pipeline, tmp_path / "run", tmp_path, monkeypatch)
    assert (images[0] != images[1]).any()
    blank = pipeline(np.full_like(halves(), 255), "a house", **SIZE, **STEPS)
    plain = pipeline(halves(), "a house", **SIZE, **STEPS)
    np.testing.assert_array_equal(blank.images, plain.images)


def test_each_text_has_the_window_and_the_states_that_it_has_alone(pipeline):
    page = pipeline.page(halves(), **SIZE)
    prompt, one, negative, other = "a house", "a red horse", "dust", "a house on fire"
    mixed = pipeline.request(page, prompt, {0: one, 1: other}, "", (), {0: negative}).mixed()
    model, params = pipeline.leading.model, pipeline.leading.params
    encode = jax.jit(model.encode_text)
    sides = (mixed.positive, [prompt, one, other]), (mixed.negative, ["", negative])
    for text, texts in sides:
        states = np.asarray(encode(params, text).states).reshape(-1, 77, 12)
        for i, words in enumerate(texts):
            alone = encode(params, pipeline.request(page, words).batch.text)
            np.testing.assert_array_equal(text.tokens.reshape(-1, 77)[i], alone.tokens[0])
            np.testing.assert_allclose(states[i], alone.states[0], atol=1e-5)


def test_the_page_samples_prompts_of_two_regions_at_3_to_2(pipeline):
    pytest.importorskip("gradio")
    from ragaf_jax.demo.app import build

    parts = {part["props"].get("label"): part for part in build(pipeline).config["components"]}
    parts = {label: part["props"] for label, part in parts.items()}
    choices = [choice for _, choice in parts["Region prompts by"]["choices"]]
    assert choices == ["auto", "attention"]
    assert parts["Region prompt"]["visible"] and not parts["Attention"]["visible"]
    assert not parts["Sizes"]["visible"]  # which only SDXL's UNet reads
    session = upload_sketch(pipeline, halves(), **SIZE)
    session = session.click(*LEFT).apply("red").click(*RIGHT).apply("horse", "dust")
    assert session.prompts == {0: "red", 1: "horse"}
    *_, last = generate(pipeline, session, "a house", "", 0, **STEPS)
    assert last.images[0].shape[1] * 2 == last.images[0].shape[0] * 3
    prompts = {"region_prompts": session.prompts, "region_negative_prompts": session.negatives}
    expected = pipeline(session.page, "a house", **prompts, **STEPS)
    np.testing.assert_array_equal(last.result.images, expected.images)
    assert last.result.settings == expected.settings
