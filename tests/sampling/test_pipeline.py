"""Both stages behind one call, and the folder and command around it, with random parameters."""

import dataclasses
import itertools
import json
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from commands import python_blocks, run_here
from fakes import SMALLEST, WORDS, random_stage, save_stage
from pages import FILES, random_page
from pictures import contains
from PIL import Image
from skimage.data import astronaut

from ragaf_jax.errors import UserError
from ragaf_jax.figures.lettering import enlarge
from ragaf_jax.images import read_grey
from ragaf_jax.sampling.denoising import TRACE_LEVELS
from ragaf_jax.sampling.numbered import merged, relabelled
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA
from ragaf_jax.sampling.sampling_config import scales_of
from ragaf_jax.sampling.stage_sampler import make_stage_sampler, seed_keys
from ragaf_jax.sketch_input import to_page
from ragaf_jax.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
PROMPT = " ".join(WORDS[:6])
# Of the design; other programs look for these names.


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline(small_pipeline):
    return small_pipeline


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, pipeline):
    folder = tmp_path_factory.mktemp("runs")
    stages = pipeline.stages.items()
    return [save_stage(stage, folder / f"stage{number}") for number, stage in stages]


def test_a_result_is_whole(rng, pipeline):
    result = pipeline(random_page(rng), PROMPT, seed=int(rng.integers(2**32)))
    model = pipeline.leading.model
    size, length = model.image_size, model.text_length
    assert pipeline.page_size == 256
    assert result.images.shape == result.coarse.shape == (1, size, size, 3)
    assert result.images.dtype == result.coarse.dtype == np.uint8
    assert result.sketch.shape == result.regions.labels.shape == (size, size)
    n = result.regions.n
    assert 1 < n < model.max_regions and result.numbers == tuple(range(n))
    assert result.attention.shape == (1, n, length)
    np.testing.assert_allclose(result.attention.sum(-1), 1, rtol=1e-5)
    assert result.fusion.shape == (len(TRACE_LEVELS), 1, n, 2)
    np.testing.assert_allclose(result.fusion.sum(-1), 1, rtol=1e-5)
    assert result.pieces[1:7] == PROMPT.split()
    # Nothing of a region's attention goes to padding.
    assert result.attention[..., 8:].max() == 0
    assert result.notices == []


def test_a_stage_2_without_ragaf_has_no_attention_to_show(rng, tmp_path):
    without = Pipeline(stage2=random_stage(2, **SMALLEST, **{"model.ragaf.inject": ()}))
    drawing = without.page(random_page(rng))
    result = without(drawing, PROMPT)
    assert result.attention is None and result.fusion is None
    assert result.coarse is None  # without Stage 1
    folder = result.save(tmp_path / "out", {"stage2": "elsewhere"})
    assert json.loads((folder / METADATA).read_text())["stage2"] == "elsewhere"
    result.save(folder)  # an earlier output is replaced
    names = {file.name for file in folder.iterdir()}
    assert names == FILES - {"attention_maps.png", "fusion.png", "stage1_output.png"}
    (folder / "thesis.doc").touch()
    with pytest.raises(UserError, match="holds other files"):
        result.save(folder)


def test_the_seed_decides_and_nothing_else_does(rng, pipeline):
    page, seed = random_page(rng), int(rng.integers(2**31))
    first, again = pipeline(page, PROMPT, seed=seed), pipeline(page, PROMPT, seed=seed)
    other = pipeline(page, PROMPT, seed=seed + 1)
    assert (first.coarse == again.coarse).all() and (first.images == again.images).all()
    assert (first.coarse != other.coarse).any() and (first.images != other.images).any()


def test_what_is_drawn_together_is_what_each_would_be_alone(rng, pipeline):
    pages = [pipeline.page(random_page(rng)) for _ in range(3)]
    # The last prompt has two windows.
    words = [" ".join(rng.choice(WORDS, count)) for count in (3, 3, 20)]
    seeds = rng.integers(0, 2**32, 3).tolist()
    request = [pipeline.request(page, text) for page, text in zip(pages, words, strict=True)]
    together = pipeline.run(request, seeds, pipeline.options())
    for i, page in enumerate(pages):
        alone = pipeline(page, words[i], seed=seeds[i])
        np.testing.assert_array_equal(together[i].images, alone.images)
        np.testing.assert_array_equal(together[i].coarse, alone.coarse)
    several = pipeline(pages[0], words[0], seed=5, count=2)
    alone = pipeline(pages[0], words[0], seed=6)
    np.testing.assert_array_equal(several.images[1], alone.images[0])


