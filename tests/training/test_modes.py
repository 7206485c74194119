"""What docs/training.md says can be trained: each mode trains just that, and all of it."""

import ast
import functools
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from absl import flags
from fakes import random_batch, random_params, smallest_config, tiny_tokenizer
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import config_flags

from ragaf_jax.losses.objective import objective_of
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.lora import init_lora
from ragaf_jax.partition import partition
from ragaf_jax.planning.shapes import with_known_sizes
from ragaf_jax.training.config_checks import check_config
from ragaf_jax.training.optim import Optimizer, optimizer
from ragaf_jax.training.setup import initial_state
from ragaf_jax.training.step import train_step

ROOT = Path(__file__).parents[2]

# The network that each word of the table means.
NETWORKS = {
    "sketch branch": "control",
    "UNet": "unet",
    "text encoder": "text_encoder",
    "RAGAF": "ragaf",
    "LoRA": "lora",
}
# What is zero before the first step (LoRA, ControlNet and RAGAF then change nothing).
ZERO = (
    "lora/.*/up|control/controlnet_(down|mid)_block.*|control/controlnet_cond_embedding/conv_out/.*"
    "|ragaf/(feature|gamma)_.*"
)


def section():
    """The document's section on modes."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    return re.search(r"## What is trained\n(.*?)\n## ", text, re.DOTALL)[1]


def modes():
    """Names, stages and trainable patterns of the table's rows."""
    rows = re.findall(r"^\| ([^|]+) \| ([12]) \| `([^|]+)` \|", section(), re.MULTILINE)
    return [(name, int(stage), patterns) for name, stage, patterns in rows]


def said(flag):
    """The value that the section gives a flag in its prose."""
    return re.search(rf'`--{flag}="(.+?)"`', section())[1]


def by_night(*values, unless, name):
    """A test's parameters, which the gate leaves out but for some."""
    return pytest.param(*values, id=name, marks=[] if unless else [pytest.mark.products])


def networks_of(name):
    return {NETWORKS[word] for word in name.split(", ")}


def settings(name, trainable):
    """The mode's flags, as one would type them."""
    values = {"train.trainable": trainable, "train.frozen": said("config.train.frozen")}
    if "lora" in networks_of(name):
        values["model.lora.patterns"] = said("config.model.lora.patterns")
    return values


@functools.cache
def networks(stage, dataset):
    """The shapes of a published configuration's networks, at Stable Diffusion 1.5's sizes."""
    config, _ = with_known_sizes(parsed(f"configs/stage{stage}.py:{dataset}", {}))
    return build_model(config).shapes()


def parsed(file, values):
    """The configuration that a command line makes."""
    argv = ["main.py", f"--config={file}", *(f"--config.{k}={v}" for k, v in values.items())]
    alone = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=alone, sys_argv=argv)
    alone(argv)
    return alone.config


def test_the_table_has_every_mode():
    found = {(stage, frozenset(networks_of(name))) for name, stage, _ in modes()}
    assert len(found) == len(modes())
    everything = {"control", "unet", "text_encoder"}
    asked = [(1, networks) for networks in ({"control"}, {"control", "lora"}, {"control", "unet"})]
    asked += [(2, {"ragaf"}), (2, {"ragaf", "lora"}), (1, everything), (2, everything | {"ragaf"})]
    assert found >= {(stage, frozenset(networks)) for stage, networks in asked}


@pytest.mark.parametrize(
    ("name", "stage", "trainable", "dataset"),
    [
        by_night(
            *mode,
            dataset,
            unless=(mode[1], dataset) in [(1, "quickstart"), (2, "openmoji_sd")],
            name=f"{mode[0]}-{dataset}",
        )
        for mode in modes()
        for dataset in ("quickstart", "openmoji", "openmoji_sd")
    ],
)
def test_a_mode_trains_what_its_name_says(name, stage, trainable, dataset):
    """In every published configuration, as one types it, with the text encoder and without."""
    with_text = (*ast.literal_eval(trainable), "text_encoder/.*")
    for patterns in (trainable, repr(with_text)):
        expected = networks_of(name) | ({"text_encoder"} if patterns != trainable else set())
        config = parsed(f"configs/stage{stage}.py:{dataset}", settings(name, patterns))
        check_config(config)
        params = dict(networks(stage, dataset))
        if "lora" in expected:
            lora = build_model(with_known_sizes(config)[0]).lora
            make = functools.partial(init_lora, lora, params)
            params["lora"] = jax.eval_shape(make, jax.random.key(0))
            assert set(params["lora"]) == {"unet"}
        chosen, frozen = partition(params, config.train.trainable, config.train.frozen)
        assert chosen == {network: params[network] for network in expected}
        assert frozen == {k: v for k, v in params.items() if k not in expected}
        assert ("autoencoder" in frozen) == dataset.endswith("_sd")


