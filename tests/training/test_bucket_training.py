"""Training on images of several sizes: each compiles once, and a resumed run is the uninterrupted.

The file is also the script that trains on eight devices.
"""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import on_eight_devices
from fakes import (
    SMALLEST,
    mixed,
    random_batch,
    random_stage,
    save_stage,
    smallest_config,
    tiny_tokenizer,
)
from shared_programs import share_training

from ragaf_jax.errors import UserError
from ragaf_jax.framing import bucket_name, parse_buckets
from ragaf_jax.monitoring.writers import JsonLines
from ragaf_jax.nets.build import build_model
from ragaf_jax.training import loop
from ragaf_jax.training.config_checks import check_config

BUCKETS = ("16x16", "24x12", "12x20")
STEPS, EVERY = 20, 5


class Batches:
    """Batches of one size each, in a shuffled order; the state is the position.

    `cached` gives latents in place of images.
    """

    def __init__(self, config, cached=False):
        self.config, self.cached, self.position = config, cached, 0
        self.sizes = parse_buckets(config.data.buckets, config.data.image_size)
        self.model = build_model(config)

    def size(self, index):
        return self.sizes[np.random.default_rng(index).integers(len(self.sizes))]

    def __next__(self):
        rng, size = np.random.default_rng([7, self.position]), self.size(self.position)
        self.position += 1
        count = self.config.train.batch_size + self.config.train.read_examples
        batch = random_batch(rng, self.config, count, size)
        if not self.cached:
            return batch
        latents = rng.standard_normal((count, *self.model.latent_shape_of(size))).astype(np.float32)
        return batch._replace(image=None, latent_mean=latents, latent_std=np.abs(latents))

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]

    def keys(self, index):
        return [str(index)]


def bucketed(stage, **changes):
    """A run of 20 steps with a checkpoint after every fifth."""
    config = smallest_config(stage)
    fields = {
        "data.buckets": BUCKETS,
        "train.steps": STEPS,
        "checkpoint_every": EVERY,
        "keep_last": STEPS,
        "log_every": 1,
        "validate_every": 100,
    }
    config.update_from_flattened_dict(fields | changes)
    if stage == 2:
        config.train.trainable, config.train.frozen = ("ragaf/.*",), (".*",)
    return config


def held_out(config):
    """Five examples of two sizes."""
    rng = np.random.default_rng(3)
    sizes = parse_buckets(BUCKETS, config.data.image_size)[:2]
    groups = zip((3, 2), sizes, strict=True)
    return mixed(*(random_batch(rng, config, count, size) for count, size in groups))


def run(config, workdir, cached=False):
    """Trains, and returns the lines of its log."""
    file = workdir / "logs" / "metrics.jsonl"
    loop.train(
        config,
        workdir,
        lambda keys: Batches(config, cached),
        held_out(config),
        tiny_tokenizer(),
        lambda first: JsonLines(file, first),
    )
    return [json.loads(line) for line in file.read_text().splitlines()]


def resumed(config, whole, step, cached=False):
    """The log of a run that is resumed from one of the checkpoints of `whole`."""
    parts = whole.with_name(f"{whole.name}_{step}")
    shutil.copytree(whole, parts)
    for later in range(step + EVERY, STEPS + 1, EVERY):
        shutil.rmtree(parts / "checkpoints" / str(later))
    return run(config, parts, cached)