def test_every_setting_has_an_effect_and_none_compiles_again(rng, pipeline, caplog):
    drawing = pipeline.page(random_page(rng))
    region = drawing.numbered.numbers[-1]
    plain = pipeline(drawing, PROMPT)
    first = pipeline(drawing, PROMPT, stages="1")
    # A third evaluation: once more.
    by_sketch = pipeline(drawing, PROMPT, stages="1", sketch_guidance=2.0)
    assert (by_sketch.images != first.images).any()
    settings = [
        {"guidance": 5.0},
        {"guidance_until": 0.9},
        {"strength": 0.4},
        {"sketch_strength": 0.3},
        {"sigmas": "karras"},
        {"sigmas": "exponential", "steps": 5},
        {"steps": 2},
        {"steps": 9},
        {"seed": 7},
        {"negative_prompt": "red"},
        {"region_prompts": {region: "blue"}},
    ]
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        for setting in settings:
            drawn = pipeline(drawing, PROMPT, **setting)
            assert (drawn.images != plain.images).any(), setting
        assert (pipeline(drawing, WORDS[7]).images != plain.images).any()
        assert (pipeline(random_page(rng), PROMPT).images != plain.images).any()
        other = pipeline(drawing, PROMPT, stages="1", sketch_guidance=3.5)
        assert (other.images != by_sketch.images).any()
        assert [line for line in caplog.messages if "ompil" in line] == []
        # It can be seen: another sampler compiles.
        other = pipeline(drawing, PROMPT, stages="1", sampler="ddim", steps=4)
        assert (other.images != first.images).any()
        assert [line for line in caplog.messages if "ompil" in line]
    expected = {**pipeline.leading.config.sample.to_dict(), "seed": 0, "count": 1}
    assert plain.settings == {
        **expected,
        "prompt": PROMPT,
        "sketch_strength": 1.0,
        "stages": "both",
        "neck_splits": 1.0,
        "sketch_start": 0.0,
        "sketch_end": 1.0,
        "sketch_levels": "even",
        "controls": (),
    }


def test_progress_is_told_and_changes_nothing(rng, pipeline):
    drawing, seed = pipeline.page(random_page(rng)), int(rng.integers(2**32))
    request, options = pipeline.request(drawing, PROMPT), pipeline.options(steps=5)
    *told_of, finished = pipeline.stream([request], [seed], options, every=2)
    assert [(p.stage, p.step, p.steps) for p in told_of] == [
        *((1, 2, 5), (1, 4, 5), (1, 5, 5)),
        *((2, 2, 5), (2, 4, 5), (2, 5, 5)),
    ]
    expected = pipeline(drawing, PROMPT, seed=seed, steps=5)
    np.testing.assert_array_equal(finished.images, expected.images)
    # The last preview is the image.
    np.testing.assert_array_equal(told_of[-1].preview, finished.images)
    np.testing.assert_array_equal(told_of[2].preview, finished.coarse)
    # Who stops asking has stopped it.
    stream = pipeline.stream([request], [seed], options, every=1)
    assert next(stream).step == 1
    stream.close()


def test_each_stage_may_draw_alone(rng, pipeline):
    page, seed = random_page(rng), int(rng.integers(2**32))
    both = pipeline(page, PROMPT, seed=seed)
    first = pipeline(page, PROMPT, seed=seed, stages="1")
    np.testing.assert_array_equal(first.images, both.coarse)
    assert first.coarse is None and first.attention is None
    # Stage 2 on the given image. It is not equal to Stage 1's latents, because pixels are rounded.
    given = pipeline(page, PROMPT, seed=seed, stages="2", image=both.coarse[0])
    np.testing.assert_array_equal(given.coarse, both.coarse)
    assert np.abs(given.images.astype(int) - both.images).mean() < 2
    unbegun = pipeline(page, PROMPT, seed=seed, stages="2")
    assert unbegun.coarse is None and (unbegun.images != both.images).any()
    # A photo, of any size, noised a little and a lot.
    photo = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    begun = [
        pipeline(page, PROMPT, seed=seed, stages="1", image=photo, strength=strength).images[0]
        for strength in (0.0, 0.2, 1.0)
    ]
    np.testing.assert_array_equal(begun[0], pipeline.starts([photo], (16, 16))[0])
    with pytest.raises(UserError, match="the image 30 × 40, which is another aspect ratio"):
        pipeline(page, PROMPT, stages="1", image=photo[:, :30])
    assert all((one != other).any() for one, other in itertools.combinations(begun, 2))


