"""A run from Stable Diffusion takes its networks from there, and later ones from checkpoints."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from test_tokenizer import write_folder
from written import CONTROL, TEXT, UNET, VAE, configured, random_trees, write

from configs import stage1
from ragaf_jax.checkpoints.checkpointer import Checkpointer
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training import adopt
from ragaf_jax.training.adopt import adopted
from ragaf_jax.training.setup import check_same_run
from ragaf_jax.weights.pretrained import open_pretrained
from ragaf_jax.weights.vocabulary import tokenizer_of

LORA = {"model.lora.patterns": ("unet/.*/to_q",), "model.lora.rank": 3}
TAKEN = ("data.text_length", "model.autoencoder", "model.conditioning_channels")
SECTIONS = ("model.unet.", "model.vae.", "model.text_encoder.")
NOISE = {
    "diffusion.schedule": "scaled_linear",
    "diffusion.steps": 1000,
    "diffusion.beta_start": 0.00085,
    "diffusion.beta_end": 0.012,
    "diffusion.zero_terminal_snr": False,
    "diffusion.prediction": "epsilon",
    "diffusion.timestep_spacing": "leading",
    "diffusion.steps_offset": 1,
    "diffusion.set_alpha_to_one": False,
}


@pytest.fixture
def folder(rng, tmp_path):
    """A Stable Diffusion with its tokenizer, and a ControlNet in it."""
    folder = write(tmp_path / "sd", random_trees(rng))
    write_folder(folder / "tokenizer")
    return folder


def flat(config):
    return flatten_dict(config.to_dict(), sep=".")


def begin(config, tokenizer, workdir):
    """As much of a run's checkpoint as another run adopts."""
    meta = {"config": config.to_dict(), "tokenizer": tokenizer.to_json()}
    checkpointer = Checkpointer(workdir)
    checkpointer.save(1, {"x": np.zeros(1)}, {}, meta)
    checkpointer.close()
    return meta


def assert_networks_are_the_files(config, channels=(16, 32, 96, 256)):
    model = build_model(config)
    assert model.unet.config == dataclasses.replace(UNET, sample_size=4)
    assert model.autoencoder.vae.config == VAE
    assert model.text_encoder.config == TEXT
    assert model.control.conditioning_channels == channels
    assert model.text_length == config.data.text_length == TEXT.max_position_embeddings
    assert {name: flat(config)[name] for name in NOISE} == NOISE


def test_networks_schedule_and_tokenizer_are_the_files(folder, tmp_path):
    config, tokenizer = adopted(configured(folder, **{"data.text_length": 12}), tmp_path / "run")
    assert_networks_are_the_files(config)
    assert tokenizer.to_json() == Tokenizer.from_pretrained(folder / "tokenizer").to_json()
    assert not (tmp_path / "run").exists()


def test_the_rest_is_ours(folder, tmp_path):
    ours = {
        "model.ragaf.width": 24,
        "model.clip_skip": 1,
        "diffusion.max_snr": 3.0,
        "diffusion.min_snr_gamma": 5.0,
        "train.learning_rate": 0.5,
        "model.dtype": "float32",
    }
    config = configured(folder, **ours)
    before = flat(config)
    after = flat(adopted(config, tmp_path)[0])
    assert flat(config) == before
    changed = {name for name in after if name not in before or before[name] != after[name]}
    assert {"model.unet.attention_head_dim", "model.vae.layers_per_block"} <= changed
    for name in changed:
        assert name in TAKEN or name in NOISE or name.startswith(SECTIONS)


def test_nothing_to_adopt(tmp_path):
    config = stage1.get_config("quickstart")
    assert adopted(config, tmp_path) == (config, None)
    begin(config, Tokenizer.train(["a house"]), tmp_path)
    assert adopted(config, tmp_path) == (config, None)


def test_what_the_unet_predicts_may_be_said(folder, tmp_path, capsys, monkeypatch):
    guess = dataclasses.replace(open_pretrained(str(folder)), notice="It is a guess.")
    monkeypatch.setattr(adopt, "open_pretrained", lambda *_: guess)
    config, _ = adopted(configured(folder, **{"init.prediction": "v_prediction"}), tmp_path)
    assert config.diffusion.prediction == "v_prediction"
    assert capsys.readouterr().err == ""
    config, _ = adopted(configured(folder), tmp_path)
    assert config.diffusion.prediction == "epsilon"
    assert capsys.readouterr().err == "It is a guess.\n"