def losses(lines):
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def steps():
    """The compiled steps of all runs of this file."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        share_training(patch)
        make = loop.jitted_step

        def noted(*args):
            made.append(make(*args))
            return made[-1]

        patch.setattr(loop, "jitted_step", noted)
        yield made


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((1, False, BUCKETS), marks=pytest.mark.products, id="stage1"),
        pytest.param((2, True, BUCKETS), marks=pytest.mark.products, id="stage2-cached"),
        pytest.param((2, True, BUCKETS[:2]), id="stage2-cached-two"),
    ],
)
def trained(request, tmp_path_factory, steps):
    """A configuration, whether its latents are cached, the workdir of its run, and its log."""
    stage, cached, buckets = request.param
    folder = tmp_path_factory.mktemp("buckets")
    changes = {"stage1": str(folder / "stage1"), "data.buckets": buckets}
    config = bucketed(stage, **changes)
    if stage == 2:
        save_stage(random_stage(1, **SMALLEST), folder / "stage1")
    return config, cached, folder / "whole", run(config, folder / "whole", cached)


def test_each_size_compiles_once_and_its_first_step_is_timed_apart(trained, steps):
    config, _, _, lines = trained
    assert steps[-1]._cache_size() == len(config.data.buckets)
    order = [Batches(config).size(i) for i in range(STEPS)]
    firsts = {order.index(size) + 1: bucket_name(size) for size in order}
    assert [line["step"] for line in lines if "time/first_step" in line] == sorted(firsts)
    said = {line["step"]: line["message"] for line in lines if "message" in line}
    del firsts[1]  # it is announced before the log begins
    assert said == {i: f"Compiling the training step for {x} px …" for i, x in firsts.items()}
    timed = {line["step"] for line in lines if "time/step" in line}
    assert timed == set(range(2, STEPS + 1)) - set(firsts)
    names = {"loss"} | ({"appearance", "reading"} if config.stage == 2 else set())
    numbers = [[line[name] for name in names] for line in lines if "loss" in line]
    assert np.isfinite(numbers).all() and np.isfinite(lines[-1]["validation/true"])


@pytest.mark.parametrize("step", [5, pytest.param(10, marks=pytest.mark.products), 15])
def test_a_resumed_run_of_several_sizes_is_the_uninterrupted_one(trained, steps, step):
    config, cached, workdir, lines = trained
    again = resumed(config, workdir, step, cached)
    assert losses(again) == losses(lines) and len(losses(lines)) == STEPS
    assert again[-1] == lines[-1]  # the validation of the averaged parameters
    # The restored state compiles nothing.
    assert steps[-1]._cache_size() == len(config.data.buckets)


@pytest.mark.parametrize(
    ("buckets", "said"),
    [
        (("16x16", "18x15"), "config.data.buckets has 18x15; the networks need .* multiples of 2"),
        (("16x16", "32x16"), "config.data.buckets has 32x16, whose area is 2 times that of 16x16"),
        (("wide",), "config.data.buckets has 'wide', which is not a size"),
    ],
)
def test_sizes_that_the_networks_cannot_take_are_refused(buckets, said):
    config = bucketed(1, **{"data.buckets": buckets})
    check = build_model if "networks" in said else check_config
    with pytest.raises(UserError, match=said):
        check(config)


COMPILED = "/jax/core/compile/backend_compile_duration"

# Data parallel, and fully sharded in two groups.
MESHES = {1: ((8, 1), (2, 4)), 2: ((2, 4),)}


def on_mesh(stage, data, fsdp, folder):
    """The run in `folder`; few parameters are trained, which compiles sooner."""
    config = bucketed(stage, stage1=str(folder / "stage1"))
    config.train.trainable, config.train.frozen = (("control/.*", "ragaf/.*")[stage - 1],), (".*",)
    config.train.batch_size, config.train.read_examples = 8, 8 * (stage - 1)
    config.mesh.data, config.mesh.fsdp = data, fsdp
    return config


@pytest.mark.processes
def test_eight_devices_have_the_losses_of_one_and_resume_exactly(tmp_path, steps):
    save_stage(random_stage(1, **SMALLEST), tmp_path / "stage1")
    found = json.loads(on_eight_devices(__file__, tmp_path)[-1])
    for stage, meshes in MESHES.items():
        config, workdir = on_mesh(stage, 1, 1, tmp_path), tmp_path / f"alone{stage}"
        expected = list(losses(run(config, workdir)).values())
        for mesh in meshes:
            compiled, again, whole, *parts = found[f"{stage} on {mesh}"]
            assert compiled == len(BUCKETS) and again == 0 and len(whole) == STEPS
            np.testing.assert_allclose(whole, expected, rtol=1e-4)
            assert parts == [whole] * len(parts)


def main(folder):
    """Trains both stages on meshes, and prints for each the compilations and losses of its runs."""
    share_training(pytest.MonkeyPatch())
    made, make = [], loop.jitted_step

    def noted(*args):
        made.append(make(*args))
        return made[-1]

    loop.jitted_step = noted
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if event == COMPILED else None
    )
    found = {}
    for stage, meshes in MESHES.items():
        for mesh in meshes:
            config, whole = on_mesh(stage, *mesh, folder), folder / f"{stage} on {mesh}"
            first = run(config, whole)
            compiled = made[-1]._cache_size()
            before = len(compilations)
            runs = [first, *(resumed(config, whole, step) for step in (5, 15))]
            values = [list(losses(lines).values()) for lines in runs]
            found[whole.name] = [compiled, len(compilations) - before, *values]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