def test_the_stages_begin_with_different_noise(rng, pipeline):
    """Otherwise Stage 2 would add the noise that Stage 1 removed."""
    stage, request = pipeline.stages[2], pipeline.request(pipeline.page(random_page(rng)), PROMPT)
    sampling, options = stage.sampling_config("ddim"), pipeline.options()
    asked = scales_of(dataclasses.asdict(options)), sampling.timestep_grid(options.steps)
    begun = [
        make_stage_sampler(stage.model, sampling).begin(
            stage.params,
            request.batch,
            seed_keys(np.array([7], np.uint32), number),
            *asked,
            None,
            request.without_region_text,
        )
        for number in (1, 2)
    ]
    correlation = np.corrcoef(*(np.ravel(drawing.state.x) for drawing in begun))[0, 1]
    assert abs(correlation) < 0.5


def test_a_file_of_the_pages_size_is_read_as_any_other(rng, pipeline, tmp_path):
    """Light on dark, as a blackboard: only pages in memory are taken as they are."""
    Image.fromarray(255 - random_page(rng)).save(tmp_path / "page.png")
    result = pipeline(tmp_path / "page.png", PROMPT, stages="1")
    expected = to_page(read_grey(tmp_path / "page.png"), (pipeline.page_size,) * 2)
    np.testing.assert_array_equal(result.sketch_page.page, expected)
    assert np.median(expected) == 255


def test_a_stage_alone_is_a_pipeline(rng, pipeline, workdirs):
    page, (one, two) = random_page(rng), workdirs
    alone = Pipeline.restore(one)
    np.testing.assert_array_equal(
        alone(page, PROMPT).images, pipeline(page, PROMPT, stages="1").images
    )
    with pytest.raises(UserError, match="'both' and the workdir of Stage 2 is missing"):
        alone(page, PROMPT, stages="both")
    assert Pipeline.restore(stage2=two).options().stages == "2"
    with pytest.raises(UserError, match="No stage is given; give the workdir"):
        Pipeline.restore()


@pytest.mark.parametrize("stages", ["2", pytest.param("both", marks=pytest.mark.products)], ids=str)
def test_in_16_bits_it_keeps_and_computes_in_16_bits(rng, pipeline, workdirs, stages):
    narrow = Pipeline.restore(*workdirs, dtype="bfloat16")
    leaves = jax.tree.leaves([stage.params for stage in narrow.stages.values()])
    assert {str(leaf.dtype) for leaf in leaves} == {"bfloat16"}
    page = random_page(rng)
    narrow_images, images = (x(page, PROMPT, stages=stages).images for x in (narrow, pipeline))
    apart = narrow_images.astype(int) - images
    assert 0 < np.abs(apart).mean() < 20


def two_regions(rng, drawing):
    """The numbers of two regions."""
    return [int(i) for i in rng.choice(drawing.numbered.numbers, 2, replace=False)]


def test_words_of_a_region_are_all_that_it_hears_and_nobody_else_does(rng, pipeline):
    drawing = pipeline.page(random_page(rng))
    one, other = sorted(two_regions(rng, drawing))
    result = pipeline(drawing, "a house", {one: "small red", other: "blue top"})
    assert result.pieces[1:3] + result.pieces[4:8] == ["a", "house", "small", "red", "blue", "top"]
    rows = np.zeros((drawing.numbered.regions.n, len(result.pieces)), bool)
    rows[:, :4] = True  # the frame, too
    rows[one], rows[other] = False, False
    rows[one, 4:6] = rows[other, 6:8] = True
    np.testing.assert_array_equal(result.attention[0] > 0, rows)


