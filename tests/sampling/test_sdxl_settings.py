"""Stable Diffusion XL in sampling: its micro-conditioning, prompts, regions, ControlNets, page."""

import json
import logging

import jax
import numpy as np
import pytest
from commands import run_here
from pages import random_page
from PIL import Image
from written import XL_CONTROL, xl_stage

from ragaf_jax.demo.canvas import upload_sketch
from ragaf_jax.demo.generation import generate
from ragaf_jax.errors import UserError
from ragaf_jax.sampling.command.batch_requests import BatchRequest
from ragaf_jax.sampling.command.many import run_batch
from ragaf_jax.sampling.controls.networks import Control, WeightFiles
from ragaf_jax.sampling.controls.settings import ControlSettings
from ragaf_jax.sampling.micro_conditioning import SETTINGS, size_inputs
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA
from ragaf_jax.weights.modules import abstract_params, module_of

pytestmark = pytest.mark.slow

PROMPT = "a red house"
SIZE = {"width": 48, "height": 32}
CHANGES = {"original_size": "96x64", "crop_top_left": "8,16", "target_size": "64x48"}


@pytest.fixture(scope="module")
def control(seed):
    """Of random parameters, beside the sketch branch."""
    network = module_of(XL_CONTROL)
    rng = np.random.default_rng(seed)
    tree = jax.tree.map(
        lambda x: np.float32(rng.standard_normal(x.shape)), abstract_params(network)
    )
    return Control(WeightFiles("edges", "0" * 64), network, tree, ControlSettings())


@pytest.fixture(scope="module")
def pipeline(seed, control, tmp_path_factory):
    """Stage 1 and a ControlNet."""
    stage = xl_stage(tmp_path_factory.mktemp("sdxl") / "tokenizer", 1, seed)
    return Pipeline(stage, controls=[control])


@pytest.fixture
def page(rng, pipeline):
    return pipeline.page(random_page(rng), width=48, height=32)


def test_sizes_are_those_of_the_image_unless_they_are_given(page, pipeline, caplog):
    plain = pipeline(page, PROMPT, **SIZE).images
    assert np.ptp(plain) > 9
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        same = {"original_size": "48x32", "crop_top_left": " 0, 0", "target_size": "48x32"}
        np.testing.assert_array_equal(pipeline(page, PROMPT, **same, **SIZE).images, plain)
        found = [pipeline(page, PROMPT, **{k: x}, **SIZE) for k, x in CHANGES.items()]
        assert [line for line in caplog.messages if "ompil" in line] == []
    images = [plain, *(one.images for one in found)]
    assert len({image.tobytes() for image in images}) == 4
    assert [one.settings[name] for one, name in zip(found, CHANGES, strict=True)] == [
        *CHANGES.values()
    ]


def test_both_prompts_have_the_sizes_of_diffusers_in_its_order():
    """As `_get_add_time_ids` of `StableDiffusionXLPipeline`."""
    original, crop, target = (64, 96), (8, 16), (48, 64)
    np.testing.assert_array_equal(size_inputs(CHANGES, (32, 48)), [*original, *crop, *target])
    usual = dict.fromkeys(SETTINGS)
    np.testing.assert_array_equal(size_inputs(usual, (32, 48)), [32, 48, 0, 0, 32, 48])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("value", ["64", (64, 32), "-1x5", "-1,5", "99999x2", "2,99999", "0x4", 5])
def test_other_forms_and_absurd_numbers_are_refused(pipeline, name, value):
    with pytest.raises(UserError, match=rf"^{name} is .*; write .* in pixels, each"):
        pipeline.options(**{name: value})