def smallest(name, stage, trainable):
    """The mode's configuration for networks of few layers, which compile soon."""
    config = smallest_config(stage)
    config.update_from_flattened_dict(
        {
            # Two channels a group: in groups of one, normalisation takes every bias away again.
            "model.unet.block_out_channels": (64,),
            "train.read_examples": 0,
            **{k: ast.literal_eval(v) for k, v in settings(name, trainable).items()},
        }
    )
    return config


def beginning(model, rng):
    """Random parameters, but for those that training begins with at zero."""
    flat = flatten_dict(random_params(model, rng), sep="/")
    return unflatten_dict(
        {path: 0 * leaf if re.fullmatch(ZERO, path) else leaf for path, leaf in flat.items()},
        sep="/",
    )


def trained(rng, config, tx, steps):
    """Trainable and frozen leaves by their paths, before and after."""
    model = build_model(config)
    state = initial_state(config, model, tx, beginning(model, rng))

    def leaves(state):
        trees = jax.device_get((state.trainable, state.frozen))
        return [flatten_dict(tree, sep="/") for tree in trees]

    before = leaves(state)
    objective = objective_of(config, tiny_tokenizer())
    step = jax.jit(functools.partial(train_step, model, tx, 0.99, objective), donate_argnums=1)
    key = jax.random.key(int(rng.integers(2**31)))
    for _ in range(steps):
        state, scalars = step(key, state, random_batch(rng, config))
        assert scalars["skipped"] == 0
    return before, leaves(state)


def assert_only_what_trains_has_changed(before, after):
    """To the bit; every leaf that trains is another, but for LoRA's alpha, which is a constant."""
    (trainable, frozen), (trainable_after, frozen_after) = before, after
    assert frozen.keys() == frozen_after.keys() and trainable.keys() == trainable_after.keys()
    for path, leaf in frozen.items():
        np.testing.assert_array_equal(frozen_after[path], leaf, err_msg=path)
    changed = {path for path, leaf in trainable.items() if np.any(trainable_after[path] != leaf)}
    assert set(trainable) - changed == {path for path in trainable if path.endswith("/alpha")}


GATE = ("RAGAF, LoRA", "RAGAF, sketch branch, UNet, text encoder")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage", "trainable"),
    [by_night(*mode, unless=mode[0] in GATE, name=mode[0]) for mode in modes()],
)
def test_a_gradient_reaches_all_that_trains_and_nothing_else(rng, name, stage, trainable):
    """By its sign alone: a weight stays as it is where its gradient is zero, and nowhere else.

    Each step is half the one before, so that none takes back what those before it did.
    What lies behind a layer that begins at zero has none at first: the sketch's embedding ends in
    such a layer, and its way to the UNet in another, so the third step is the first to change all.
    """
    config = smallest(name, stage, trainable)
    rule = Optimizer(optax.sign_sgd(lambda count: 1e-3 * 0.5**count), bundles=True)
    before, after = trained(rng, config, rule, 4)
    assert {path.split("/")[0] for path in before[0]} == networks_of(name)
    assert_only_what_trains_has_changed(before, after)


@pytest.mark.products
def test_fifty_steps_of_ragaf_and_lora(rng):
    """With the optimiser of a run; without decay, by which a weight changes without a gradient."""
    ((name, stage, trainable),) = (mode for mode in modes() if mode[0] == "RAGAF, LoRA")
    config = smallest(name, stage, trainable)
    config.train.weight_decay = 0.0
    assert_only_what_trains_has_changed(*trained(rng, config, optimizer(config.train), 50))