def test_texts_that_share_no_window_have_windows_of_their_own(rng, pipeline):
    drawing = pipeline.page(random_page(rng))
    one, other = sorted(two_regions(rng, drawing))
    texts = {one: " ".join(WORDS[2:10]), other: "red small"}
    asked = {"seed": int(rng.integers(2**32)), "steps": 2}
    result = pipeline(drawing, "a house", texts, **asked)
    assert np.shape(result.pieces) == (36,) and result.pieces[13:21] == list(WORDS[2:10])
    rows = np.zeros((drawing.numbered.regions.n, 3, 12), bool)
    rows[:, 0, :4] = True
    rows[one], rows[other] = False, False
    rows[one, 1, 1:9] = rows[other, 2, 1:3] = True
    np.testing.assert_array_equal(result.attention[0] > 0, rows.reshape(-1, 36))
    # Other cells are those of the prompt alone, which needs one window.
    plain = pipeline(drawing, "a house", **asked)
    np.testing.assert_array_equal(result.coarse, plain.coarse)
    same = (result.images == plain.images).all(-1).mean()
    assert 0 < same < 1
    assert result.attention_maps is not None


def test_what_is_not_spoken_for_is_drawn_as_without_words(rng, pipeline):
    drawing = pipeline.page(random_page(rng))
    labels = drawing.numbered.regions.labels
    one, other = two_regions(rng, drawing)
    asked = {"seed": int(rng.integers(2**32)), "steps": 3}
    plain = pipeline(drawing, "a house", **asked)
    prompted = pipeline(drawing, "a house", {one: "red", other: "blue"}, **asked)
    np.testing.assert_array_equal(prompted.coarse, plain.coarse)
    side = pipeline.leading.model.latent_shape[0]
    cell = len(labels) // side
    shares = [
        (labels == drawing.numbered.id_of(number)).reshape(side, cell, side, cell).mean((1, 3))
        for number in (one, other)
    ]
    own = (sum(shares) >= 0.25) | np.any([share == share.max() for share in shares], 0)
    apart = (
        (prompted.images[0] != plain.images[0]).reshape(side, cell, side, cell, 3).any((1, 3, 4))
    )
    np.testing.assert_array_equal(apart, own)
    # If all regions have prompts, no cells are copied.
    every = dict.fromkeys(drawing.numbered.numbers, "red")
    said = pipeline(drawing, "a house", every, **asked).images
    assert (said != plain.images).reshape(side, cell, side, cell, 3).any((1, 3, 4)).all()


def test_one_with_words_and_one_without_are_drawn_together_as_alone(rng, pipeline):
    pairs = Pipeline(stage2=pipeline.stages[2], per_device=2)
    drawings = [pipeline.page(random_page(rng)) for _ in range(2)]
    words = [{drawings[0].numbered.numbers[-1]: "red"}, {}]
    request = [pipeline.request(drawings[i], "a house", words[i]) for i in range(2)]
    together = [one.images[0] for one in pairs.run(request, [3, 4], pairs.options(steps=2))]
    for i in range(2):
        asked = {"seed": 3 + i, "steps": 2, "stages": "2"}
        alone = pipeline(drawings[i], "a house", words[i], **asked).images[0]
        assert np.abs(together[i].astype(int) - alone).max() <= 1


def test_strength_0_leaves_the_picture_of_stage_1(rng, pipeline):
    result = pipeline(random_page(rng), PROMPT, strength=0.0)
    assert (result.coarse == result.images).all()


def test_a_blank_page_is_one_region(pipeline):
    result = pipeline(np.full((256, 256), 255, np.uint8), "")
    assert result.regions.n == 1
    assert result.notices == ["The sketch is blank: no line was found."]
    np.testing.assert_allclose(result.attention.sum(-1), 1, rtol=1e-5)


def test_a_photo_instead_of_a_sketch_is_noticed(pipeline):
    (notice,) = pipeline(cv2.cvtColor(astronaut(), cv2.COLOR_RGB2GRAY), "a house").notices
    assert notice.startswith("The sketch looks like a filled picture or a photo")
    assert "give a line drawing; --image takes an image to start from" in notice


def test_a_page_full_of_shapes_is_merged_into_the_budget(pipeline):
    page = np.full((256, 256), 255, np.uint8)
    page[::32], page[:, ::32] = 0, 0
    result = pipeline(page, PROMPT)
    assert 4 < result.regions.n < pipeline.leading.model.max_regions


