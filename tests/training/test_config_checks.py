import ast
import math
from pathlib import Path

import pytest

from configs import base, photos, stage1, stage2
from input_pipeline.datasets.registry import find
from input_pipeline.mixture import parse
from ragaf_jax.errors import UserError
from ragaf_jax.training.config_checks import CHOICES, LIMITS, METRICS, check_config


def changed(stage, **values):
    """A configuration with other values; `__` in a name is a dot."""
    config = stage.get_config()
    flat = {name.replace("__", "."): value for name, value in values.items()}
    with config.unlocked():
        config.update_from_flattened_dict(flat)
    return config


@pytest.mark.parametrize("stage", [stage1, stage2])
@pytest.mark.parametrize(
    "dataset",
    ["openmoji", "quickstart", *photos.DATASETS, "openmoji_sd", "both_sd"],
)
def test_our_own_configurations_are_within_them(stage, dataset):
    config = stage.get_config(dataset)
    check_config(config)
    names = [name for name, _ in parse(config.data.dataset)]
    assert config.data.max_edges == max(find(name).max_edges for name in names)


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


def test_a_number_of_the_graph_that_its_kind_does_not_read():
    with pytest.raises(UserError, match="graph_k.* is 5, which has no effect on .* 'adjacency'"):
        check_config(changed(stage2, data__graph__kind="adjacency", data__graph__k=5))


def test_stage_1_reads_no_regions():
    config = stage1.get_config()
    config.train.read_examples = 8
    with pytest.raises(UserError, match="Stage 1 has no RAGAF"):
        check_config(config)


@pytest.mark.parametrize("name", CHOICES)
def test_a_name_that_nothing_has(name):
    for choice in CHOICES[name]:
        check_config(changed(stage2, **{name: choice}))
    first = CHOICES[name][-1]
    misspelt = first[:-1] + "x"
    with pytest.raises(UserError, match=rf"config\.{name} is '{misspelt}'; choose .*'{first}'"):
        check_config(changed(stage2, **{name: misspelt}))


def test_only_these_optimizers_are_built():
    """`optim.optimizer` relies on this check."""
    with pytest.raises(UserError, match="is 'adam8bit'; choose one of 'adamw', 'adafactor'"):
        check_config(changed(stage1, train__optimizer="adam8bit"))


def test_a_name_that_comes_near_is_told():
    with pytest.raises(UserError, match=r"\(did you mean 'adafactor'\?\)\.$"):
        check_config(changed(stage1, train__optimizer="adafacter"))


def test_shares_that_are_dropped_fit_into_the_examples():
    for text, sketch in ((0.5, 0.0), (0.5, 0.75), (2 / 3, 2 / 3), (1.0, 0.0)):
        check_config(changed(stage1, train__text_dropout=text, train__sketch_dropout=sketch))
    with pytest.raises(UserError, match="text_dropout is 0.9 and sketch_dropout 0.7"):
        check_config(changed(stage1, train__text_dropout=0.9, train__sketch_dropout=0.7))


def test_parts_of_a_batch_are_equal(rng):
    batch, parts = map(int, rng.integers(2, 30, 2))
    config = changed(stage1, train__batch_size=batch * parts, train__accumulation=parts)
    check_config(config)
    config.train.batch_size += 1
    with pytest.raises(UserError, match=rf"batch_size is {batch * parts + 1}, which {parts} m"):
        check_config(config)
    config = changed(
        stage2, train__batch_size=parts, train__accumulation=parts, train__read_examples=parts + 1
    )
    with pytest.raises(UserError, match=rf"read_examples is {parts + 1}, which {parts} m"):
        check_config(config)


def test_tags_that_vary_are_not_cached_and_kept_ones_are_of_varied_captions():
    for fields in ({"shuffle": True}, {"dropout": 0.1, "keep": 2}):
        tags = {f"data__tags__{name}": value for name, value in fields.items()}
        check_config(changed(stage1, **tags, data__cache="latents"))
        said = r"config\.data\.cache is 'latents,text' and config\.data\.tags varies the captions"
        with pytest.raises(UserError, match=said):
            check_config(changed(stage1, **tags, data__cache="latents,text"))
    check_config(changed(stage1, data__cache="text"))
    with pytest.raises(UserError, match=r"tags\.keep is 2, which has no effect without"):
        check_config(changed(stage1, data__tags__keep=2))


def test_axes_of_the_mesh():
    for data, fsdp in ((-1, 1), (1, -1), (2, 4)):
        check_config(changed(stage1, mesh__data=data, mesh__fsdp=fsdp))
    with pytest.raises(UserError, match="are both -1"):
        check_config(changed(stage1, mesh__fsdp=-1))
    with pytest.raises(UserError, match=r"config\.mesh\.fsdp is 0; give"):
        check_config(changed(stage1, mesh__fsdp=0))


def test_what_the_best_checkpoints_are_told_by():
    for metric in METRICS:
        check_config(changed(stage1, best_metric=metric))
    check_config(changed(stage2, best_metric="response/graph"))
    with pytest.raises(UserError, match="Stage 1 has no graph"):
        check_config(changed(stage1, best_metric="response/graph"))
    with pytest.raises(UserError, match=r"\(did you mean response/sketch\?\)"):
        check_config(changed(stage1, best_metric="response/skecth"))
    with pytest.raises(UserError, match="which selects no best checkpoint"):
        check_config(changed(stage1, best_metric="validation/loss"))
    check_config(changed(stage1, best_metric="validation/loss", keep_best=0))


def test_checkpoints_are_where_the_response_is_measured(rng):
    every, saves, steps = map(int, rng.integers(2, 60, 3))
    config = changed(stage1, train__steps=steps, response__every=every, checkpoint_every=saves)
    both = [step for step in range(1, steps) if step % every == 0 and step % saves == 0]
    either = every >= steps or saves >= steps  # the last step has both
    if both or either or math.lcm(every, saves) == steps:
        check_config(config)
    else:
        with pytest.raises(UserError, match=f"no step before the last of {steps} has both"):
            check_config(config)


# Fields whose names say all.
PLAIN = {"config.seed", "config.stage", "data.dir", "train.steps"}
PLAIN_ENDINGS = ("_every", "_examples")


def test_every_field_is_documented_once():
    """By a comment on its lines, or by one above them in its paragraph."""
    text = Path(base.__file__).read_text()
    lines = text.splitlines()
    (function,) = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    fields, silent = [], set()
    for node in function.body:
        if not isinstance(node, ast.Assign):
            continue
        name = ast.unparse(node.targets[0])
        fields.append(name)
        above = node.lineno - 1
        while lines[above - 1].strip():
            above -= 1
        section = ast.unparse(node.value) == "ConfigDict()"
        if not section and not any("#" in line for line in lines[above : node.end_lineno]):
            silent.add(name)
    assert len(fields) == len(set(fields)) > 60
    assert {name for name in silent - PLAIN if not name.endswith(PLAIN_ENDINGS)} == set()
