"""Both stages behind one call, and the folder and command around it, with random parameters."""

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from fakes import WORDS, random_stage, save_stage
from PIL import Image

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.outputs import METADATA, write_outputs
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
PROMPT = " ".join(WORDS[:6])
# Of the design; other programs look for these names.
FILES = {
    "sketch.png",
    "regions.png",
    "region_graph.png",
    "stage1_output.png",
    "stage2_output.png",
    "comparison.png",
    "attention_maps.png",
    "prompt.txt",
    "metadata.json",
}


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(random_stage(1), random_stage(2))


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, pipeline):
    folder = tmp_path_factory.mktemp("runs")
    stages = {"stage1": pipeline.stage1, "stage2": pipeline.stage2}
    return [save_stage(stage, folder / name) for name, stage in stages.items()]


def random_page(rng, side=256):
    page = np.full((side, side), 255, np.uint8)
    for _ in range(3):
        centre, radius = rng.integers(60, 196, 2), rng.integers(20, 60)
        cv2.circle(page, centre.tolist(), int(radius), 0, 7)
    return page


def test_a_result_is_whole(rng, pipeline):
    result = pipeline(random_page(rng), PROMPT, seed=int(rng.integers(2**32)))
    size, length = pipeline.stage2.model.image_size, pipeline.stage2.model.text_length
    assert pipeline.page_size == 256
    assert result.stage1.shape == result.stage2.shape == (size, size, 3)
    assert result.stage1.dtype == result.stage2.dtype == np.uint8
    assert result.sketch.shape == result.regions.labels.shape == (size, size)
    assert 1 < result.regions.n < pipeline.stage2.model.max_regions
    assert result.attention.shape == (result.regions.n, length)
    np.testing.assert_allclose(result.attention.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(result.fusion.sum(1), 1, rtol=1e-5)
    assert result.pieces[1:7] == PROMPT.split()
    # Nothing of a region's attention goes to padding.
    assert result.attention[:, 8:].max() == 0
    assert result.notices == []


def test_a_stage_2_without_ragaf_has_no_attention_to_show(rng, pipeline, tmp_path):
    without = Pipeline(pipeline.stage1, random_stage(2, **{"model.ragaf.inject": ()}))
    page = random_page(rng)
    result = without(page, PROMPT)
    assert result.attention is None and result.fusion is None
    write_outputs(tmp_path, page, PROMPT, result, {})
    assert {file.name for file in tmp_path.iterdir()} == FILES - {"attention_maps.png"}


def test_the_seed_decides_and_nothing_else_does(rng, pipeline):
    page, seed = random_page(rng), int(rng.integers(2**31))
    first, again = pipeline(page, PROMPT, seed=seed), pipeline(page, PROMPT, seed=seed)
    other = pipeline(page, PROMPT, seed=seed + 1)
    assert (first.stage1 == again.stage1).all() and (first.stage2 == again.stage2).all()
    assert (first.stage1 != other.stage1).any() and (first.stage2 != other.stage2).any()


def test_every_setting_has_an_effect_and_scales_do_not_compile_again(rng, pipeline):
    page = random_page(rng)
    plain = pipeline(page, PROMPT)
    (draw,) = pipeline._draws.values()
    compiled = draw._cache_size()
    scales = {"guidance": 5.0, "guidance_until": 0.9, "strength": 0.4}
    for name, value in scales.items():
        assert (pipeline(page, PROMPT, **{name: value}).stage2 != plain.stage2).any(), name
    assert (pipeline(page, WORDS[7]).stage2 != plain.stage2).any()
    assert (pipeline(255 - page, PROMPT).stage2 != plain.stage2).any()
    assert draw._cache_size() == compiled
    # To be guided by the sketch takes a third evaluation, and one more compilation.
    guided = [pipeline(page, PROMPT, sketch_guidance=scale).stage2 for scale in (2.5, 0.5)]
    pictures = [plain.stage2, *guided]
    assert all((one != other).any() for one, other in itertools.pairwise(pictures))
    assert draw._cache_size() == compiled + 1
    assert (pipeline(page, PROMPT, steps=4, sampler="ddim").stage1 != plain.stage1).any()
    assert len(pipeline._draws) == 2
    assert plain.settings == {**pipeline.stage2.config.sample.to_dict(), "seed": 0}


def test_strength_0_leaves_the_picture_of_stage_1(rng, pipeline):
    result = pipeline(random_page(rng), PROMPT, strength=0.0)
    assert (result.stage1 == result.stage2).all()


def test_a_blank_page_is_one_region(pipeline):
    result = pipeline(np.full((256, 256), 255, np.uint8), "")
    assert result.regions.n == 1
    assert result.notices == ["The sketch is blank: no line was found on it."]
    np.testing.assert_allclose(result.attention.sum(1), 1, rtol=1e-5)


def test_a_page_full_of_shapes_is_merged_into_the_budget(pipeline):
    page = np.full((256, 256), 255, np.uint8)
    page[::32], page[:, ::32] = 0, 0
    result = pipeline(page, PROMPT)
    assert 4 < result.regions.n < pipeline.stage2.model.max_regions


def test_what_the_model_cannot_take_in_is_said(rng, pipeline):
    page = random_page(rng)
    (unknown,) = pipeline(page, "a purple house").notices
    assert "purple" in unknown and "house" not in unknown
    (long,) = pipeline(page, " ".join(WORDS[:11])).notices
    assert "longer than 12 tokens" in long
    assert pipeline(page, " ".join(WORDS[:10])).notices == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"sampler": "heun"}, "dpm_solver_pp_2m"),
    ],
)
def test_settings_out_of_range_end_in_one_sentence(pipeline, setting, expected):
    with pytest.raises(UserError, match=expected):
        pipeline(np.full((256, 256), 255, np.uint8), PROMPT, **setting)


