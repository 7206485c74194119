"""Which checkpoints stay: the newest, the best by a metric, one of every so many."""

import math
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from ragaf_jax.checkpoints.checkpointer import Checkpointer
from ragaf_jax.checkpoints.choice import choices_of_stages
from ragaf_jax.checkpoints.files import check_written, types_of
from ragaf_jax.checkpoints.meta import with_later_fields
from ragaf_jax.checkpoints.reading import best_step, load_params
from ragaf_jax.errors import UserError

LISTENS = "response/sketch"


def meta(step):
    return {"step": step, "config": {"best_metric": LISTENS}}


def save(workdir, scores, **keep):
    """Each step's parameters are the step itself."""
    checkpointer = Checkpointer(workdir, **keep)
    for step, score in scores.items():
        metrics = None if score is None else {LISTENS: score, "loss": 1 / step}
        state = {"frozen": {}, "ema": {"unet": {"bias": jnp.full(3, step)}}}
        checkpointer.save(step, state, {}, meta(step), metrics)
    checkpointer.close()


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_every_rule_keeps_its_own(tmp_path, rng):
    scores = {step: float(rng.uniform(-1, 1)) for step in range(1, 11)}
    save(tmp_path, scores, keep_last=2, keep_best=2, best_metric=LISTENS, keep_every=4)
    best = sorted(scores, key=scores.get)[-2:]
    assert kept(tmp_path) == sorted({9, 10, *best, 4, 8})
    assert best_step(tmp_path, LISTENS) == best[-1]


def test_the_best_of_before_a_restart_stays(tmp_path):
    keep = {"keep_last": 1, "keep_best": 1, "best_metric": LISTENS}
    save(tmp_path, {1: 0.1, 2: 0.7, 3: 0.3}, **keep)
    save(tmp_path, {4: 0.6, 5: 0.2}, **keep)
    assert kept(tmp_path) == [2, 5]
    save(tmp_path, {6: 0.8, 7: 0.7}, **keep)
    assert kept(tmp_path) == [6, 7]
    assert best_step(tmp_path, LISTENS) == 6


def test_what_cannot_be_read_back_costs_no_older_checkpoint(tmp_path, monkeypatch):
    """Orbax reports success, but no array is in the folder that it has written."""
    save(tmp_path, {1: None, 2: None}, keep_last=1)
    assert kept(tmp_path) == [2]
    checkpointer = Checkpointer(tmp_path, keep_last=1)
    checkpointer.save(
        3, {"frozen": {}, "ema": {"unet": {"bias": jnp.full(3, 3)}}}, {}, {"config": {}}
    )
    checkpointer._manager.wait_until_finished()
    state = tmp_path / "checkpoints" / "3" / "state"
    shutil.rmtree(state)
    state.mkdir()
    with pytest.raises(UserError, match=r"of step 3 in \S+ cannot be read back \(.*\), so no"):
        checkpointer.close()
    assert kept(tmp_path) == [2, 3]
    assert load_params(tmp_path)[1] == with_later_fields(meta(2))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda types: types | {"a/b": "float32[3]"}, "a.b is missing"),
        (lambda types: {"ema/unet/bias": "float32[4]"}, r"ema.unet.bias is .*\[3\] instead of"),
        (lambda types: {}, "ema.unet.bias is unexpected"),
    ],
)
def test_a_checkpoint_is_compared_with_what_was_saved(tmp_path, spoil, said):
    save(tmp_path, {1: None})
    folder = tmp_path / "checkpoints" / "1"
    types = types_of({"ema": {"unet": {"bias": jnp.full(3, 1)}}})
    assert check_written(folder, types) is None
    assert re.match(said, check_written(folder, spoil(types)))
    (folder / "meta" / "metadata").write_text("{")
    assert check_written(folder, types) is not None


@pytest.mark.parametrize("unmeasured", [None, math.nan, math.inf], ids=str)
def test_a_checkpoint_without_the_metric_is_never_the_best(tmp_path, unmeasured):
    keep = {"keep_last": 1, "keep_best": 2, "best_metric": LISTENS}
    save(tmp_path, {1: unmeasured, 2: unmeasured}, **keep)
    assert kept(tmp_path) == [2]
    assert best_step(tmp_path, LISTENS) is None
    save(tmp_path, {3: -0.5, 4: unmeasured, 5: unmeasured}, **keep)
    assert kept(tmp_path) == [3, 5]
    assert best_step(tmp_path, LISTENS) == 3
    assert best_step(tmp_path, "another") is None


def test_of_equals_the_later_is_the_best(tmp_path):
    keep = {"keep_last": 1, "keep_best": 1, "best_metric": LISTENS}
    save(tmp_path, {1: 0.0, 2: 0.0, 3: None}, **keep)
    assert kept(tmp_path) == [2, 3]
    assert best_step(tmp_path, LISTENS) == 2


@pytest.mark.parametrize("content", ["", '{"response/sk', "[]"])
def test_damaged_scores_cost_no_checkpoint(tmp_path, content):
    keep = {"keep_last": 2, "keep_best": 1, "best_metric": LISTENS}
    save(tmp_path, {1: 0.9, 2: 0.5}, **keep)
    (tmp_path / "checkpoints" / "1" / "scores" / "metadata").write_text(content)
    assert best_step(tmp_path, LISTENS) == 2
    save(tmp_path, {3: 0.1, 4: 0.2}, **keep)
    assert kept(tmp_path) == [2, 3, 4]


def test_parameters_of_the_chosen_checkpoint(tmp_path):
    save(tmp_path, {1: 0.1, 2: 0.7, 3: 0.3}, keep_last=3)
    for checkpoint, step in (("newest", 3), ("best", 2), ("1", 1)):
        params, found = load_params(tmp_path, checkpoint=checkpoint)
        np.testing.assert_array_equal(params["unet"]["bias"], np.full(3, step))
        assert found == with_later_fields(meta(step))
    with pytest.raises(UserError, match=r"no checkpoint of step 7: its steps are 3, 2, 1"):
        load_params(tmp_path, checkpoint="7")
    (tmp_path / "checkpoints" / "2" / "meta" / "metadata").write_text("{")
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged \(.*\): restore it"):
        load_params(tmp_path, checkpoint="best")


def test_no_best_checkpoint_without_a_measurement(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_params(tmp_path, checkpoint="best")
    save(tmp_path, {1: None, 2: None})
    said = rf"no best checkpoint, because '{LISTENS}' \(config.best_metric\) was .* steps 2, 1\."
    with pytest.raises(UserError, match=said):
        load_params(tmp_path, checkpoint="best")


def test_a_choice_for_each_stage():
    assert choices_of_stages("best") == {1: "best", 2: "best"}
    assert choices_of_stages("newest,4500") == {1: "newest", 2: "4500"}
    for text in ("latest", "", "-1", "1.5", "best,", "1,2,3"):
        with pytest.raises(UserError, match=r"^--checkpoint is '.*'; give "):
            choices_of_stages(text)
