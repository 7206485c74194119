"""ControlNets beside the sketch branch, in the pipeline and in the command."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest
from commands import run_here
from fakes import random_stage, save_stage
from pages import random_page
from PIL import Image
from safetensors.numpy import save_file

from ragaf_jax.demo.generation import generate
from ragaf_jax.demo.session import Session
from ragaf_jax.errors import UserError
from ragaf_jax.sampling.command.batch_requests import read_requests
from ragaf_jax.sampling.command.many import run_batch
from ragaf_jax.sampling.controls.networks import WeightFiles
from ragaf_jax.sampling.controls.settings import ControlPlace, ControlSettings, parse_control
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sampling.recorded import METADATA, read_recorded
from ragaf_jax.weights.configs import networks as configs
from ragaf_jax.weights.configs.networks import ControlConfig
from ragaf_jax.weights.names import unet_names
from ragaf_jax.weights.save import torch_tensors, write_json

PROMPT = "a red house"
SMALL = {
    "model.unet.down_block_types": ("DownBlock2D",),
    "model.unet.up_block_types": ("UpBlock2D",),
}


def write_control(folder, params, config):
    """A ControlNet's folder in diffusers' layout."""
    folder.mkdir()
    tensors = torch_tensors(params, unet_names, "float32")
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    write_json(folder / "config.json", configs.control_json(config))
    return folder


@pytest.fixture(scope="module")
def stages():
    return random_stage(1, **SMALL), random_stage(1, seed=1, **SMALL)


@pytest.fixture(scope="module")
def places(tmp_path_factory, stages):
    """The workdir of a stage, and the ControlNets of both stages' sketch branches."""
    folder = tmp_path_factory.mktemp("controls")
    one, two = stages
    sizes = ControlConfig(one.model.unet.config, one.model.control.conditioning_channels)
    controls = [
        write_control(folder / name, stage.params["control"], sizes)
        for name, stage in (("same", one), ("other", two))
    ]
    return save_stage(one, folder / "stage1"), *controls


@pytest.fixture(scope="module")
def pipeline(places):
    workdir, same, other = places
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ragaf_jax.sampling.pipeline.keep_compiled", lambda: None)
        return Pipeline.restore(workdir, controls=[same, other])


OFF = ControlSettings(0.0)


def test_without_strength_they_change_nothing(rng, pipeline, stages):
    page = pipeline.page(random_page(rng))
    plain = Pipeline(stages[0])(page, PROMPT)
    found = pipeline(page, PROMPT, controls=[OFF, OFF])
    np.testing.assert_array_equal(found.images, plain.images)
    assert found.notices == [
        f"The strength of control {i} is 0, so it has no effect." for i in (1, 2)
    ]
    assert plain.settings["controls"] == ()
    assert list(found.settings["controls"]) == [dataclasses.asdict(OFF)] * 2
    # As metadata.json has it.
    again = pipeline(page, PROMPT, controls=[dataclasses.asdict(OFF)] * 2)
    np.testing.assert_array_equal(again.images, plain.images)
    # The same network at half strength, twice, is the branch alone.
    half = pipeline(page, PROMPT, sketch_strength=0.5, controls=[ControlSettings(0.5), OFF])
    assert np.abs(half.images.astype(int) - plain.images).max() <= 1


def test_every_setting_has_an_effect_and_none_compiles_again(rng, pipeline, caplog):
    page, image = pipeline.page(random_page(rng)), rng.integers(0, 256, (32, 32, 3), np.uint8)
    plain = pipeline(page, PROMPT, steps=4)
    residuals = pipeline.stages[1].model.control.residuals
    settings = [
        {"controls": [ControlSettings(), OFF]},
        {"controls": [ControlSettings(), ControlSettings(start=0.5)]},
        {"controls": [ControlSettings(), ControlSettings(end=0.5)]},
        {"controls": [ControlSettings(), ControlSettings(levels="guess")]},
        {"control_images": [None, image]},
        {"control_images": [image]},
        {"sketch_start": 0.25},
        {"sketch_end": 0.75},
        {"sketch_levels": "guess"},
        {"sketch_levels": ",".join(["0.5"] * residuals)},
    ]
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        for setting in settings:
            found = pipeline(page, PROMPT, **{"steps": 4, **setting})
            assert (found.images != plain.images).any(), setting
        assert [line for line in caplog.messages if "ompil" in line] == []
    evenly = pipeline(page, PROMPT, steps=4, sketch_levels=",".join(["1"] * residuals))
    np.testing.assert_array_equal(evenly.images, plain.images)


