"""The comparison of RAGAF with its absence: fair variants, and tables that say what was found."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT, run_here

from benchmarks.ragaf.report import read_results, rows_of
from benchmarks.ragaf.variants import VARIANTS, changes_of, parameters
from configs import stage2
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.training.adopt import with_fields
from ragaf_jax.training.config_checks import check_config


@functools.cache
def quickstart_changes(name):
    return changes_of(name, "quickstart")


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_is_a_stage_2_that_can_be_trained(name):
    changes = quickstart_changes(name)
    config = with_fields(stage2.get_config("quickstart"), changes)
    check_config(config)
    # Examples, their order, noise and steps are everybody's.
    others = ("data.regions", "data.graph.kind", "train.appearance_weight")
    for field in changes:
        assert field in others or field.startswith(("model.ragaf.", "model.lora."))
    assert (build_model(config).ragaf is None) == (name == "without")


def test_without_ragaf_as_many_parameters_are_trained():
    config = stage2.get_config("quickstart")
    full = parameters(config)
    without = parameters(with_fields(config, quickstart_changes("without")))
    assert full <= without < 1.01 * full


def values(rng, accuracy):
    drawings = np.repeat(np.arange(50), 3)
    asked = rng.integers(0, 11, 150)
    right = rng.random(150) < accuracy
    return {
        "keys": [f"drawing-{i}" for i in range(50)],
        "edge_f1": rng.random(50).tolist(),
        "drawing": drawings.tolist(),
        "part": np.tile([1, 2, 3], 50).tolist(),
        "requested": asked.tolist(),
        "obtained": np.where(right, asked, (asked + 1) % 11).tolist(),
        "near": (~right).astype(int).tolist(),
        "far": [0] * 150,
    }


def written(folder, rng, name, seed, accuracy):
    stages = {"stage1": values(rng, 0.3), "stage2": values(rng, accuracy)}
    facts = {"variant": name, "seed": seed, "parameters": 5_500_000}
    (folder / f"{name}-{seed}.json").write_text(json.dumps(facts | stages))
    return stages["stage2"]


def test_the_table_says_who_is_ahead_and_by_how_much(rng, tmp_path):
    full = [written(tmp_path, rng, "full", seed, 0.9) for seed in (0, 1)]
    less = [written(tmp_path, rng, "without", seed, 0.5) for seed in (0, 1)]
    alone, ours, other = rows_of(read_results(tmp_path))
    assert alone["Stage 2"].startswith("–") and ours["against RAGAF"] is None
    shares = [
        [np.mean(np.equal(x["requested"], x["obtained"])) for x in runs] for runs in (full, less)
    ]
    for row, share in zip((ours, other), shares, strict=True):
        spread = np.std(share, ddof=1)
        assert row["colour accuracy"] == f"{np.mean(share):.3f} ± {spread:.3f}"
        assert row["seeds"] == 2 and row["points at its word"] is None
    mean, interval = other["against RAGAF"].split(" ", 1)
    assert float(mean) == pytest.approx(np.mean(shares[1]) - np.mean(shares[0]), abs=6e-4)
    low, high = json.loads(interval.replace("+", ""))
    assert low < float(mean) < high < 0 and float(other["p"]) < 0.01


def test_without_the_full_model_there_is_nothing_to_compare_with(rng, tmp_path):
    written(tmp_path, rng, "without", 0, 0.5)
    with pytest.raises(UserError, match=r"has no results of the full model; run: python -m"):
        read_results(tmp_path)


def test_the_command_runs_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "benchmarks.ragaf.run", f"--folder={tmp_path}", "ful"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "There is no variant 'ful'; choose of full" in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["ful"], "There is no variant 'ful'; choose of full"),
        (["--set=train.steps=4"], "also give --results=<folder> and another --folder"),
        (["--set=train.steps", "--results=x"], "--set is 'train.steps'; give <field>=<value>"),
    ],
)
def test_commands_are_checked_before_anything_is_trained(arguments, words, tmp_path):
    done = run_here("benchmarks.ragaf.run", f"--folder={tmp_path}", *arguments)
    assert done.status == 1 and words in done.stderr
    assert not any(tmp_path.iterdir())
