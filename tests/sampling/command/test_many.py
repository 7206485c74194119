"""Many sketches: each image as if sampled alone, none sampled twice, on several devices."""

import dataclasses
import json
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from commands import on_eight_devices, run_here
from fakes import save_stage
from pages import FILES, random_page
from pictures import contains
from PIL import Image

from ragaf_jax.errors import UserError
from ragaf_jax.figures.lettering import enlarge
from ragaf_jax.sampling.command import many as module
from ragaf_jax.sampling.command.batch_requests import BatchRequest
from ragaf_jax.sampling.command.many import batch_notices, run_batch
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA

FACTS = {"stage1": {"workdir": "runs/stage1"}}


@pytest.fixture
def pipeline(small_pipeline):
    return small_pipeline


@pytest.fixture
def rows(rng, tmp_path):
    """Three sketches, the second with a region prompt and its own seed."""
    made = []
    for i, words in enumerate(({}, {1: "blue"}, {})):
        file = tmp_path / f"sketch{i}.png"
        Image.fromarray(random_page(rng)).save(file)
        made.append(BatchRequest(f"row{i}", file, "a house", "green", words, 0 if words else None))
    return made


def test_each_is_what_it_would_be_alone(pipeline, rows, tmp_path, capsys):
    output = tmp_path / "out"
    done = run_batch(pipeline, rows, output, pipeline.options(steps=2), 4, FACTS)
    assert done == (["row0", "row1", "row2"], [], {}, {}, {(16, 16)})
    assert "3/3" in capsys.readouterr().err  # a bar
    for row in rows:
        folder = output / row.name
        assert {path.name for path in folder.iterdir()} == FILES
        metadata = json.loads((folder / METADATA).read_text())
        # The metadata suffice to repeat the image.
        words = {int(i): phrase for i, phrase in metadata.get("region_prompts", {}).items()}
        names = {field.name for field in dataclasses.fields(pipeline.options())} & set(metadata)
        again = pipeline(
            metadata["sketch"],
            metadata["prompt"],
            words,
            negative_prompt=metadata["negative_prompt"],
            seed=metadata["seed"],
            **{name: metadata[name] for name in names if name in metadata},
        )
        assert (metadata["seed"], metadata["steps"]) == (4 if row.seed is None else 0, 2)
        assert words == row.region_prompts
        sampled = np.array(Image.open(folder / "stage2_output.png"))
        np.testing.assert_array_equal(sampled, again.images[0])


def test_what_is_there_is_not_drawn_again(pipeline, rows, tmp_path, monkeypatch):
    output, options = tmp_path / "out", pipeline.options(steps=2)
    sample = module._Run.sample
    monkeypatch.setattr(module._Run, "sample", lambda *args: _killed(sample, *args))
    with pytest.raises(KeyboardInterrupt):
        run_batch(pipeline, rows, output, options, 4, FACTS)
    assert [path.name for path in output.iterdir()] == ["row0"]
    monkeypatch.setattr(module._Run, "sample", sample)
    done = run_batch(pipeline, rows, output, options, 4, FACTS)
    assert (done.sampled, done.existing) == (["row1", "row2"], ["row0"])
    # The overview has all, and the next run passes over it.
    overview = np.array(Image.open(output / "overview.png"))
    for row in rows:
        image = np.array(Image.open(output / row.name / "stage2_output.png"))
        assert contains(overview, enlarge(image, 128))
    # Another seed, setting, checkpoint or sketch is another image, but a row may have its own seed.
    assert run_batch(pipeline, rows, output, options, 5, FACTS).existing == ["row1"]
    other = pipeline.options(steps=3)
    assert run_batch(pipeline, rows, output, other, 5, FACTS).existing == []
    facts = {"stage1": {"workdir": "runs/another"}}
    assert run_batch(pipeline, rows, output, other, 5, facts).existing == []
    assert run_batch(pipeline, rows[:1], output, other, 5, facts, crop=False).existing == []
    assert run_batch(pipeline, rows[:1], output, other, 5, facts, upscale=0).existing == []
    assert not (output / "row0" / "stage2_upscaled.png").exists()
    assert run_batch(pipeline, rows[:1], output, other, 5, facts).sampled == ["row0"]
    page = np.full((256, 256), 255, np.uint8)
    cv2.circle(page, (128, 128), 60, 0, 7)
    Image.fromarray(page).save(rows[2].sketch)
    assert run_batch(pipeline, rows, output, other, 5, facts).existing == ["row0", "row1"]


