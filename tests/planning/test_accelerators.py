"""The programs that accelerators run have no needless collectives and no scores of self-attention.

They are compiled for devices that are not here, by the wheels of plan-cuda and plan-tpu.
"""

import importlib.util
import re

import pytest
from fakes import smallest_config

from ragaf_jax.planning import compiled
from ragaf_jax.planning.hlo import parse
from ragaf_jax.planning.plan import compiled_plan, own_setting
from ragaf_jax.planning.sampling import part_plans
from ragaf_jax.runtime.targets import open_target

has_wheels = all(map(importlib.util.find_spec, ("jax_cuda12_plugin", "libtpu")))
pytestmark = [
    pytest.mark.targets,
    pytest.mark.skipif(not has_wheels, reason="needs the wheels of plan-cuda and plan-tpu"),
]

# Latents of 12 × 12: rows of 144 scores. No other array of these networks ends in 144, 144.
TOKENS = 144
SCORES = re.compile(rf"\[(?:\d+,)*{TOKENS},{TOKENS}\]")


@pytest.fixture
def texts(monkeypatch):
    """What was compiled, as XLA's text."""
    found = []
    monkeypatch.setattr(compiled, "parse", lambda text: (found.append(text), parse(text))[1])
    return found


def config_of(stage, target, fsdp):
    """Small networks in bfloat16, one example a device."""
    config = smallest_config(stage)
    count = len(target.devices)
    config.data.image_size, config.model.dtype = 24, "bfloat16"
    config.train.batch_size, config.train.read_examples = count, count * (stage - 1)
    config.mesh.data, config.mesh.fsdp = (1, -1) if fsdp else (-1, 1)
    return config


def step_of(name, stage, fsdp):
    target = open_target(name)
    config = config_of(stage, target, fsdp)
    return compiled_plan(config, own_setting(config), flops=0.0, target=target).account


def test_data_parallel_gpus_only_sum_gradients(texts):
    found = step_of("h100x8", 1, fsdp=False)
    assert set(found.collectives) == {"all-reduce"}
    assert found.attention["cuDNN"] and found.attention["cuDNN backward"]
    assert not SCORES.search(texts[0])


def test_sharded_gpus_gather_weights_and_scatter_gradients(texts):
    found = step_of("h100x8", 2, fsdp=True)
    times = {kind: each.times for kind, each in found.collectives.items()}
    # The examples that only RAGAF reads are a part of the batch, which permutes move.
    assert set(times) <= {"all-gather", "reduce-scatter", "all-reduce", "collective-permute"}
    assert times["all-gather"] <= 2 and times["reduce-scatter"] >= 1
    assert not SCORES.search(texts[0])


@pytest.mark.parametrize("stage", [2, pytest.param(1, marks=pytest.mark.products)])
def test_tpus_run_the_pallas_kernels(texts, stage):
    found = step_of("v5e-4", stage, fsdp=stage == 1)
    assert "all-to-all" not in found.collectives
    kernels = "flash_forward_kernel", "flash_dq_kernel", "flash_dkv_kernel"
    assert all(found.attention[f"Pallas {name}"] for name in kernels)
    assert not SCORES.search(texts[0])


@pytest.mark.parametrize(("name", "kernel"), [("h100", "cuDNN"), ("v5e-4", "Pallas")])
def test_sampling_keeps_no_scores(texts, name, kernel):
    target = open_target(name)
    parts = part_plans(config_of(2, target, fsdp=False), target, 1)
    assert [part.name for part in parts] == ["begin", "advance", "decode", "trace"]
    assert len(texts) == len(parts)
    assert any(name.startswith(kernel) for name in parts[1].account.attention)
    assert not any(SCORES.search(text) for text in texts)