def test_what_the_model_cannot_take_in_is_said(rng, pipeline):
    page = pipeline.page(random_page(rng))

    def notices(prompt, *others):
        return pipeline.request(page, prompt, *others).notices

    assert notices("a purple house") == ["The prompt has unknown words: purple."]
    assert notices("a house", {0: "purple"}) == [
        "The prompt of region 0 has unknown words: purple."
    ]
    for text in ("a [house] red", "a house AND red", "[house|red]"):
        (notice,) = [x for x in notices(text) if "as plain text" in x]
        assert notice.startswith("The prompt has ")
    (notice,) = notices("a house <lora:red:0.8>")
    assert notice.startswith("The prompt has <lora:red:0.8>, which is left out")
    for text in ("a (house:1.4)", "a house (red)", "a: house", "a house, break"):
        assert not any("as plain text" in x for x in notices(text))
    (zero,) = pipeline(page, "a house", guidance=0.0).notices
    assert zero.startswith("guidance is 0, so the prompt has no effect")
    (long,) = notices(" ".join(WORDS[:11]))
    assert long == "The prompt takes 2 windows of 12 tokens; the model was trained with one."
    assert notices(" ".join(WORDS[:10])) == []
    assert notices(" ".join(WORDS[:10]), {0: "red"}) == []
    with pytest.raises(UserError, match=r"^In the negative prompt: The weight in ':1.2.3\)' is no"):
        pipeline(page, "a house", negative_prompt="(red:1.2.3)")
    with pytest.raises(UserError, match="The prompts take 100 windows of 12 tokens and at most 64"):
        pipeline(page, "a " * 1000)
    with pytest.raises(UserError, match="There is no region 77; the sketch has the regions 0, 1"):
        pipeline(page, "a house", {77: "red"})
    with pytest.raises(UserError, match="The prompt of region 1 is empty"):
        pipeline(page, "a house", {1: "  "})


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is"),
        ({"seed": 2**32 - 1, "count": 2}, "seed is"),
        ({"count": 0}, "count is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": "4"}, "steps is '4'; choose a number"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"sampler": "plms"}, "dpm_solver_pp_2m"),
        ({"stages": "3"}, "stages is '3'; choose one of both, 1, 2"),
        ({"target_size": "8x8"}, "target_size is '8x8' and this model's UNet does not read it"),
        ({"target_size": "8"}, "target_size is '8'; write width x height"),
    ],
)
def test_settings_out_of_range_end_in_one_sentence(pipeline, setting, expected):
    with pytest.raises(UserError, match=expected):
        pipeline(np.full((256, 256), 255, np.uint8), PROMPT, **setting)


def test_a_restored_pipeline_is_the_one_that_was_saved(pipeline, workdirs):
    restored = Pipeline.restore(*workdirs)
    for number, saved in pipeline.stages.items():
        stage = restored.stages[number]
        jax.tree.map(np.testing.assert_array_equal, stage.params, saved.params)
        assert (stage.model, stage.step) == (saved.model, saved.step)


def test_workdirs_that_do_not_fit_end_in_one_sentence(tmp_path, workdirs):
    stage1, stage2 = workdirs
    with pytest.raises(UserError, match="no checkpoint"):
        Pipeline.restore(tmp_path, stage2)
    with pytest.raises(UserError, match="Stage"):
        Pipeline.restore(stage2, stage1)
    large = save_stage(random_stage(1, **{"data.image_size": 32}), tmp_path / "large")
    with pytest.raises(UserError, match=r"image_size is 32 .* 16"):
        Pipeline.restore(large, stage2)


def test_stages_of_different_vocabularies_are_refused(pipeline):
    other = dataclasses.replace(pipeline.stages[1], tokenizer=Tokenizer.train(["another word"]))
    with pytest.raises(UserError, match="vocabularies"):
        Pipeline(other, pipeline.stages[2])


def test_a_stage_of_sdxl_and_one_of_another_model_are_refused(pipeline):
    config = pipeline.stages[1].config.copy_and_resolve_references()
    config.model.unet = {**config.model.unet, "addition_embed_type": "text_time"}
    with pytest.raises(UserError, match="addition_embed_type is text_time in Stage 1 .* and None"):
        Pipeline(dataclasses.replace(pipeline.stages[1], config=config), pipeline.stages[2])


def sample(*flags):
    """The command in this process."""
    return run_here("ragaf_jax.sample", *flags)