def test_what_an_older_output_leaves_out_is_compared_too(pipeline, rows, tmp_path, monkeypatch):
    """Empty texts, and `neck_splits`, which older versions did not record."""

    def noted(run, batch):
        for prepared in batch:
            assert prepared.page.neck_splits == prepared.settings["neck_splits"]
            (run.output / prepared.name).mkdir(parents=True, exist_ok=True)
            facts = {**prepared.facts, "image_size": 16}  # as older versions recorded squares
            metadata = json.dumps({**prepared.settings, **facts})
            (run.output / prepared.name / METADATA).write_text(metadata)
            run.done.sampled.append(prepared.name)

    monkeypatch.setattr(module._Run, "sample", noted)
    row, output, options = rows[1], tmp_path / "out", pipeline.options(steps=2)

    def sampled(row, neck_splits=1.0):
        return run_batch(
            pipeline, [row], output, options, 4, FACTS, neck_splits=neck_splits
        ).sampled

    assert sampled(row) == ["row1"] and sampled(row) == []
    for changed in (row._replace(negative_prompt=""), row._replace(region_prompts={})):
        assert sampled(changed) == ["row1"] and sampled(changed) == [] and sampled(row) == ["row1"]
    assert sampled(row, 0.5) == ["row1"] and sampled(row, 0.5) == [] and sampled(row) == ["row1"]
    path = output / row.name / METADATA
    metadata = json.loads(path.read_text())
    del metadata["neck_splits"]
    # Paths were once recorded as they were given; the same file has the same SHA-256.
    metadata["sketch"] = "elsewhere.png"
    path.write_text(json.dumps(metadata))
    assert sampled(row) == [] and sampled(row, 0.5) == ["row1"]
    path.write_text("[]")
    assert sampled(row) == ["row1"]


def _killed(sample, *args):
    sample(*args)
    raise KeyboardInterrupt


def test_a_row_that_fails_does_not_end_the_others(pipeline, rows, tmp_path):
    output, options = tmp_path / "out", pipeline.options(steps=2)
    rows[0].sketch.write_bytes(b"no picture")
    rows[1] = rows[1]._replace(region_prompts={99: "red"})
    rows[2] = rows[2]._replace(prompt="a purple house")
    (output / "row3").mkdir(parents=True)
    (output / "row3" / "thesis.doc").touch()
    rows.append(rows[2]._replace(name="row3"))
    rows.append(rows[2]._replace(name="row4", seed=2**32))
    rows.append(rows[2]._replace(name="overview.png"))
    rows.append(rows[2]._replace(name="row6", sketch=tmp_path / "none.png"))
    done = run_batch(pipeline, rows, output, options, 4, FACTS, crop=False)  # some pages are small
    assert done.sampled == ["row2"]
    assert done.notices == {"row2": ["The prompt has unknown words: purple."]}
    reasons = [
        ("row0", "is not an image"),
        ("row1", "There is no region 99"),
        ("row3", "holds other files"),
        ("row4", "The seed is"),
        ("overview.png", "is the name of the overview"),
        ("row6", "none.png cannot be read (No such file or directory); give an image file."),
    ]
    assert set(done.failed) == {name for name, _ in reasons}
    assert all(reason in done.failed[name] for name, reason in reasons)
    assert [path.name for path in (output / "row3").iterdir()] == ["thesis.doc"]


def test_notices_of_a_batch_have_the_names_of_their_rows_and_a_bound():
    assert batch_notices({"a": ["It is blank.", "It is long."], "b": ["It is blank."]}) == [
        "a: It is blank.",
        "a: It is long.",
        "b: It is blank.",
    ]
    lines = batch_notices({str(i): ["It is blank."] for i in range(25)})
    assert len(lines) == 21 and lines[-1] == "… and 5 more notices: see each metadata.json."


