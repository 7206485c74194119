"""Checkpoints come back as they went, or say in one sentence why not."""

import logging
import shutil
import textwrap
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import on_eight_devices
from flax.traverse_util import unflatten_dict

from ragaf_jax.checkpoints.checkpointer import Checkpointer
from ragaf_jax.checkpoints.meta import LATER_FIELDS, with_later_fields
from ragaf_jax.checkpoints.reading import load_meta, load_params
from ragaf_jax.errors import UserError

OPTIMISER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


class State(flax.struct.PyTreeNode):
    """The fields of TrainState."""

    step: jax.Array
    trainable: dict
    frozen: dict
    ema: dict
    opt_state: optax.OptState


def make_state(rng: np.random.Generator, step: int = 0, width: int = 8) -> State:
    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    trainable = {
        "ragaf": {"dense": {"kernel": draw(width, 3)}},
        "unet": {"norm": {"bias": draw(4)}},
    }
    frozen = {"unet": {"norm": {"scale": draw(4).astype(jnp.bfloat16)}, "out": draw(2, 5)}}
    opt_state = jax.tree.map(
        lambda x: x + draw(*x.shape).astype(x.dtype), OPTIMISER.init(trainable)
    )
    ema = jax.tree.map(lambda x: x + draw(*x.shape), trainable)
    return State(jnp.asarray(step, jnp.int32), trainable, frozen, ema, opt_state)


def assert_same(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def data_state(step: int) -> dict:
    return {"last_seen": step, "workers": [{"0": 3 * step}], "source": "ü"}


def save_steps(workdir: Path, rng: np.random.Generator, *steps: int, width=8) -> dict[int, State]:
    states = {step: make_state(rng, step, width) for step in steps}
    checkpointer = Checkpointer(workdir)
    for step, state in states.items():
        checkpointer.save(step, state, data_state(step), {"config": {"lr": 1e-3}, "step": step})
    checkpointer.close()
    return states


def restore(workdir: Path, state: State):
    checkpointer = Checkpointer(workdir)
    try:
        return checkpointer.restore_latest(jax.eval_shape(lambda: state))
    finally:
        checkpointer.close()


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_restores_what_was_saved(tmp_path, rng):
    states = save_steps(tmp_path, rng, 10, 20)
    restored = restore(tmp_path, states[20])
    assert restored.step == 20
    assert_same(restored.state, states[20])
    assert restored.data_state == data_state(20)
    assert restored.meta == with_later_fields({"config": {"lr": 1e-3}, "step": 20})


def test_a_relative_workdir_and_an_empty_frozen_tree(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = make_state(rng).replace(frozen={})
    checkpointer = Checkpointer(Path("run"))
    checkpointer.save(1, state, {}, {"config": {}})
    checkpointer.wait()
    assert_same(checkpointer.restore_latest(state).state, state)
    checkpointer.close()
    assert_same(load_params(Path("run"))[0], state.ema)


def test_nothing_saved_is_none(tmp_path, rng):
    assert restore(tmp_path / "new", make_state(rng)) is None


def test_keeps_the_newest(tmp_path, rng):
    save_steps(tmp_path, rng, 1, 2, 3, 4, 5)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"3", "4", "5"}


def test_saving_a_step_twice_keeps_the_first(tmp_path, rng):
    states = save_steps(tmp_path, rng, 7)
    save_steps(tmp_path, rng, 7)
    assert_same(restore(tmp_path, states[7]).state, states[7])


def test_arrays_may_be_donated_while_the_save_runs(tmp_path, rng):
    state = make_state(rng, width=1 << 16)
    expected = jax.tree.map(lambda x: np.array(x, copy=True), state)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 7, s), donate_argnums=0)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, {}, {"config": {}})
    for _ in range(3):
        state = overwrite(state)
    jax.block_until_ready(state)
    checkpointer.close()
    assert_same(restore(tmp_path, state).state, jax.tree.map(jnp.asarray, expected))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", [halve, Path.unlink], ids=["truncated", "missing"])
def test_any_damaged_file_never_gives_wrong_values(tmp_path, rng, damage, caplog):
    """Whichever file is hurt: the newest whole checkpoint comes back, exactly, or a sentence."""
    whole = tmp_path / "whole"
    states = save_steps(whole, rng, 10, 20, width=1000)  # too wide for storage beside the names
    newest = whole / "checkpoints" / "20"
    fell_back = []
    for file in sorted(path for path in newest.rglob("*") if path.is_file()):
        run = tmp_path / "run"
        shutil.copytree(whole, run)
        hurt = run / file.relative_to(whole)
        damage(hurt)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ragaf_jax"):
            params, meta = load_params(run)
            restored = restore(run, states[20])
        assert restored.step in (10, 20)
        assert_same(restored.state, states[restored.step])
        assert restored.data_state == data_state(restored.step)
        assert_same(params["ragaf"], jax.tree.map(np.asarray, states[meta["step"]].ema["ragaf"]))
        if restored.step == 10:
            fell_back.append(str(file.relative_to(newest)))
            assert f"{run}/checkpoints/20 is damaged" in caplog.text
            assert f"using {run}/checkpoints/10 instead" in caplog.text
            assert (run / "checkpoints" / "damaged-20").is_dir()
        else:
            assert "is damaged" not in caplog.text
        shutil.rmtree(run)
    assert {"data/metadata", "meta/metadata", "state/_METADATA", "state/manifest.ocdbt"} <= set(
        fell_back
    )
    assert any(name.startswith("state/ocdbt.process_0/d/") for name in fell_back)