def test_the_command_writes_every_file(rng, tmp_path, pipeline, workdirs):
    stage1, stage2 = workdirs
    sketch, output = tmp_path / "house.png", tmp_path / "outputs" / "house"
    Image.fromarray(random_page(rng)).save(sketch)
    flags = [f"--stage1={stage1}", f"--stage2={stage2}", f"--sketch={sketch}"]
    flags += [f"--prompt={PROMPT}", f"--output={output}", "--seed=42", "--strength=0.5"]
    command = [sys.executable, "-m", "ragaf_jax.sample", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in output.iterdir()} == FILES
    assert [path.name for path in output.parent.iterdir()] == ["house"]
    assert (output / "prompt.txt").read_text() == f"{PROMPT}\n"
    metadata = json.loads((output / METADATA).read_text())
    assert (metadata["seed"], metadata["strength"], metadata["steps"]) == (42, 0.5, 3)
    assert metadata["stage2"]["checkpoint_step"] == 7
    assert metadata["versions"]["jax"] == jax.__version__
    assert metadata["prompt"] == PROMPT
    sizes = {name: Image.open(output / name).size for name in FILES if name.endswith("png")}
    assert sizes["stage1_output.png"] == sizes["stage2_output.png"] == (16, 16)
    assert sizes["sketch.png"] == (256, 256) and sizes["stage2_upscaled.png"] == (512, 512)
    assert done.stdout == f"wrote {output}: 16 × 16 px images, upscaled to 512 px\n"
    assert metadata["cropped_to"] is None and metadata["upscaled_size"] == 512
    assert min(sizes["regions.png"]) >= 512
    # Another process samples the same image from the workdirs.
    expected = pipeline(np.array(Image.open(output / "sketch.png")), PROMPT, seed=42, strength=0.5)
    drawn = np.array(Image.open(output / "stage2_output.png")).astype(int)
    assert np.abs(drawn - expected.images[0]).max() <= 1


def small_sketch(rng, file):
    """A file whose ink takes 0.3 of its page, and the part of the page around it."""
    page = np.full((400, 400), 255, np.uint8)
    cv2.rectangle(page, (40, 60), (160, 150), 0, 5)
    Image.fromarray(page).save(file)
    return file


def test_a_small_sketch_is_cropped_and_an_image_to_begin_from_alike(
    rng, tmp_path, pipeline, monkeypatch
):
    sketch = small_sketch(rng, tmp_path / "small.png")
    photo = rng.integers(0, 256, (200, 200, 3), np.uint8)  # at half the size of the sketch
    asked = {"image": photo, "stages": "2", "strength": 0.0}
    result, kept = (pipeline(sketch, PROMPT, crop=crop, **asked) for crop in (True, False))
    assert kept.sketch_page.crop is None and kept.notices == []
    left, top, right, bottom = result.sketch_page.crop
    (notice,) = result.notices
    assert notice.startswith("The sketch was cropped to its ink") and "--nocrop" in notice
    begun = photo[round(200 * top) : round(200 * bottom), round(200 * left) : round(200 * right)]
    assert abs(len(begun) - 200 * (bottom - top)) < 2
    mean = result.given.astype(float).mean((0, 1))
    np.testing.assert_allclose(mean, begun.mean((0, 1)), atol=6)
    np.testing.assert_array_equal(result.given, result.coarse[0])
    # Upscaled, the frame and the lines are those of the page.
    folder = result.save(tmp_path / "out", upscale=256)
    large = np.array(Image.open(folder / "stage2_upscaled.png"))
    ink = result.sketch_page.page < 30
    assert large.shape == (256, 256, 3) and large[ink].max() < 40
    plain = np.array(Image.fromarray(result.images[0]).resize((256, 256), Image.Resampling.LANCZOS))
    paper = result.sketch_page.page == 255
    assert np.abs(large[paper].astype(int) - plain[paper]).mean() < 1
    metadata = json.loads((folder / METADATA).read_text())
    assert metadata["cropped_to"] == {"left": left, "top": top, "right": right, "bottom": bottom}
    assert metadata["upscaled_size"] == 256 and notice in metadata["notices"]
    # Three columns, because the starting image is shown, too.
    comparison = np.array(Image.open(folder / "comparison.png"))
    assert contains(comparison, enlarge(result.given, 192))
    # The regions alone come with the same notice.
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    flags = ["--stage1=one", f"--sketch={sketch}", "--regions-only", f"--output={tmp_path / 'r'}"]
    assert notice in sample(*flags).stderr
    assert "cropped" not in sample(*flags, "--nocrop").stderr
    small = result.save(tmp_path / "none", upscale=16)  # as large as the images are
    assert not (small / "stage2_upscaled.png").exists()
    assert json.loads((small / METADATA).read_text())["upscaled_size"] is None


