"""Training as a whole: it learns, resumes to the bit, and Stage 2 starts from Stage 1."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from fakes import random_batch, smallest_config, tiny_config, tiny_tokenizer
from shared_programs import share_training

from ragaf_jax.checkpoints.reading import best_step, load_meta, load_params
from ragaf_jax.errors import UserError
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.losses.validation import make_validate
from ragaf_jax.monitoring.writers import JsonLines
from ragaf_jax.nets.build import build_model
from ragaf_jax.planning import fitting
from ragaf_jax.planning.plan import flops_of
from ragaf_jax.runtime.interruption import Interruption
from ragaf_jax.training.loop import train


class Batches:
    """An endless stream whose state is its position."""

    def __init__(self, config, seed):
        self.config, self.seed, self.position = config, seed, 0
        self.size = config.train.batch_size + config.train.read_examples

    def __next__(self):
        rng = np.random.default_rng([self.seed, self.position])
        self.position += 1
        return random_batch(rng, self.config, self.size)

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]

    def keys(self, index):
        return [f"batch {index} example {i}" for i in range(self.size)]


class Interrupted(Batches):
    """What has no batch."""

    def __next__(self):
        raise InterruptedError


@pytest.fixture(scope="module", autouse=True)
def quick():
    """All runs share their programs, where their settings are the same."""
    with pytest.MonkeyPatch.context() as patch:
        share_training(patch)
        yield


@pytest.fixture
def run(rng):
    """Trains `config` in `workdir` and gives the lines of its metrics.jsonl."""
    seed = int(rng.integers(2**31))
    held_out = random_batch(rng, tiny_config(1), 16)

    def run(config, workdir, batches=Batches):
        path = workdir / "logs" / "metrics.jsonl"
        train(
            config,
            workdir,
            lambda keys: batches(config, seed),
            held_out,
            tiny_tokenizer(),
            lambda first: JsonLines(path, first),
        )
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return run


def short(stage, steps=6):
    """Tests with the same `config.train`, which is in the programs, compile once."""
    config = smallest_config(stage)
    config.train.steps, config.train.max_skipped = steps, 3
    if stage == 2:  # its networks have been trained as Stage 1
        config.train.trainable, config.train.frozen = ("ragaf/.*",), (".*",)
    config.log_every = 1
    config.validate_every = config.checkpoint_every = 100
    return config


@pytest.fixture(scope="module")
def stage1(tmp_path_factory):
    """The workdir of a short Stage 1."""
    workdir, config = tmp_path_factory.mktemp("stage1"), short(1)
    train(
        config,
        workdir,
        lambda keys: Batches(config, 0),
        random_batch(np.random.default_rng(0), config, 16),
        tiny_tokenizer(),
        lambda first: JsonLines(workdir / "metrics.jsonl", first),
    )
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(
    tmp_path, run, stage, stage1, capsys
):
    """Resumed from the checkpoint in its middle, in a copy of the workdir without the last one."""
    config = short(stage)
    config.stage1, config.checkpoint_every = str(stage1), 3
    whole = run(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "6")
    assert load_meta(tmp_path / "parts")["step"] == 3
    capsys.readouterr()
    parts = run(config, tmp_path / "parts")
    said = capsys.readouterr().err
    assert f"Resuming {tmp_path / 'parts'} from step 3, up to step 6 (config.train.steps)." in said
    assert " and was " not in said  # no field has changed
    assert (
        "Finished 3 steps in " in said and f"--stage{stage}={tmp_path / 'parts'} --sketch=" in said
    )
    assert [line["step"] for line in parts if "time/first_step" in line] == [1, 4]
    losses = [
        {line["step"]: line["loss"] for line in lines if "loss" in line} for lines in (whole, parts)
    ]
    assert list(losses[0]) == list(range(1, 7))
    assert losses[0] == losses[1]
    for a, b in zip(
        jax.tree.leaves(load_params(tmp_path / "whole")[0]),
        jax.tree.leaves(load_params(tmp_path / "parts")[0]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_validation_scores_the_averaged_weights(stage1):
    """They are what a checkpoint is sampled with."""
    config = short(1)
    lines = map(json.loads, (stage1 / "metrics.jsonl").read_text().splitlines())
    (logged,) = [line["validation/true"] for line in lines if "validation/true" in line]
    validate = make_validate(build_model(config), objective_of(config, tiny_tokenizer()))
    held_out = random_batch(np.random.default_rng(0), config, 16)
    averaged, raw = (
        validate(load_params(stage1, which)[0], held_out, config.seed)["true"]
        for which in ("ema", "trainable")
    )
    assert logged == pytest.approx(averaged, rel=1e-6) and logged != pytest.approx(raw, rel=1e-6)


def test_a_finished_run_has_nothing_to_do(run, stage1, capsys):
    kept = (stage1 / "config.json").read_text()
    config = short(1)
    config.log_every = 2
    assert run(config, stage1) == []
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{stage1} is already at step 6 of 6 (config.train.steps): nothing to do."]
    assert (stage1 / "config.json").read_text() == kept


def test_what_has_changed_since_the_checkpoint_is_listed(tmp_path, run, stage1, capsys):
    """Such as the number of steps, where a command is repeated without its flags."""
    shutil.copytree(stage1, tmp_path / "run")
    config = short(1, 7)
    config.train.learning_rate, config.keep_last = 1.0, 9
    with pytest.raises(InterruptedError):  # nothing is compiled
        run(config, tmp_path / "run", Interrupted)
    said = capsys.readouterr().err
    assert "from step 6, up to step 7 (config.train.steps)." in said
    assert "\n  config.train.steps is 7 and was 6\n" in said
    assert "\n  config.keep_last is 9 and was " in said
    assert "config.train.learning_rate is 1.0 and was " in said


def test_stage2_starts_from_the_average_of_stage1(tmp_path, run, stage1):
    config = short(2)
    config.stage1, config.checkpoint_every = str(stage1), 1

    class One(Batches):
        def __next__(self):
            if self.position == 1:
                raise InterruptedError
            return super().__next__()

    with pytest.raises(InterruptedError):  # after one step, whose learning rate is 0
        run(config, tmp_path / "two", One)
    one, _ = load_params(stage1)
    last, _ = load_params(stage1, "trainable")
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (one, last)), strict=True))
    two, meta = load_params(tmp_path / "two", "trainable")
    assert meta["config"]["stage"] == 2
    assert meta["step"] == 1
    for name in one:
        for a, b in zip(jax.tree.leaves(one[name]), jax.tree.leaves(two[name]), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_loss_falls_on_a_batch_seen_again_and_again(tmp_path, rng):
    """The loss at the same timesteps and noise, before and after."""
    config = short(1, 20)
    config.train.learning_rate, config.train.ema_decay = 3e-3, 0.0
    config.validate_every = 1
    batch = random_batch(rng, config)

    class Same(Batches):
        def __next__(self):
            super().__next__()
            return batch

    path = tmp_path / "metrics.jsonl"
    train(
        config,
        tmp_path,
        lambda keys: Same(config, 0),
        batch,
        tiny_tokenizer(),
        lambda first: JsonLines(path, first),
    )
    lines = map(json.loads, path.read_text().splitlines())
    losses = [line["validation/true"] for line in lines if "validation/true" in line]
    assert losses[-1] < 0.6 * losses[0]


def test_frozen_parameters_stay(tmp_path, run):
    config = short(1)
    config.train.trainable, config.train.frozen = ("control/.*",), (".*",)
    config.checkpoint_every = 3
    run(config, tmp_path / "run")
    later, _ = load_params(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    params, _ = load_params(tmp_path / "run")
    for name in ("unet", "text_encoder"):
        jax.tree.map(np.testing.assert_array_equal, later[name], params[name])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, later["control"], params["control"])
    assert any(jax.tree.leaves(moved))


def test_stage2_without_or_with_another_stage1(tmp_path, run, stage1):
    with pytest.raises(UserError, match=r"config\.stage1 is empty"):
        run(short(2), tmp_path / "two")
    config = short(2)
    config.stage1 = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        run(config, tmp_path / "two")
    config.stage1 = str(stage1)
    config.model.unet.block_out_channels = (64,)
    with pytest.raises(UserError, match="has other sizes"):
        run(config, tmp_path / "two")
    config = short(2)
    config.stage1 = str(stage1)
    config.data.text_length = 10
    with pytest.raises(UserError, match=r"config\.data\.text_length is 12 in Stage 1"):
        run(config, tmp_path / "two")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("log_every", [pytest.param(1, marks=pytest.mark.products), 3])
def test_steps_without_a_number_are_skipped_and_too_many_end_the_run(tmp_path, rng, log_every):
    config = short(1)
    config.checkpoint_every, config.log_every = 2, log_every

    class Broken(Batches):
        def __next__(self):
            batch = super().__next__()
            lost = np.float32("nan" if self.position in (2, 4, 5, 6, 7, 8) else 1)
            return batch._replace(image=batch.image * lost)

    path = tmp_path / "logs" / "metrics.jsonl"
    batches = Broken(config, 0)
    with pytest.raises(
        UserError, match=r"in 3 consecutive steps, up to step 6, .* listed in .*json"
    ):
        train(
            config,
            tmp_path,
            lambda keys: batches,
            random_batch(rng, config, 16),
            tiny_tokenizer(),
            lambda first: JsonLines(path, first),
        )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(line.get("skipped", 0) for line in lines) == 4
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    written = json.loads((tmp_path / "skipped_batches_0.json").read_text())
    assert [line["step"] for line in written] == [4, 5, 6]
    assert written[0]["keys"] == batches.keys(3)
    # The checkpoint is of the last step that changed something; a run goes on from it.
    params, _ = load_params(tmp_path, "trainable")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_asked_to_stop_it_saves_goes_on_and_knows_its_best(tmp_path, rng):
    config = short(1)
    config.checkpoint_every = config.response.every = 1
    config.keep_last = config.keep_best = 1
    config.response.warn_after = 6
    listens = iter([0.0, 0.4, 0.1, 0.3, 0.2, 0.2])

    class Stopping(Batches):
        def __next__(self):
            if self.position == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    def go_on():
        return train(
            config,
            tmp_path,
            lambda keys: Stopping(config, 0),
            random_batch(rng, config, 16),
            tiny_tokenizer(),
            lambda first: JsonLines(tmp_path / "metrics.jsonl", first),
            responses=lambda params: {
                "response/sketch": next(listens),
                "response/sketch_error": 0.01,
            },
        )

    assert go_on().step == 3
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "3"}
    assert go_on().step == 6
    # The best was measured before the interruption; since when it listens, across it.
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "6"}
    assert best_step(tmp_path, "response/sketch") == 2
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    # The first step of either run, which compiles, is timed by itself.
    assert [line["step"] for line in lines if line.get("time/first_step", 0) > 0] == [1, 4]
    assert [line["step"] for line in lines if line.get("time/step", 0) > 0] == [2, 3, 5, 6]
    words = {line["step"]: line["message"] for line in lines if "message" in line}
    assert "this step is saved" in words[3] and "follows the sketch from step 2" in words[4]


def test_asked_to_stop_after_its_last_step_it_tells_so(tmp_path, rng):
    """Otherwise --mode=both would start Stage 2."""
    interruption = Interruption()
    train(
        short(1),
        tmp_path,
        lambda keys: Batches(short(1), 0),
        random_batch(rng, short(1), 16),
        tiny_tokenizer(),
        lambda first: JsonLines(tmp_path / "metrics.jsonl", first),
        sample=lambda params: os.kill(os.getpid(), signal.SIGTERM) or {},
        interruption=interruption,
    )
    assert interruption.stop_requested
    sentence = "Stopped on request after the last step, which is saved."
    assert sentence in (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]


def test_a_run_with_a_budget_chooses_and_says_so(tmp_path, rng, monkeypatch):
    """What is chosen from is `test_fitting`'s; that the run is compiled so, remat's and parts'."""
    config = short(1, 2)
    config.train.trainable, config.train.frozen = ("control/.*", "unet/.*"), (".*",)
    config.memory_budget_gib = 7.5
    asked = []

    def prepared(keys):
        asked.append(tuple(keys))
        return ("text",)

    def fitted(config, cached):
        asked.append(cached)
        chosen = config.copy_and_resolve_references()
        chosen.train.accumulation = 3  # of four examples: a step that takes this cannot be made
        return chosen, "three parts fit"

    monkeypatch.setattr(fitting, "fitted", fitted)
    with pytest.raises(TypeError, match="reshape"):
        train(
            config,
            tmp_path,
            lambda keys: Batches(config, 0),
            random_batch(rng, config, 16),
            tiny_tokenizer(),
            lambda first: JsonLines(tmp_path / "metrics.jsonl", first),
            prepared=prepared,
            fit=fitting.within_budget,
        )
    assert asked == [("text",), ("text",)]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"step": 0, "message": "three parts fit"}
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["train"]["accumulation"] == 1 and kept["memory_budget_gib"] == 7.5


@pytest.mark.products
def test_mfu_is_of_what_the_step_needs_and_not_of_what_it_computes_again(
    tmp_path, run, monkeypatch
):
    peak = 1e12
    monkeypatch.setattr("ragaf_jax.monitoring.stopwatch.peak_flops", lambda kind, dtype: peak)
    config = short(1, 2)
    needed = flops_of(config) * config.train.batch_size
    config.model.remat = "blocks"  # whose step has more products, as test_plan.py tells
    (line,) = [line for line in run(config, tmp_path) if "mfu" in line]
    assert line["step"] == 2
    achieved = line["mfu"] * peak * jax.device_count()
    assert achieved * line["time/step"] == pytest.approx(needed)