def test_training_reaches_a_damaged_step_again(tmp_path, rng):
    states = save_steps(tmp_path, rng, 10, 20)
    for _ in range(2):
        halve(tmp_path / "checkpoints" / "20" / "data" / "metadata")
        checkpointer = Checkpointer(tmp_path)
        restored = checkpointer.restore_latest(states[10])
        assert restored.step == 10
        again = make_state(rng, 20)
        checkpointer.save(20, again, data_state(20), {"config": {}})
        checkpointer.close()
        assert_same(restore(tmp_path, again).state, again)


def test_all_damaged_is_an_error(tmp_path, rng):
    states = save_steps(tmp_path, rng, 10, 20)
    for file in tmp_path.glob("checkpoints/*/meta/metadata"):
        halve(file)
    with pytest.raises(UserError, match="every checkpoint in .* is damaged"):
        restore(tmp_path, states[20])
    with pytest.raises(UserError, match="every checkpoint in .* is damaged"):
        load_params(tmp_path)
    assert (tmp_path / "checkpoints" / "20").is_dir()


def other_dtype(state: State) -> State:
    return state.replace(ema=jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.ema))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda s: s.replace(frozen={}), "frozen/unet/norm/scale is bfloat16[4] there and missing"),
        (lambda s: s.replace(frozen=s.frozen | {"vae": s.step}), "frozen/vae is missing there"),
        (lambda s: s.replace(opt_state=optax.sgd(0.1).init(s.trainable)), "opt_state"),
        (other_dtype, "ema/ragaf/dense/kernel is float32[8,3] there and bfloat16[8,3] in this"),
    ],
    ids=["missing", "extra", "optimiser", "dtype"],
)
def test_another_models_checkpoint_is_an_error(tmp_path, rng, change, name):
    states = save_steps(tmp_path, rng, 10, 20)
    with pytest.raises(UserError) as error:
        restore(tmp_path, change(states[20]))
    assert name in str(error.value)
    assert restore(tmp_path, states[20]).step == 20


def test_another_width_is_an_error(tmp_path, rng):
    save_steps(tmp_path, rng, 10)
    with pytest.raises(UserError, match=r"kernel is float32\[8,3\] there and float32\[9,3\] in"):
        restore(tmp_path, make_state(rng, width=9))


@pytest.mark.parametrize("which", ["ema", "trainable"])
def test_parameters_are_the_union_of_frozen_and_trained(tmp_path, rng, which):
    states = save_steps(tmp_path, rng, 10, 20)
    trained, frozen = getattr(states[20], which), states[20].frozen
    params, meta = load_params(tmp_path, which)
    expected = {
        "ragaf": trained["ragaf"],
        "unet": {
            "norm": {
                "bias": trained["unet"]["norm"]["bias"],
                "scale": frozen["unet"]["norm"]["scale"],
            },
            "out": frozen["unet"]["out"],
        },
    }
    assert_same(params, expected)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
    assert meta["step"] == 20


def test_fields_younger_than_a_checkpoint_have_the_values_of_its_run(tmp_path, rng):
    states = save_steps(tmp_path, rng, 10)
    for meta in (load_meta(tmp_path), load_params(tmp_path)[1], restore(tmp_path, states[10]).meta):
        assert meta["config"] == unflatten_dict({"lr": 1e-3, **LATER_FIELDS}, sep=".")
    found = with_later_fields({"config": {"data": {"regions": "ink"}, "train": {}}})["config"]
    assert (found["data"]["regions"], found["train"]) == ("ink", {})


def test_parameters_do_not_need_the_optimiser(tmp_path, rng):
    """A reader of a live run may not touch it: no folder is made, none is cleaned up."""
    save_steps(tmp_path, rng, 10)
    unfinished = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(tmp_path.rglob("*"))
    load_params(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_save_is_no_checkpoint(tmp_path, rng):
    states = save_steps(tmp_path, rng, 10)
    unfinished = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert restore(tmp_path, states[10]).step == 10
    assert not unfinished.exists()


def test_a_run_on_many_devices_is_read_on_one(tmp_path):
    """Saved from eight devices, sharded; both readers here have one."""
    script = """
        import sys, jax, jax.numpy as jnp
        from pathlib import Path
        from jax.sharding import NamedSharding, PartitionSpec
        from ragaf_jax.checkpoints.checkpointer import Checkpointer
        mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
        sharded = jax.device_put(
            jnp.arange(8.0).reshape(4, 2), NamedSharding(mesh, PartitionSpec("data"))
        )
        checkpointer = Checkpointer(Path(sys.argv[1]))
        state = {"frozen": {}, "ema": {"unet": {"kernel": sharded}}}
        checkpointer.save(3, state, {}, {"config": {}})
        checkpointer.close()
    """
    on_eight_devices("-c", textwrap.dedent(script), tmp_path)
    expected = {"unet": {"kernel": jnp.arange(8.0).reshape(4, 2)}}
    assert_same(load_params(tmp_path)[0], expected)
    restored = Checkpointer(tmp_path).restore_latest({"frozen": {}, "ema": expected})
    assert_same(restored.state["ema"], expected)
    assert len(restored.state["ema"]["unet"]["kernel"].devices()) == 1


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint .* train it with main.py or give"):
        load_params(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