def test_a_bad_sketch_ends_in_one_sentence_and_leaves_nothing(tmp_path):
    flags = ["--stage1=none", "--stage2=none", "--prompt=a", f"--output={tmp_path / 'out'}"]
    done = sample(*flags, f"--sketch={tmp_path / 'missing.png'}")
    assert done.status == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "missing.png does not exist" in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def house(rng, tmp_path):
    file = tmp_path / "house.png"
    Image.fromarray(random_page(rng)).save(file)
    return file


def test_one_looks_at_the_regions_then_speaks_of_them(
    house, tmp_path, pipeline, workdirs, monkeypatch
):
    # Of the workdirs, and compiled already.
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    stages = [f"--stage{i}={folder}" for i, folder in enumerate(workdirs, 1)]
    output = tmp_path / "out"
    done = sample(*stages, f"--sketch={house}", "--regions-only", f"--output={output}")
    assert done.status == 0, done.stderr
    names = {"sketch.png", "regions.png", "labels.png", "regions.json"}
    assert {path.name for path in output.iterdir()} == names
    known = json.loads((output / "regions.json").read_text())
    drawing = pipeline.page(house)
    assert [region["number"] for region in known] == list(drawing.numbered.numbers)
    labels = np.array(Image.open(output / "labels.png"))
    np.testing.assert_array_equal(labels[::16, ::16], drawing.numbered.regions.labels)
    assert min(Image.open(output / "regions.png").size) >= 512

    # Edited: a new region, then two merged regions with a prompt.
    labels[:32, :32] = 90
    Image.fromarray(labels).save(tmp_path / "edited.png")
    last = known[-1]["number"]
    flags = [f"--labels={tmp_path / 'edited.png'}", "--merge", f"90,{last}", "--stages=2"]
    flags += ["--region", f"{last}=red small", "--prompt=a house", "--count=2", "--seed=3"]
    done = sample(*stages, f"--sketch={house}", f"--output={output}", *flags)
    assert done.status == 0, done.stderr
    made = {path.name for path in output.iterdir()}
    assert made == (FILES - {"stage1_output.png"}) | {"images"}
    images = {path.name for path in (output / "images").iterdir()}
    assert images == {"3.png", "4.png", "3_upscaled.png", "4_upscaled.png"}
    assert (output / "prompt.txt").read_text() == f"a house\n{last}: red small\n"
    numbers = [region["number"] for region in json.loads((output / "regions.json").read_text())]
    assert last in numbers and 90 not in numbers
    metadata = json.loads((output / METADATA).read_text())
    assert metadata["region_prompts"] == {str(last): "red small"}
    assert metadata["merge"] == [f"90,{last}"] and metadata["count"] == 2
    numbered = merged(relabelled(drawing.numbered, labels, 8), [(90, last)])
    expected = pipeline(
        drawing._replace(numbered=numbered),
        "a house",
        {last: "red small"},
        seed=4,
        stages="2",
    )
    second = np.array(Image.open(output / "images" / "4.png"))
    np.testing.assert_array_equal(second, expected.images[0])
    assert "stage 2: 100%" in done.stderr and "6/6" in done.stderr  # a bar of all steps

    # Repeated from the metadata, also with another seed.
    again = tmp_path / "again"
    done = sample(f"--from={output / METADATA}", f"--output={again}")
    assert done.status == 0, done.stderr
    for name in ("images/3.png", "images/4.png", "labels.png", "prompt.txt"):
        assert (again / name).read_bytes() == (output / name).read_bytes()
    repeated = json.loads((again / METADATA).read_text())
    for circumstance in ("created", "seconds"):
        del repeated[circumstance], metadata[circumstance]
    assert repeated == metadata
    done = sample(f"--from={output}", f"--output={again}", "--seed=4", "--count=1")
    assert done.status == 0, done.stderr
    other = np.array(Image.open(again / "stage2_output.png"))
    np.testing.assert_array_equal(other, expected.images[0])