def test_a_command_records_sizes_and_repeats_them(rng, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    Image.fromarray(random_page(rng)).save(tmp_path / "sketch.png")

    def sampled(name, *flags):
        done = run_here("ragaf_jax.sample", *flags, f"--output={tmp_path / name}")
        assert done.status == 0, done.stderr
        metadata = json.loads((tmp_path / name / METADATA).read_text())
        found = {size: metadata[size] for size in SETTINGS if size in metadata}
        return found, np.asarray(Image.open(tmp_path / name / "stage1_output.png"))

    given = [f"--{name}={value}" for name, value in (CHANGES | SIZE).items()]
    given += [f"--stage1={tmp_path}"]
    sizes, image = sampled("one", f"--sketch={tmp_path / 'sketch.png'}", "--prompt=a", *given)
    assert sizes == CHANGES
    sizes, again = sampled("two", f"--from={tmp_path / 'one'}")
    assert sizes == CHANGES
    np.testing.assert_array_equal(again, image)
    sizes, other = sampled("three", f"--from={tmp_path / 'one'}", "--original_size=")
    assert sizes == {name: CHANGES[name] for name in ("crop_top_left", "target_size")}
    assert (other != image).any()


def test_a_row_replaces_the_sizes_of_its_batch(rng, pipeline, tmp_path):
    Image.fromarray(random_page(rng)).save(tmp_path / "a.png")
    rows = [
        BatchRequest(name, tmp_path / "a.png", PROMPT, sizes=sizes)
        for name, sizes in (("usual", {}), ("own", {"original_size": "96x64", "target_size": ""}))
    ]
    options, output = pipeline.options(target_size="64x48"), tmp_path / "out"
    done = run_batch(pipeline, rows, output, options, 0, {}, width=48, height=32)
    assert done.sampled == ["usual", "own"] and not done.failed
    for name, sizes in (
        ("usual", {"target_size": "64x48"}),
        ("own", {"original_size": "96x64"}),
    ):
        metadata = json.loads((output / name / METADATA).read_text())
        assert {k: metadata[k] for k in SETTINGS if k in metadata} == sizes
        alone = pipeline(tmp_path / "a.png", PROMPT, **sizes, **SIZE)
        written = np.asarray(Image.open(output / name / "stage1_output.png"))
        np.testing.assert_array_equal(written, alone.images[0])
    assert run_batch(pipeline, rows, output, options, 0, {}, width=48, height=32).existing


def test_the_page_has_fields_of_sizes(rng, pipeline):
    pytest.importorskip("gradio")
    from ragaf_jax.demo.app import build

    parts = [part["props"] for part in build(pipeline).config["components"]]
    assert [part["visible"] for part in parts if part.get("label") == "Sizes"] == [True]
    session = upload_sketch(pipeline, random_page(rng), **SIZE)
    choices = dict.fromkeys(SETTINGS, "") | {"target_size": "64x48"}
    *_, last = generate(pipeline, session, PROMPT, "", 0, **choices)
    expected = pipeline(session.page, PROMPT, target_size="64x48")
    np.testing.assert_array_equal(last.result.images, expected.images)
    assert last.result.settings == expected.settings


def test_regions_have_weighted_prompts_of_several_windows_without_training(page, pipeline):
    """The negative prompt is empty: its states are zeros, which have no mean to keep."""
    numbers = page.numbered.numbers
    prompts = {numbers[0]: "(red:1.4) horse", numbers[1]: "a house on fire " * 20}
    skipped = {"clip_skip": 1, "region_method": "attention"}
    found = [
        pipeline(page, f"a (red:{weight}) house", prompts, **skipped, **SIZE).images
        for weight in (1.2, 1.5)
    ]
    assert all(np.ptp(one) > 9 for one in found) and (found[0] != found[1]).any()


def test_the_pooled_text_is_that_of_the_prompt_alone(page, pipeline):
    stage = pipeline.leading
    encode = jax.jit(stage.model.encode_text)
    request = pipeline.request(page, PROMPT, {page.numbered.numbers[0]: "horse"})
    plain = pipeline.request(page, PROMPT).without_region_text
    alone = encode(stage.params, plain.positive).pooled
    for texts in (request.text, request.mixed()):
        pooled = encode(stage.params, texts.positive).pooled
        np.testing.assert_allclose(pooled, alone, atol=1e-5)
        assert not np.any(encode(stage.params, texts.negative).pooled)


def test_a_controlnet_of_sdxl_reads_sizes_and_pooled_text_too(page, pipeline):
    plain = pipeline(page, PROMPT, **SIZE).images
    found = pipeline(page, PROMPT, controls=[{"strength": 0.0}], **SIZE)
    assert (found.images != plain).any()


@pytest.mark.products
def test_ragaf_attends_to_the_prompts_of_regions(rng, seed, control, tmp_path):
    stages = [xl_stage(tmp_path / str(number), number, seed) for number in (1, 2)]
    pipeline = Pipeline(*stages, controls=[control])
    page = pipeline.page(random_page(rng), **SIZE)
    numbers = page.numbered.numbers
    texts = {"negative_prompt": "dust", "region_negative_prompts": {numbers[0]: "(fire:1.2)"}}
    found = pipeline(page, PROMPT, {numbers[1]: "horse"}, **texts)
    assert np.ptp(found.images) > 9 and np.isfinite(found.attention).all()
    own = found.request.text_ids == 1
    attention = found.attention[0].sum(-1, where=own)
    np.testing.assert_allclose(attention, np.array(numbers) == numbers[1], atol=1e-5)