def schedule(folder, **fields):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


TURBO = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}


def sampled(config):
    return config.sample.sampler, config.sample.steps, config.sample.guidance


def test_turbo_is_sampled_in_few_steps_without_guidance(folder, tmp_path, capsys):
    before = configured(folder)
    assert sampled(adopted(before, tmp_path / "run")[0]) == sampled(before)
    assert capsys.readouterr().err == ""
    schedule(folder, **TURBO)
    config, tokenizer = adopted(before, tmp_path / "run")
    assert sampled(config) == ("euler", 4, 1.0)
    assert config.diffusion.timestep_spacing == "trailing"
    said = capsys.readouterr().err
    assert "distilled to few steps" in said and "steps=4, guidance=1 and sampler=euler" in said
    # What the command sets, even to the value that the file has, is kept.
    given = configured(folder, **{"sample.steps": 2})
    assert sampled(adopted(given, tmp_path, {"sample.steps"})[0]) == ("euler", 2, 1.0)
    # A run that goes on and a Stage 2 sample likewise, without the files.
    begin(config, tokenizer, tmp_path / "run")
    shutil.rmtree(folder)
    assert sampled(adopted(before, tmp_path / "run")[0]) == ("euler", 4, 1.0)
    two = configured(folder, 2, stage1=str(tmp_path / "run"))
    assert sampled(adopted(two, tmp_path / "two")[0]) == ("euler", 4, 1.0)


def test_settings_of_the_scheduler_without_effect_are_announced(folder, tmp_path, capsys):
    schedule(folder, use_karras_sigmas=True, clip_sample=False)
    adopted(configured(folder), tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "use_karras_sigmas=True, which has no effect here" in said


def test_a_tokenizer_for_single_files(folder):
    """They have none; SD 2's pads with another token than the folder that is named."""
    single = dataclasses.replace(open_pretrained(str(folder)), tokenizer=None, padding="!")
    tokens, _ = tokenizer_of(single, str(folder / "tokenizer")).encode(["a house"], 9)
    assert tokens[0, -1] == 0
    with pytest.raises(UserError, match="no folder or file 'nowhere'"):
        tokenizer_of(single, "nowhere")


def test_a_controlnet_of_the_same_sizes(folder, tmp_path):
    """Heads may be said for all levels or for each, and the other half of a UNet does not count."""
    control = folder / "controlnet"
    config, _ = adopted(configured(folder, **{"init.control": str(control)}), tmp_path)
    assert_networks_are_the_files(config, CONTROL.conditioning_channels)
    path = control / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 99}))
    adopted(configured(folder, **{"init.control": str(control)}), tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cross_attention_dim", 24),
        ("block_out_channels", [8, 32]),
        ("layers_per_block", 2),
        ("attention_head_dim", 4),
        ("down_block_types", ["CrossAttnDownBlock2D"] * 2),
        ("use_linear_projection", False),
        ("in_channels", 9),
        ("norm_num_groups", 2),
    ],
)
def test_a_controlnet_of_other_sizes(folder, tmp_path, field, value):
    path = folder / "controlnet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=f"{field} of the ControlNet {folder}/controlnet is .*UNet"):
        adopted(configured(folder, **{"init.control": str(folder / "controlnet")}), tmp_path)


def test_a_run_goes_on_without_the_files(folder, tmp_path):
    run = tmp_path / "run"
    first = configured(folder, **{"init.prediction": "v_prediction", "model.clip_skip": 1})
    config, tokenizer = adopted(first, run)
    before = begin(config, tokenizer, run)
    shutil.rmtree(folder)
    ours = {"train.steps": 7, "diffusion.max_snr": 2.0, "init.checkpoint": "nowhere"}
    later, again = adopted(configured(folder, **ours), run)
    assert again.to_json() == tokenizer.to_json()
    assert build_model(later) == build_model(config)
    assert (later.diffusion.prediction, later.model.clip_skip) == ("v_prediction", 1)
    assert (later.train.steps, later.diffusion.max_snr) == (7, 2.0)
    assert later.init.checkpoint == str(folder)
    later.diffusion.max_snr = config.diffusion.max_snr
    check_same_run(before, {"config": later.to_dict(), "tokenizer": again.to_json()}, run)
    with pytest.raises(UserError, match="no folder or file"):
        adopted(configured(folder), tmp_path / "another")


