"""Where runs lie by default, and how Stage 2 finds its Stage 1."""

from pathlib import Path

import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.training.config_files import (
    default_workdir,
    load_config,
    stage1_beside,
    stage1_file,
)

OURS = str(Path(__file__).parents[2] / "configs" / "stage{}.py")


@pytest.fixture
def plain(tmp_path):
    """A file without datasets."""
    file = tmp_path / "mine_stage1.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'stage': 1, 'train': {'steps': 5}})\n"
    )
    return str(file)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_default_workdir_has_the_dataset_and_the_files_name(stage, plain):
    file = OURS.format(stage)
    assert default_workdir(file) == default_workdir(f"{file}:openmoji")
    assert default_workdir(f"{file}:openmoji") == Path(f"runs/openmoji/stage{stage}")
    assert default_workdir(f"{file}:quickstart") == Path(f"runs/quickstart/stage{stage}")
    assert default_workdir(f"{file}:/a/b") == Path(f"runs/_a_b/stage{stage}")
    assert default_workdir(plain) == Path("runs/mine_stage1")


def test_stage_1_is_beside_stage_2(plain):
    assert stage1_beside(Path("runs/stage2/stage2")) == "runs/stage2/stage1"
    assert stage1_beside(Path("/a/mine_stage2")) == "/a/mine_stage1"
    assert stage1_beside(Path("runs/stage2/other")) == stage1_beside(Path()) == ""
    assert stage1_file("configs/stage2.py:stage2") == "configs/stage1.py:stage2"
    assert stage1_file("configs/stage2.py") == "configs/stage1.py"
    assert stage1_file(plain) is None


def test_fields_are_set_in_the_configuration_of_a_file(plain):
    config = load_config(OURS.format(1) + ":quickstart", {"train.steps": 3})
    assert (config.stage, config.train.steps, config.train.batch_size) == (1, 3, 8)
    assert load_config(plain, {}).train.steps == 5
    with pytest.raises(UserError, match=r"mine_stage1.py has no config.seed, config.train.rate; l"):
        load_config(plain, {"seed": 1, "train.steps": 2, "train.rate": 1.0})
    with pytest.raises(UserError, match="There is no configuration file nowhere/stage1.py"):
        load_config("nowhere/stage1.py:quickstart", {})