EIGHT = """
import sys
sys.path.insert(0, "tests/support")
from pathlib import Path
import jax
import numpy as np
from ragaf_jax.nets import attention
from ragaf_jax.sampling.pipeline import Pipeline
assert len(jax.devices()) == 8
sharded, meshes = attention._sharded, []
attention._sharded = lambda *x: (meshes.append(jax.sharding.get_abstract_mesh()), sharded(*x))[1]
folder = Path(sys.argv[1])
pages = np.load(folder / "pages.npy")
shared = Pipeline.restore(folder / "1", folder / "2", devices=jax.devices())
assert shared.batch_size == 8
words = [{}, {0: "red"}, {}]
requests = [shared.request(shared.page(page), "a house", x) for page, x in zip(pages, words)]
options = shared.options(steps=2)
shared.run(requests[:1] * 3, range(3), options)
advances = [shared._sampler(i, options.sampler).advance.__wrapped__ for i in (1, 2)]
compiled = [advance._cache_size() for advance in advances]
results = shared.run(requests, range(len(pages)), options)
np.save(folder / "eight.npy", np.concatenate([one.images for one in results]))
assert compiled == [advance._cache_size() for advance in advances]
# XLA cannot partition the kernels of accelerators.
assert {mesh.size for mesh in meshes} == {8}
"""


def test_eight_devices_draw_what_one_draws(rng, pipeline, tmp_path):
    pages = np.stack([random_page(rng) for _ in range(3)])
    np.save(tmp_path / "pages.npy", pages)
    for number, stage in pipeline.stages.items():
        save_stage(stage, tmp_path / str(number))
    on_eight_devices("-c", EIGHT, tmp_path)
    sampled = np.load(tmp_path / "eight.npy")
    for i, page in enumerate(pages):
        words = {0: "red"} if i == 1 else {}
        alone = pipeline(page, "a house", words, seed=i, steps=2).images[0]
        error = np.square(sampled[i].astype(float) - alone).mean()
        assert error == 0 or 10 * np.log10(255**2 / error) >= 50


def test_the_command_draws_many(pipeline, rows, tmp_path, monkeypatch):
    def restore(*workdirs, dtype, devices, per_device, checkpoint, **others):
        assert others == {"vae": None, "controls": []}
        assert (workdirs, dtype) == (("runs/stage1", "runs/stage2"), "float32")
        assert (devices, per_device, checkpoint) == (jax.devices(), 3, "best")
        return pipeline

    monkeypatch.setattr(Pipeline, "restore", restore)
    stages = ["--stage1=runs/stage1", "--stage2=runs/stage2"]
    folder = rows[0].sketch.parent
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a house\na house red\na house blue\n")
    command = [*stages, f"--sketches={folder}", f"--output={tmp_path / 'out'}", "--steps=2"]
    command += ["--dtype=float32", "--per_device=3", "--checkpoint=best"]
    done = run_here("ragaf_jax.sample", *command, f"--prompts={prompts}")
    assert done.status == 0, done.stderr
    assert done.stdout.strip().startswith("3 sampled, 0 existed before")
    found = sorted(path.name for path in Path(tmp_path / "out").iterdir())
    assert found == ["overview.png", "sketch0", "sketch1", "sketch2"]
    assert done.stdout.endswith("out: 16 × 16 px images, upscaled to 512 px\n")
    rows[1].sketch.write_bytes(b"")
    done = run_here("ragaf_jax.sample", *command, f"--prompts={prompts}")
    assert done.status == 1 and done.stdout.strip().startswith("0 sampled, 2 existed before")
    assert "sketch1: The sketch" in done.stderr
    assert "error: 1 of 3 sketches could not be sampled" in done.stderr


def test_rows_need_a_pipeline_that_draws(pipeline):
    with pytest.raises(UserError, match="Images per device are 0"):
        Pipeline(*pipeline.stages.values(), per_device=0)
    assert Pipeline(pipeline.stages[1], devices=jax.devices()[:1], per_device=3).batch_size == 3
