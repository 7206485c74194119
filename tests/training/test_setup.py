"""What a run may begin from, and go on with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import random_params, random_stage, save_stage, tiny_config, tiny_tokenizer

from ragaf_jax.checkpoints.meta import with_later_fields
from ragaf_jax.errors import UserError
from ragaf_jax.nets.build import build_model
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.initial import initial_params
from ragaf_jax.training.setup import check_same_run, load_stage1


def meta(tokenizer=None, **changes):
    config = tiny_config(2)
    config.update_from_flattened_dict(changes)
    return {"config": config.to_dict(), "tokenizer": (tokenizer or tiny_tokenizer()).to_json()}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("diffusion.prediction", "v_prediction"),
        ("data.recolorings", 4),
        ("model.unet.block_out_channels", (64,)),
        ("model.ragaf.fusion", "hybrid"),
    ],
)
def test_what_is_trained_may_not_change_from_start_to_start(tmp_path, field, value):
    with pytest.raises(
        UserError, match=rf"config\.{field} was .* when .* was started and is .* now"
    ):
        check_same_run(meta(), meta(**{field: value}), tmp_path)


def test_a_run_older_than_the_choice_of_graph_goes_on_with_its_own_graph(tmp_path):
    older = meta()
    del older["config"]["data"]["graph"]
    older = with_later_fields(older)  # as it is restored
    check_same_run(older, meta(), tmp_path)
    with pytest.raises(UserError, match=r'data\.graph\.kind was "hybrid" .* is "knn" now'):
        check_same_run(older, meta(**{"data.graph.kind": "knn"}), tmp_path)


def test_how_it_is_trained_may(tmp_path):
    now = meta(**{"train.steps": 7, "data.dir": "elsewhere", "seed": 5, "log_every": 3})
    check_same_run(meta(), now, tmp_path)


def test_a_run_goes_on_with_its_own_vocabulary(tmp_path):
    other = meta(Tokenizer.train(["words of another data set"]))
    with pytest.raises(UserError, match="vocabulary of the data differs from the one"):
        check_same_run(meta(), other, tmp_path)


def test_stage_2_begins_with_a_stage_1_of_the_same_vocabulary(tmp_path):
    config = tiny_config(2)
    config.stage1 = str(save_stage(random_stage(1), tmp_path / "one"))
    load_stage1(config, tiny_tokenizer())
    with pytest.raises(UserError, match="different vocabularies"):
        load_stage1(config, Tokenizer.train(["words of another data set"]))
    config.stage1 = str(save_stage(random_stage(2), tmp_path / "two"))
    with pytest.raises(UserError, match="holds Stage 2; give the workdir of Stage 1"):
        load_stage1(config, tiny_tokenizer())


def test_stage_2_begins_with_the_chosen_checkpoint_of_stage_1(tmp_path):
    config = tiny_config(2)
    newest = random_stage(1)
    for step, seed in ((5, 1), (7, 0)):
        save_stage(dataclasses.replace(random_stage(1, seed), step=step), tmp_path)
    config.stage1 = str(tmp_path)
    chosen = {}
    for checkpoint in ("newest", "7", "5"):
        config.stage1_checkpoint = checkpoint
        chosen[checkpoint] = load_stage1(config, tiny_tokenizer())["unet"]
    jax.tree.map(np.testing.assert_array_equal, chosen["newest"], newest.params["unet"])
    jax.tree.map(np.testing.assert_array_equal, chosen["newest"], chosen["7"])
    assert not np.array_equal(*(jax.tree.leaves(chosen[step])[0] for step in ("7", "5")))
    refused = {"6": "no checkpoint of step 6: its steps are 7, 5", "best": "no best checkpoint"}
    for checkpoint, said in refused.items():
        config.stage1_checkpoint = checkpoint
        with pytest.raises(UserError, match=said):
            load_stage1(config, tiny_tokenizer())


def test_what_stage_1_kept_in_bfloat16_stage_2_begins_in_float32(rng):
    stage1 = random_params(build_model(tiny_config(1)), rng)
    stage1["unet"] = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), stage1["unet"])
    params = initial_params(tiny_config(2), build_model(tiny_config(2)), stage1)
    assert set(params) == {"unet", "control", "text_encoder", "ragaf"}
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