def test_a_later_run_may_set_only_the_named_fields(folder, tmp_path, monkeypatch):
    """`diffusion.steps_offset` remains the checkpoint's although its name begins with another."""
    monkeypatch.setattr(adopt, "_CONFIGURABLE", ("diffusion.steps",))
    begin(*adopted(configured(folder), tmp_path), tmp_path)
    ours = {"diffusion.steps": 500, "diffusion.steps_offset": 3}
    later = adopted(configured(folder, **ours), tmp_path)[0].diffusion
    assert (later.steps, later.steps_offset) == (500, 1)


def test_stage_2_goes_on_where_stage_1_was(folder, tmp_path):
    config, tokenizer = adopted(configured(folder, **LORA), tmp_path / "one")
    begin(config, tokenizer, tmp_path / "one")
    shutil.rmtree(folder)
    two = configured(folder, 2, stage1=str(tmp_path / "one"))
    later, again = adopted(two, tmp_path / "two")
    assert_networks_are_the_files(later)
    assert again.to_json() == tokenizer.to_json()
    assert (later.stage, later.model.lora.rank) == (2, 3)
    assert build_model(later).lora == build_model(config).lora
    assert later.train.trainable == ("control/.*", "ragaf/.*")
    # Its own checkpoint then goes before Stage 1's.
    begin(later, tokenizer, tmp_path / "two")
    shutil.rmtree(tmp_path / "one")
    assert build_model(adopted(two, tmp_path / "two")[0]) == build_model(later)


def test_stage_2_may_adapt_other_modules(folder, tmp_path):
    config, tokenizer = adopted(configured(folder, **LORA), tmp_path / "one")
    begin(config, tokenizer, tmp_path / "one")
    other = {"model.lora.patterns": ("unet/.*/to_v",), "model.lora.rank": 5}
    two = configured(folder, 2, stage1=str(tmp_path / "one"), **other)
    lora = build_model(adopted(two, tmp_path / "two")[0]).lora
    assert (lora.patterns, lora.rank) == (("unet/.*/to_v",), 5)


def test_stage_2_alone_asks_for_no_weights(tmp_path):
    config = configured("owner/name", 2, stage1=str(tmp_path / "nowhere"))
    assert adopted(config, tmp_path / "two") == (config, None)


def test_another_beginning_is_refused(folder, tmp_path):
    """Of a run that goes on, and of a Stage 2 whose Stage 1 has had it."""
    begin(
        *adopted(configured(folder, **{"model.clip_skip": 1}), tmp_path / "one"), tmp_path / "one"
    )
    for field, value in {
        "init.lora": "x",
        "init.prediction": "sample",
        "init.variant": "y",
    }.items():
        config = configured(folder, stage=2, stage1=str(tmp_path / "one"), **{field: value})
        with pytest.raises(
            UserError, match=rf"config.{field} is '{value}', and .*one was started with"
        ):
            adopted(config, tmp_path / "two")
    config = configured(folder, stage=2, stage1=str(tmp_path / "one"))
    assert adopted(config, tmp_path / "two")[0].model.clip_skip == 1


def test_a_run_without_a_checkpoint_gets_none_later(folder, tmp_path):
    begin(stage1.get_config("quickstart"), Tokenizer.train(["a house"]), tmp_path)
    with pytest.raises(UserError, match="was started without one"):
        adopted(configured(folder), tmp_path)


def test_a_unet_with_further_inputs_is_refused(folder, tmp_path):
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 9}))
    with pytest.raises(UserError, match=r"in_channels of the UNet of .* is 9, expected the 4 of"):
        adopted(configured(folder), tmp_path)


@pytest.mark.parametrize(("field", "value"), [("init.control", "x/y"), ("init.lora", "x")])
def test_what_belongs_to_a_checkpoint_is_not_forgotten_without_one(tmp_path, field, value):
    config = stage1.get_config("quickstart")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"config.{field} is '{value}' and config.init.checkpoint"):
        adopted(config, tmp_path)
