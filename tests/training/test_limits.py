import pytest

from configs import stage1, stage2
from ragaf_jax.errors import UserError
from ragaf_jax.training.limits import LIMITS, check_config


@pytest.mark.parametrize("stage", [stage1, stage2])
@pytest.mark.parametrize(
    "dataset",
    ["openmoji", "quickstart", "sketchy", "coco", "both", "folder", "openmoji_sd", "both_sd"],
)
def test_our_own_configurations_are_within_them(stage, dataset):
    check_config(stage.get_config(dataset))


@pytest.mark.parametrize("name", LIMITS)
def test_a_number_beyond_its_limit_is_named(name):
    least, most = LIMITS[name]
    for value in (least - 1, most + 1) if most < float("inf") else (least - 1,):
        config = stage2.get_config()
        with config.unlocked():
            config.update_from_flattened_dict({name: value})
        with pytest.raises(UserError, match=rf"config\.{name} is {value}(\.0)?; it must be"):
            check_config(config)


def test_more_sampling_steps_than_timesteps():
    config = stage1.get_config()
    config.sample.steps = config.diffusion.steps + 1
    with pytest.raises(UserError, match="steps is 1001; it must be from 1 to 1000"):
        check_config(config)


def test_stage_1_reads_no_regions():
    config = stage1.get_config()
    config.train.read_examples = 8
    with pytest.raises(UserError, match="Stage 1 has no RAGAF"):
        check_config(config)