@pytest.mark.parametrize("document", ["README.md", "docs/sampling.md"])
def test_the_blocks_of_python_of_a_document_run(tmp_path, pipeline, monkeypatch, document, capsys):
    """One after the other, as a reader would paste them; small random stages stand in."""
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in python_blocks(ROOT / document):
        exec(compile(block, document, "exec"), names)
    assert Image.open("ping_pong.png").size == (16, 16)
    if document == "README.md":
        return
    assert {path.name for path in Path("outputs/ping_pong").iterdir()} == FILES
    assert len(names["fewer"].numbered.numbers) == names["page"].numbered.regions.n - 1
    assert capsys.readouterr().out.splitlines()[-1] == "stage 2: step 20 of 20"


def test_how_eagerly_areas_are_split_is_a_setting_of_the_output(
    tmp_path, pipeline, workdirs, monkeypatch
):
    """A wall that a window narrows: two regions, or one."""
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    page, file = np.full((256, 256), 255, np.uint8), tmp_path / "wall.png"
    for corner, other in (((40, 50), (216, 230)), ((52, 115), (204, 165))):
        cv2.rectangle(page, corner, other, 0, 3)
    Image.fromarray(page).save(file)
    flags = [f"--stage1={workdirs[0]}", f"--stage2={workdirs[1]}", f"--sketch={file}", "--prompt="]
    for more, expected in (([], (4, 1.0)), (["--neck_splits=0"], (3, 0.0))):
        done = sample(*flags, *more, f"--output={tmp_path / 'out'}")
        assert done.status == 0, done.stderr
        metadata = json.loads((tmp_path / "out" / METADATA).read_text())
        assert (metadata["regions"], metadata["neck_splits"]) == expected
    result = pipeline(pipeline.page(file, neck_splits=0), "")
    assert (result.regions.n, result.settings["neck_splits"]) == (3, 0)


def test_steps_are_counted_as_they_are_made(rng, pipeline):
    """And the bar changes no image."""
    page, image = random_page(rng), rng.integers(0, 256, (256, 256, 3), np.uint8)
    for asked in ({}, {"strength": 0.0}, {"stages": "2"}, {"stages": "2", "strength": 0.0}):
        for start in (None, image):
            options, seen = pipeline.options(steps=2, **asked), []
            given = {"image": start, "steps": 2, "count": 2, **asked}
            result = pipeline(page, PROMPT, progress=seen.append, **given)
            assert len(seen) == pipeline.steps(options, 2, start is not None)
            assert all(progress.preview is None for progress in seen)
            np.testing.assert_array_equal(result.images, pipeline(page, PROMPT, **given).images)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "No sketch is given; give --sketch"),
        (["--sketch=house.png", "house"], "The argument 'house' is not a flag"),
        (["--sketch={house}"], "No stage is given; give --stage1"),
        (["--sketch={house}", "--stage1={one}"], "--prompt is missing"),
        (["--sketch={house}", "--stage1={one}", "--prompt=", "--region=3"], "'3' is not <number>"),
        (["--sketch={house}", "--stage1={one}", "--prompt=", "--image=none.png"], "none.png does"),
        (["--sketch={house}", "--stage1={one}", "--prompt=", "--merge=2"], "--merge is '2'"),
        (["--sketch={house}", "--stage1={one}", "--prompt=", "--labels={photo}"], "has colours"),
        (
            ["--sketch={house}", "--stage1={one}", "--prompt=", "--stages=both"],
            "the workdir of Stage 2 is missing",
        ),
        (
            ["--sketch={house}", "--stage1={one}", "--prompt=", "--upscale=-1"],
            "upscale is -1; choose",
        ),
        (["--sketches=none", "--stage1={one}"], "There is no folder none"),
        (["--sketches=none", "--stage1={one}", "--region=3=red"], "--region is for one sketch"),
        (["--sketches=none", "--stage1={one}", "--regions-only"], "--regions-only is for one"),
    ],
)
def test_commands_that_cannot_be(rng, house, tmp_path, workdirs, flags, said):
    photo = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(photo)
    places = {"house": house, "one": workdirs[0], "photo": photo}
    done = sample(*(flag.format(**places) for flag in flags), f"--output={tmp_path / 'out'}")
    assert done.status == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert not (tmp_path / "out").exists()
