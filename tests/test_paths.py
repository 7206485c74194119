"""Paths that users give, by flags and by fields of a configuration."""

import os
from pathlib import Path

import pytest
from commands import run_here
from fakes import tiny_config

from ragaf_jax.checkpoints.checkpointer import Checkpointer
from ragaf_jax.errors import UserError
from ragaf_jax.paths import check_no_pattern, expand_fields

TRAIN = ("main.py", "--config=configs/stage1.py:quickstart")


@pytest.mark.parametrize("character", "[]*?")
def test_a_folder_that_is_a_pattern_is_refused(tmp_path, character):
    """Below it Orbax would write checkpoints that cannot be read."""
    workdir = tmp_path / f"run{character}1"
    with pytest.raises(UserError, match=r"whose '.' would be read as a pattern; rename"):
        check_no_pattern(workdir / "stage1", "--workdir")
    with pytest.raises(UserError, match="would be read as a pattern"):
        Checkpointer(workdir)
    assert not workdir.exists()
    check_no_pattern(tmp_path / "run {1} (b) + c's, 50 %", "--workdir")


def test_a_relative_folder_below_a_pattern_is_refused(tmp_path, monkeypatch):
    (tmp_path / "runs[old]").mkdir()
    monkeypatch.chdir(tmp_path / "runs[old]")
    with pytest.raises(UserError, match=r"--workdir is /.*runs\[old\]/run, whose '\['"):
        check_no_pattern("run", "--workdir")


@pytest.mark.parametrize(
    "flags",
    [
        ["--workdir=runs/run[1]"],
        ["--workdir=runs/run", "--config.data.dir=d[0:2]"],
        ["--workdir=runs/run", "--config.data.dir=d[0:2]", "--mode=evaluate"],
    ],
)
def test_commands_refuse_patterns(flags):
    done = run_here(*TRAIN, *flags)
    assert done.status == 1 and "whose '[' would be read as a pattern" in done.stderr
    assert not Path("runs/run[1]").exists()


def test_preparation_refuses_a_pattern():
    done = run_here("input_pipeline.prepare", "--dataset=openmoji", "--data_dir=d[0:2]")
    assert done.status == 1 and "--data_dir is" in done.stderr and "a pattern" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        (*TRAIN, "--workdir=gs://bucket/run"),
        (*TRAIN, "--workdir=runs/a", "--config.data.dir=s3://bucket/data"),
        (*TRAIN, "--workdir=runs/a", "--config.stage1=gs://bucket/stage1"),
        (*TRAIN, "--workdir=runs/a", "--config.init.checkpoint=https://host/sd.safetensors"),
        ("ragaf_jax.sample", "--stage1=s3://bucket/stage1", "--output=out"),
        ("ragaf_jax.export", "--workdir=gs://bucket/run", "--output=out"),
        ("input_pipeline.prepare", "--data_dir=hdfs://host/data"),
        ("input_pipeline.inspect", "--dataset=coco", "--data_dir=gs://bucket/data"),
    ],
)
def test_object_stores_are_refused(command):
    done = run_here(*command)
    assert done.status == 1 and ":// is not supported; give a local folder" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not any(Path(name).exists() for name in ("gs:", "s3:", "hdfs:", "https:"))


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    for command, there in (
        (("ragaf_jax.sample", "--sketch=~/a.png", "--stage1=~/b", "--output=~/c"), "a.png"),
        (("ragaf_jax.export", "--workdir=~/run", "--output=~/c"), "run"),
        # Another data set than OpenMoji, which a run prepares itself.
        (("main.py", "--config=configs/stage1.py:folder", "--config.data.dir=~/data"), "data"),
        (("input_pipeline.inspect", "--dataset=coco", "--data_dir=~/data"), "data"),
    ):
        done = run_here(*command)
        assert done.status == 1 and f"{tmp_path}/{there}" in done.stderr, done.stderr
    config = tiny_config(2)
    config.stage1, config.init.lora = "~/stage1", "~/lora.safetensors"
    config.init.control = "lllyasviel/control_v11p_sd15_scribble"
    expand_fields(config)
    assert config.stage1 == f"{tmp_path}/stage1"
    assert config.init.lora == f"{tmp_path}/lora.safetensors"
    assert config.init.control == "lllyasviel/control_v11p_sd15_scribble"
