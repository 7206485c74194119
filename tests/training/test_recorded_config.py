"""What a command takes from the checkpoint in its workdir."""

import pytest
from fakes import tiny_config

from ragaf_jax.training.recorded import with_stage1


@pytest.fixture
def folders(tmp_path):
    """Two trained Stage 1: one beside the workdir of Stage 2, and another."""
    for name in ("stage1", "elsewhere"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_stage1_is_that_of_the_training(folders, capsys):
    """Not the neighbour, which may be another network."""
    recorded = {"stage1": str(folders / "elsewhere"), "stage1_checkpoint": "best"}
    found = with_stage1(tiny_config(2), recorded, (), folders / "stage2")
    assert (found.stage1, found.stage1_checkpoint) == (recorded["stage1"], "best")
    assert f"as in the training of {folders / 'stage2'}" in capsys.readouterr().err
    config = tiny_config(2)
    config.stage1_checkpoint = "30"
    assert with_stage1(config, recorded, ("stage1_checkpoint",), folders).stage1_checkpoint == "30"


def test_without_a_record_it_is_the_neighbour(folders):
    """Older checkpoints, and those that came from another machine, whose folder is not here."""
    for recorded in (None, {"stage1": ""}, {"stage1": str(folders / "gone")}):
        found = with_stage1(tiny_config(2), recorded, (), folders / "stage2")
        assert found.stage1 == str(folders / "stage1") and found.stage1_checkpoint == "newest"
    assert with_stage1(tiny_config(2), None, (), folders / "run").stage1 == ""


def test_a_stage1_that_the_command_names_stays(folders):
    config = tiny_config(2)
    config.stage1 = "mine"
    recorded = {"stage1": str(folders / "elsewhere")}
    assert with_stage1(config, recorded, ("stage1",), folders / "stage2").stage1 == "mine"
    assert with_stage1(tiny_config(1), recorded, (), folders / "stage2").stage1 == ""
