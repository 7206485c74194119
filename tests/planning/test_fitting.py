"""A run chooses what keeps it within its budget, and may go on with another choice."""

import re

import jax
import pytest
from commands import run_here
from fakes import command_flags, smallest_config, tiny_tokenizer

from ragaf_jax.errors import UserError
from ragaf_jax.nets.blocks import REMAT
from ragaf_jax.nets.build import build_model
from ragaf_jax.partition import partition
from ragaf_jax.planning import fitting
from ragaf_jax.planning import plan as plans
from ragaf_jax.planning.compiled import Account
from ragaf_jax.planning.fitting import fitted
from ragaf_jax.planning.plan import GIB, Plan, own_setting
from ragaf_jax.training.config_checks import check_config
from ragaf_jax.training.setup import check_same_run

NEEDS = {"none": 8, "attention": 6, "blocks": 4, "full": 2}
FLOPS = {"none": 1.0, "attention": 2.0, "blocks": 3.0, "full": 4.0}


@pytest.fixture
def tried(monkeypatch):
    """The settings that were compiled, by an account that is not: 1 GiB, and some by parts."""
    found = []

    def compiled(config, setting, flops, target):
        found.append(setting)
        peak = 1 + (NEEDS[setting.remat] - ("text" in setting.cache)) / setting.accumulation
        return Plan(setting, 1, 1, flops, None, Account(GIB // 2, int(peak * GIB), 1.0))

    monkeypatch.setattr(plans, "REMAT", NEEDS)
    monkeypatch.setattr(plans, "compiled_plan", compiled)
    monkeypatch.setattr(plans, "flops_of", lambda config: FLOPS[config.model.remat])
    monkeypatch.setattr(fitting, "cacheable", lambda config: ("text",))  # Haar's latents are not
    return found


def frozen_text(stage=1):
    config = smallest_config(stage)
    config.train.trainable, config.train.frozen = ("control/.*",), (".*",)
    return config


def test_without_a_budget_nothing_is_compiled(tried):
    config = frozen_text()
    same, said = fitted(config, ("text",))
    assert same is config and said == "" and tried == []


@pytest.mark.parametrize(
    ("budget", "cached", "chosen", "compilations"),
    [
        (9, (), ("none", 1, ""), 1),
        (8, (), ("none", 2, ""), 2),
        (8, ("text",), ("none", 1, "text"), 1),
        (2.8, (), ("attention", 4, ""), 6),
        (1.4, ("latents", "text"), ("full", 4, "text"), 12),
    ],
)
def test_the_cheapest_that_fits_is_taken(tried, budget, cached, chosen, compilations):
    config = frozen_text()
    config.memory_budget_gib = budget
    config.model.remat = "full"
    now, said = fitted(config, cached)
    assert own_setting(now) == chosen and len(tried) == compilations
    assert own_setting(config) == ("full", 1, "")
    check_config(now)
    assert said.startswith(
        f"config.model.remat={chosen[0]} config.train.accumulation={chosen[1]} "
        f"config.data.cache={chosen[2]}: a step needs "
    )
    assert f"GiB of the {budget:g} of config.memory_budget_gib" in said


def test_a_cache_that_is_asked_for_stays(tried):
    config = frozen_text()
    config.memory_budget_gib, config.data.cache = 9.0, "text"
    assert own_setting(fitted(config)[0]) == ("none", 1, "text")


def test_nothing_fits(tried):
    config = frozen_text()
    config.memory_budget_gib = 1.2
    said = (
        r"config.memory_budget_gib is 1.2 and a step needs at least 1.50 GiB, 0.50 of them .* "
        r"\(config.model.remat=full config.train.accumulation=4 config.data.cache=\): prepare"
    )
    with pytest.raises(UserError, match=said):
        fitted(config)
    assert len(tried) == 12
    config.memory_budget_gib = 0.4
    with pytest.raises(UserError, match="needs at least 9.00 GiB"):
        fitted(config)
    assert len(tried) == 13  # not even the state fits


def test_stage_2_is_parted_as_what_it_reads(tried):
    config = frozen_text(2)  # four examples are denoised and two only read
    config.train.trainable = ("control/.*", "ragaf/.*")
    config.memory_budget_gib = 2.0
    now, _ = fitted(config)
    assert own_setting(now) == ("full", 2, "")
    check_config(now)


def test_a_run_goes_on_with_another_setting(tried, tmp_path):
    config = frozen_text()
    config.memory_budget_gib = 1.4
    now, _ = fitted(config, ("text",))
    before, after = (
        {"config": each.to_dict(), "tokenizer": tiny_tokenizer().to_json()}
        for each in (config, now)
    )
    check_same_run(before, after, tmp_path)
    check_same_run(after, before, tmp_path)


@pytest.mark.products
def test_a_small_model_is_fitted_by_the_compilers_account():
    config = frozen_text()
    config.memory_budget_gib = 1.0
    same, said = fitted(config)
    assert same == config
    needed = re.search(r"a step needs ([\d.]+) GiB of the 1 of", said)
    assert needed is not None and 0 < float(needed[1]) < 1


def test_the_command_says_what_a_configuration_needs(monkeypatch):
    # Two policies, the dearer first: fewer to trace.
    monkeypatch.setattr(plans, "REMAT", {name: REMAT[name] for name in ("full", "none")})
    config = smallest_config(1)
    # The text encoder is trained and cannot be cached.
    config.train.trainable, config.train.frozen = ("control/.*", "text_encoder/.*"), (".*",)
    config.memory_budget_gib = 1.0
    config.train.batch_size = 1  # which cannot be accumulated: fewer settings to compile
    config.model.unet.block_out_channels = (128,)  # some hundredths of a GiB
    command = ["main.py", "--mode=plan", "--config=configs/stage1.py:quickstart"]
    done = run_here(*command, *command_flags(config))
    assert done.status == 0, done.stderr
    said = re.search(r"([\d.]+) M trainable parameters, ([\d.]+) M frozen", done.stdout)
    parts = partition(build_model(config).shapes(), config.train.trainable, config.train.frozen)
    counts = [sum(x.size for x in jax.tree.leaves(part)) for part in parts]
    assert said is not None and list(said.groups()) == [f"{count / 1e6:.2f}" for count in counts]
    assert min(counts) > 0
    header, row = (re.split(r" {2,}", line) for line in done.stdout.splitlines()[2:4])
    found = dict(zip(header, row, strict=True))
    assert found["remat"] == "none" and found["accumulation"] == "1" and found["fits"] == "yes"
    assert float(found["TFLOPs/image"]) > 0
    assert 0 < float(found["state GiB"]) < float(found["peak GiB"]) < 1
    assert "The cheapest setting that fits 1.00 GiB: --config.model.remat=none" in done.stdout