def test_what_does_not_fit_ends_in_a_sentence(rng, pipeline, places, stages, tmp_path):
    page, image = pipeline.page(random_page(rng)), np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="There are 3 control images and 2 ControlNets; give at"):
        pipeline(page, PROMPT, control_images=[image] * 3)
    with pytest.raises(UserError, match="settings for 1 ControlNets and 2 are loaded"):
        pipeline.options(controls=[OFF])
    with pytest.raises(UserError, match="'1,1' are 2 numbers and the network has 3 residuals"):
        pipeline.options(sketch_levels="1,1")
    tall = np.zeros((64, 32, 3), np.uint8)
    with pytest.raises(UserError, match="The sketch has 256 × 256 pixels and the image 32 × 64"):
        pipeline(random_page(rng), PROMPT, control_images=[tall])
    one = stages[0]
    control, unet = one.params["control"], one.model.unet.config
    for name, config, said in (
        ("wide", dataclasses.replace(unet, cross_attention_dim=24), "cross_attention_dim of the C"),
        ("fine", unet, "reduces its image by 2 and this model's latents are reduced by 4"),
    ):
        channels = (8, 8) if name == "fine" else (8, 8, 16)
        folder = write_control(tmp_path / name, control, ControlConfig(config, channels))
        with pytest.raises(UserError, match=said):
            Pipeline.restore(places[0], controls=[folder])
    with pytest.raises(UserError, match="and Stage 1 has none to replace, because its latents are"):
        Pipeline.restore(places[0], vae=places[1])


def test_a_recorded_output_with_controls_repeats(rng, places, pipeline, tmp_path, monkeypatch):
    workdir, same, other = places
    sketch, edges, output = (tmp_path / name for name in ("sketch.png", "edges.png", "out"))
    Image.fromarray(random_page(rng)).save(sketch)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(edges)
    seen = []

    def restore(*_, controls, vae, **__):
        seen.append((list(controls), vae))
        named = zip(pipeline.controls, controls, strict=True)
        found = [one._replace(settings=place.settings) for one, place in named]
        monkeypatch.setattr(pipeline, "controls", tuple(found))
        return pipeline

    monkeypatch.setattr(Pipeline, "restore", restore)
    flags = [f"--stage1={workdir}", f"--sketch={sketch}", f"--prompt={PROMPT}", "--seed=3"]
    flags += [f"--control={same}=0.5,0,0.75", f"--control={other}=1,0.25,1,guess"]
    flags += ["--control_image=", f"--control_image={edges}", "--sketch_end=0.75"]
    done = run_here("ragaf_jax.sample", *flags, f"--output={output}")
    assert done.status == 0, done.stderr
    expected = [
        ControlPlace(str(same), ControlSettings(0.5, 0.0, 0.75)),
        ControlPlace(str(other), ControlSettings(1.0, 0.25, 1.0, "guess")),
    ]
    metadata = json.loads((output / METADATA).read_text())
    assert metadata["sketch_end"] == 0.75
    assert metadata["controls"] == [dataclasses.asdict(place.settings) for place in expected]
    networks = metadata["control_networks"]
    assert [one["where"] for one in networks] == [str(same), str(other)]
    assert "image" not in networks[0] and networks[1]["image"] == str(edges)
    again = tmp_path / "again"
    done = run_here("ragaf_jax.sample", f"--from={output}", f"--output={again}")
    assert done.status == 0, done.stderr
    assert seen == [(expected, None)] * 2
    name = "stage1_output.png"
    assert (again / name).read_bytes() == (output / name).read_bytes()
    repeated = json.loads((again / METADATA).read_text())
    for circumstance in ("created", "seconds"):
        del repeated[circumstance], metadata[circumstance]
    assert repeated == metadata

    networks[0]["sha256"] = "0" * 64
    (output / METADATA).write_text(json.dumps({**metadata, "control_networks": networks}))
    done = run_here("ragaf_jax.sample", f"--from={output}", f"--output={again}")
    assert done.status == 1
    assert f"The control {same} has changed since" in done.stderr
    Image.new("RGB", (64, 64)).save(edges)
    done = run_here("ragaf_jax.sample", f"--from={output}", f"--output={again}")
    assert done.status == 1 and f"The control_image {edges} has changed since" in done.stderr