def test_a_restored_pipeline_is_the_one_that_was_saved(pipeline, workdirs):
    restored = Pipeline.restore(*workdirs)
    pairs = (restored.stage1, pipeline.stage1), (restored.stage2, pipeline.stage2)
    for stage, saved in pairs:
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
    other = dataclasses.replace(pipeline.stage1, tokenizer=Tokenizer.train(["another word"]))
    with pytest.raises(UserError, match="vocabularies"):
        Pipeline(other, pipeline.stage2)


def sample(*flags):
    command = [sys.executable, "-m", "ragaf_jax.sample", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_every_file(rng, tmp_path, pipeline, workdirs):
    stage1, stage2 = workdirs
    sketch, output = tmp_path / "house.png", tmp_path / "outputs" / "house"
    Image.fromarray(random_page(rng)).save(sketch)
    flags = [f"--stage1={stage1}", f"--stage2={stage2}", f"--sketch={sketch}"]
    flags += [f"--prompt={PROMPT}", f"--output={output}", "--seed=42", "--strength=0.5"]
    done = sample(*flags)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in output.iterdir()} == FILES
    assert [path.name for path in output.parent.iterdir()] == ["house"]
    assert (output / "prompt.txt").read_text() == f"{PROMPT}\n"
    metadata = json.loads((output / METADATA).read_text())
    assert (metadata["seed"], metadata["strength"], metadata["steps"]) == (42, 0.5, 3)
    assert metadata["stage2"]["checkpoint_step"] == 7
    assert metadata["versions"]["jax"] == jax.__version__
    sizes = {name: Image.open(output / name).size for name in FILES if name.endswith("png")}
    assert sizes["stage1_output.png"] == sizes["stage2_output.png"] == (16, 16)
    assert sizes["sketch.png"] == (256, 256)
    assert min(sizes["regions.png"]) >= 512
    # In another process, from the workdirs: the same picture as here.
    expected = pipeline(np.array(Image.open(output / "sketch.png")), PROMPT, seed=42, strength=0.5)
    drawn = np.array(Image.open(output / "stage2_output.png")).astype(int)
    # The suite compiles without optimizations and the command with: rounding may differ.
    assert np.abs(drawn - expected.stage2).max() <= 1


def test_a_bad_sketch_ends_in_one_sentence_and_leaves_nothing(tmp_path):
    flags = ["--stage1=none", "--stage2=none", "--prompt=a", f"--output={tmp_path / 'out'}"]
    done = sample(*flags, f"--sketch={tmp_path / 'missing.png'}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "missing.png does not exist" in line
    assert list(tmp_path.iterdir()) == []
