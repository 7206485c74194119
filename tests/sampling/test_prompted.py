"""Weights, windows, textual inversions and clip skip in whole calls, commands and records."""

import json
import logging

import jax
import numpy as np
import pytest
from commands import run_here
from fakes import SMALLEST, random_stage, save_stage
from pages import random_page
from PIL import Image
from safetensors.numpy import save_file

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA

pytestmark = pytest.mark.slow

STEPS = {"steps": 2}


@pytest.fixture(scope="module")
def pipeline():
    """Stage 1 with a text encoder of three layers."""
    return Pipeline(random_stage(1, **SMALLEST, **{"model.text_encoder.num_hidden_layers": 3}))


@pytest.fixture
def toys(rng, tmp_path):
    """A folder of two textual inversions."""
    folder = tmp_path / "toys"
    folder.mkdir()
    for name, count in (("toy", 2), ("doll", 1)):
        vectors = rng.standard_normal((count, 16)).astype(np.float32)
        save_file({"emb_params": vectors}, folder / f"{name}.safetensors")
    return folder


def test_every_prompt_has_an_effect_and_new_values_compile_nothing(rng, pipeline, toys, caplog):
    page = pipeline.page(random_page(rng))
    assert pipeline.load_embeddings(toys) == [] and set(pipeline.embeddings) == {"toy", "doll"}

    def image(prompt, **more):
        return pipeline(page, prompt, **STEPS, **more).images

    plain, long = image("a red house"), "a red house " * 4
    firsts = [
        image("a (red:1.3) house"),
        image("a red toy"),
        image("a red house", clip_skip=1),
        image(long),
    ]
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        others = [
            image("(a:0.5) red (house:2)", negative_prompt="(blue:0.9)"),
            image("doll toy", negative_prompt="doll"),
            image("a red house", clip_skip=2),
            image("a", negative_prompt=long),
        ]
        # As the model was trained: the same program, and the same bits.
        np.testing.assert_array_equal(image("a red house", clip_skip=0), plain)
        np.testing.assert_array_equal(image("a (red:1.0) house"), plain)
        assert [line for line in caplog.messages if "ompil" in line] == []
    for other in (*firsts, *others):
        assert (other != plain).any()


def test_requests_of_other_texts_are_sampled_as_alone(rng, pipeline):
    page = pipeline.page(random_page(rng))
    prompts = ["a red house", "a (red:1.3) house", "a blue house", "a red house " * 4]
    requests = [pipeline.request(page, prompt) for prompt in prompts]
    assert list(pipeline._batches(requests, by_ragaf=True)) == [[0], [2], [1], [3]]
    together = pipeline.run(requests, [1, 2, 3, 4], pipeline.options(**STEPS))
    for i, prompt in enumerate(prompts):
        alone = pipeline(page, prompt, seed=i + 1, **STEPS)
        np.testing.assert_array_equal(together[i].images, alone.images)


def test_wrong_settings_end_in_one_sentence(rng, pipeline, toys):
    page = pipeline.page(random_page(rng))
    for skip, message in (
        (3, "clip_skip is 3; choose 0 to 2, because the text encoder has no more"),
        (-1, "clip_skip is -1; choose a whole number, 0 or more"),
        (0.5, "clip_skip is 0.5; choose a whole"),
        ("1", "clip_skip is '1'; choose a number"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline(page, "a house", clip_skip=skip)
    pipeline.load_embeddings(toys)
    with pytest.raises(
        UserError, match="^In the prompt: There is no embedding 'tooy'; did you mean"
    ):
        pipeline(page, "embedding:tooy")
    save_file({"emb_params": np.ones((1, 8), np.float32)}, toys / "other.safetensors")
    with pytest.raises(UserError, match="'other' in .* has width 8 and the text encoder 16"):
        pipeline.load_embeddings(toys / "other.safetensors")


def test_the_command_records_and_repeats_them(rng, pipeline, toys, tmp_path, monkeypatch):
    workdir = save_stage(pipeline.leading, tmp_path / "stage1")
    monkeypatch.setattr(Pipeline, "restore", lambda *_, **__: pipeline)
    sketch, out, again = (tmp_path / name for name in ("house.png", "out", "again"))
    Image.fromarray(random_page(rng)).save(sketch)
    flags = [f"--stage1={workdir}", f"--sketch={sketch}", "--steps=2", "--clip_skip=1"]
    flags += [f"--embedding={toys}", "--prompt=a (toy:1.2) house"]
    done = run_here("ragaf_jax.sample", *flags, f"--output={out}")
    assert done.status == 0, done.stderr
    assert "Embeddings, for prompts to name: doll (1 vector), toy (2 vectors)." in done.stderr
    metadata = json.loads((out / METADATA).read_text())
    (used,) = metadata["embeddings"]
    assert used["path"] == str(toys / "toy.safetensors") and metadata["clip_skip"] == 1
    assert metadata["prompt"] == "a (toy:1.2) house"
    done = run_here("ragaf_jax.sample", f"--from={out}", f"--output={again}")
    assert done.status == 0, done.stderr
    for name in ("stage1_output.png", "prompt.txt"):
        assert (again / name).read_bytes() == (out / name).read_bytes()
    repeated = json.loads((again / METADATA).read_text())
    assert repeated["embeddings"] == metadata["embeddings"] and repeated["clip_skip"] == 1

    # A batch skips what exists, and samples again with another embedding of the same name.
    table, batch = tmp_path / "prompts.jsonl", tmp_path / "batch"
    table.write_text(json.dumps({"sketch": "house.png", "prompt": "a toy"}))
    flags = [f"--stage1={workdir}", f"--sketches={tmp_path}", f"--prompts={table}", "--steps=2"]
    flags += [f"--output={batch}", f"--embedding={toys / 'toy.safetensors'}"]
    for sampled, existing in ((1, 0), (0, 1)):
        done = run_here("ragaf_jax.sample", *flags)
        assert f"{sampled} sampled, {existing} existed before" in done.stdout
    save_file({"emb_params": np.ones((2, 16), np.float32)}, toys / "toy.safetensors")
    assert "1 sampled, 0 existed before" in run_here("ragaf_jax.sample", *flags).stdout
    done = run_here("ragaf_jax.sample", f"--from={out}", f"--output={again}")
    assert "The embedding" in done.stderr and "has changed since" in done.stderr