def test_results_of_calls_and_of_the_page_record_the_networks(rng, pipeline, tmp_path, monkeypatch):
    """And the files of images, so that --from= samples with them."""
    monkeypatch.setattr(pipeline, "vae", WeightFiles("/vae", "1f"))
    sketch, edges = tmp_path / "sketch.png", tmp_path / "edges.png"
    page = random_page(rng)
    Image.fromarray(page).save(sketch)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(edges)
    levels = ControlSettings(0.5, levels="0.5, 0.25,1")
    given = {"controls": [levels, OFF], "control_images": [None, edges], "steps": 2}
    result = pipeline(sketch, PROMPT, **given)
    recorded = read_recorded(result.save(tmp_path / "out"), ()).flags
    assert recorded["vae"] == "/vae" and recorded["control_image"] == ["", str(edges)]
    places = [parse_control(text) for text in recorded["control"]]
    wheres = [control.files.where for control in pipeline.controls]
    compact = dataclasses.replace(levels, levels="0.5,0.25,1")
    assert places == [ControlPlace(wheres[0], compact), ControlPlace(wheres[1], OFF)]
    pixels = np.array(Image.open(edges))
    same = pipeline(sketch, PROMPT, **{**given, "control_images": [None, pixels]})
    np.testing.assert_array_equal(result.images, same.images)
    assert "image" not in same.settings["control_networks"][1]
    session = Session().resketch(pipeline.page(page))
    *_, shown = generate(pipeline, session, PROMPT, "", 3, steps=2)
    settings = shown.result.settings
    assert (settings["vae"], settings["vae_sha256"]) == ("/vae", "1f")
    assert [one["where"] for one in settings["control_networks"]] == wheres


def test_rows_of_a_batch_have_their_own_images(rng, pipeline, tmp_path):
    for name in ("a.png", "b.png", "edges.png"):
        Image.fromarray(random_page(rng)).save(tmp_path / name)
    rows = [
        {"sketch": "a.png", "prompt": PROMPT, "control_images": ["", "edges.png"]},
        {"sketch": "a.png", "prompt": PROMPT, "name": "plain"},
        {"sketch": "b.png", "prompt": PROMPT, "control_images": ["edges.png"] * 3},
        {"sketch": "b.png", "prompt": PROMPT, "name": "gone", "control_images": ["none.png"]},
    ]
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    requests = read_requests(tmp_path, table)
    facts, output = {}, tmp_path / "out"
    options = pipeline.options(steps=2)
    done = run_batch(pipeline, requests, output, options, 3, facts)
    assert done.sampled == ["a", "plain"]
    assert "There are 3 control images and 2 ControlNets" in done.failed["b"]
    assert "none.png" in done.failed["gone"]
    edges = np.array(Image.open(tmp_path / "edges.png").convert("RGB"))
    for name, images in (("a", [None, edges]), ("plain", [])):
        expected = pipeline(tmp_path / "a.png", PROMPT, seed=3, steps=2, control_images=images)
        found = np.array(Image.open(output / name / "stage1_output.png"))
        np.testing.assert_array_equal(found, expected.images[0])
    recorded = json.loads((output / "a" / METADATA).read_text())["control_networks"]
    assert [one.get("image") for one in recorded] == [None, str(tmp_path / "edges.png")]
    again = run_batch(pipeline, requests, output, options, 3, facts)
    assert again.existing == ["a", "plain"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--control_image={sketch}"], "--control_image is given 1 times and --control 0 times"),
        (["--control=x", "--control_image=none.png"], "none.png does not exist"),
        (["--control=x", "--control_image={tall}"], "The sketch has 64 × 64 pixels and the image"),
        (["--control=x=1,0.5,0.25"], "The start of control 1 is 0.5 and its end 0.25"),
        (["--control={sketch}"], "sketch.png"),
        (["--control=nowhere"], "There is no folder or file 'nowhere'"),
        (["--vae=nowhere"], "The VAE nowhere is given and Stage 1 has none to replace"),
        (["--sketch_start=0.5", "--sketch_end=0.5"], "start of the sketch branch is 0.5 and its"),
    ],
)
def test_commands_that_cannot_be(places, tmp_path, flags, said):
    Image.new("L", (64, 64), 255).save(tmp_path / "sketch.png")
    Image.new("RGB", (32, 64)).save(tmp_path / "tall.png")
    names = {name: tmp_path / f"{name}.png" for name in ("sketch", "tall")}
    given = [f"--stage1={places[0]}", f"--sketch={names['sketch']}", "--prompt=a house"]
    given += [flag.format(**names) for flag in flags]
    done = run_here("ragaf_jax.sample", *given, f"--output={tmp_path / 'out'}")
    assert done.status == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
