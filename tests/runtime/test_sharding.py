"""One, two and many devices make the same model, and more devices hold less of it each.

Devices are forced upon a CPU, which a process can do once, before it looks for them: this file is
also the script that does.
"""

import ast
import functools
import hashlib
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import on_eight_devices
from fakes import random_batch, random_params, smallest_config, tiny_config, tiny_tokenizer
from hypothesis import example, given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from ragaf_jax.checkpoints.checkpointer import Checkpointer
from ragaf_jax.errors import UserError
from ragaf_jax.losses.objective import objective_of, step_inputs
from ragaf_jax.losses.terms import step_loss
from ragaf_jax.nets.build import build_model
from ragaf_jax.runtime.sharding import (
    AXES,
    FROZEN,
    cuts,
    is_rounded,
    leaf_spec,
    local_copy,
    make_mesh,
    put_batch,
    replicated,
    state_shardings,
    with_shardings,
)
from ragaf_jax.training.bundles import bundled, unbundled
from ragaf_jax.training.optim import optimizer
from ragaf_jax.training.setup import abstract_state, initial_state, other_layout
from ragaf_jax.training.state import TrainState
from ragaf_jax.training.step import train_step

# The first takes four of the eight devices: a step over more takes twice as long to compile.
BOTH_AXES, OTHERS = (2, 2), [(2, 4), (8, 1), (1, 8)]
STEPS = 4

# All kinds of operations in a compiled step that move arrays between devices.
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def config_on(stage, data, fsdp):
    """Some networks are trained and others frozen, as both are cut: fewer updates to compile."""
    config = smallest_config(stage)
    config.train.trainable = ("control/.*", "ragaf/.*")[:stage]
    config.train.frozen = (".*",)
    config.train.batch_size, config.train.read_examples = 8, 8 * (stage - 1)
    config.mesh.data, config.mesh.fsdp = data, fsdp
    return config


@pytest.fixture(
    scope="module",
    params=[(1, [BOTH_AXES]), pytest.param((2, OTHERS), marks=pytest.mark.processes)],
    ids=["stage1", "stage2"],
)
def found(request, tmp_path_factory, seed):
    """What this file prints as a script, by mesh; its stage and the folder of its checkpoint."""
    folder, (stage, meshes) = tmp_path_factory.mktemp("meshes"), request.param
    lines = on_eight_devices(__file__, folder, seed, stage, json.dumps(meshes))
    return json.loads(lines[-1]) | {"folder": folder, "stage": stage}


@pytest.fixture(scope="module")
def alone(seed, found):
    """The abstract state, losses, bytes, further steps and optimiser of a run on one device."""
    abstract, state, steps, _, tx = run(config_on(found["stage"], 1, 1), 1, seed)
    size = held(state)
    return abstract, steps(state, STEPS)[1], size, steps, tx


def test_a_mesh_goes_on_from_the_bundles_of_older_versions(found):
    assert found["from_bundles"]


def test_every_mesh_has_the_losses_of_one_device(found, alone):
    _, expected, *_ = alone
    assert len(expected) == STEPS and found["losses"]
    for losses in found["losses"].values():
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_what_a_device_holds_falls_with_fsdp(found, alone):
    """But for small arrays, and those no side of which divides."""
    _, _, whole, *_ = alone
    for mesh, size in found["bytes"].items():
        least = 1 / ast.literal_eval(mesh)[1]
        assert least <= size / whole <= least + 0.03


def test_a_checkpoint_of_one_mesh_goes_on_on_another(found, alone):
    """From the last mesh to one device, and to every other mesh."""
    abstract, _, _, steps, tx = alone
    layout = other_layout(abstract, tx)
    state = Checkpointer(found["folder"]).restore_latest(abstract, layout).state
    assert digest(in_trees(state)) == found["digest"]
    np.testing.assert_allclose(steps(state, 1)[1], found["next_loss"], rtol=1e-5)
    for restored in found["restored"].values():
        assert restored["equal"]
        np.testing.assert_allclose(restored["next_loss"], found["next_loss"], rtol=1e-5)


def test_a_step_moves_no_more_than_weights_once_and_gradients(found):
    for mesh, moved in found["moved"].items():
        assert not moved["all-to-all"]
        # Examples for denoising and examples for RAGAF alone are sharded separately.
        assert not moved["collective-permute"] or found["stage"] == 2
        fsdp = ast.literal_eval(mesh)[1]
        # XLA's CPU backend has no reduce-scatter of this kind.
        assert moved["all-gather"] == (found["cut"][mesh] if fsdp > 1 else 0)


def test_one_device_alone_gets_the_whole(found):
    assert found["local"] == [1, True]


@given(shape=st.lists(st.integers(1, 40), max_size=4).map(tuple), fsdp=st.integers(1, 8))
@example(shape=(3, 3, 32, 64), fsdp=8)
@example(shape=(16, 15), fsdp=8)  # fewer than 256 numbers
@example(shape=(17, 31), fsdp=4)
def test_the_longest_side_that_divides_is_cut(shape, fsdp):
    spec = leaf_spec(shape, fsdp)
    cut = [axis for axis, name in enumerate(spec) if name is not None]
    fitting = [size for size in shape if size % fsdp == 0]
    if fsdp == 1 or not fitting or np.prod(shape) < 256:
        assert not cut
    else:
        assert [shape[axis] for axis in cut] == [max(fitting)]
        assert spec[cut[0]] == "fsdp"


def test_frozen_parameters_are_cut_or_copied():
    """The rest of the state is cut all the same."""
    mesh = AbstractMesh((2, 4), AXES)
    tree = {"net": {"kernel": jax.ShapeDtypeStruct((64, 64), jnp.float32)}}
    step = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(step=step, trainable=tree, frozen=tree, ema=tree, opt_state=tree)
    for name, spec in zip(FROZEN, [P(None, "fsdp"), P()], strict=True):
        found = state_shardings(mesh, state, name)
        assert found.frozen["net"]["kernel"].spec == spec
        assert found.ema["net"]["kernel"].spec == P(None, "fsdp")


def test_what_is_gathered_in_16_bits_is_used_in_16_bits(rng):
    """Rounded kernels and embeddings change nothing in a bfloat16 network."""
    config = smallest_config(1)
    config.model.dtype = "bfloat16"
    model, objective = build_model(config), objective_of(config, tiny_tokenizer())
    params = random_params(model, rng)

    def rounded(path, leaf):
        return np.float32(leaf.astype(jnp.bfloat16)) if is_rounded(path) else leaf

    batch = random_batch(rng, config)

    def loss_of(params, batch):
        return step_loss(
            model, objective, params, *step_inputs(objective, jax.random.key(0), batch)
        )[0]

    # XLA otherwise drops what rounds in between on the CPU, where it computes in float32.
    exact = jax.jit(loss_of, compiler_options={"xla_allow_excess_precision": False})
    loss = functools.partial(exact, batch=batch)

    some = jax.tree_util.tree_map_with_path(rounded, params)
    assert loss(some) == loss(params)
    assert loss(jax.tree.map(lambda leaf: 1.01 * leaf, params)) != loss(params)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mesh.fsdp": 2}, "config.mesh is data=-1, fsdp=2 and there are 1 devices"),
        ({"mesh.data": 3, "mesh.fsdp": -1}, "product is 1"),
    ],
)
def test_meshes_that_cannot_be(fields, said):
    config = tiny_config(1)
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=said):
        make_mesh(config)


@pytest.mark.parametrize("name", ["batch_size", "read_examples"])
def test_a_batch_that_cannot_be_shared_out(name):
    """Three devices that are the same one: only their number is looked at."""
    config = tiny_config(2)
    config.train.batch_size = config.train.read_examples = 12
    config.train.accumulation = 2
    config.train[name] = 9
    with pytest.raises(UserError, match=f"config.train.{name} is 9, .* choose a multiple of 6"):
        make_mesh(config, jax.devices()[:1] * 3)


def run(config, count, seed):
    """A state on a mesh of so many devices: its shapes, itself, what makes steps, the compiled
    step once there was one, and the optimiser.

    Processes that run it together have a part of each batch each.
    """
    mesh = make_mesh(config, jax.devices()[:count])
    model, tx = build_model(config), optimizer(config.train, cuts(mesh))
    objective = objective_of(config, tiny_tokenizer())
    abstract = with_shardings(mesh, abstract_state(config, model, tx), config.mesh.frozen)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    begin = functools.partial(initial_state, config, model, tx)
    params = random_params(model, np.random.default_rng(seed))
    state = jax.jit(begin, out_shardings=shardings)(params)
    step = jax.jit(
        functools.partial(train_step, model, tx, 0.999, objective),
        out_shardings=(shardings, replicated(mesh)),
    )
    compiled = []
    key = jax.jit(jax.random.key, static_argnums=0, out_shardings=replicated(mesh))(7)

    total = config.train.batch_size + config.train.read_examples
    size, process = total // jax.process_count(), jax.process_index()
    own = slice(process * size, (process + 1) * size)

    def steps(state, number):
        losses = []
        for i in range(int(state.step), int(state.step) + number):
            batch = random_batch(np.random.default_rng([seed, i]), config, total)
            batch = jax.tree.map(lambda x: x[own], batch)
            batch = put_batch(mesh, batch)
            if not compiled:
                with jax.set_mesh(mesh):
                    compiled.append(step.lower(key, state, batch).compile())
            state, scalars = compiled[0](key, state, batch)
            losses.append(float(scalars["loss"]))
        return state, losses

    return abstract, state, steps, compiled, tx


def arrays_moved(program):
    """How many arrays each kind of collective operation of a compiled step moves, but scalars."""
    kinds = dict.fromkeys(COLLECTIVES, 0)
    for shapes, kind in re.findall(rf" = (.*?) ({'|'.join(COLLECTIVES)})\(", program.as_text()):
        kinds[kind] += len(re.findall(r"\w\[\d", shapes))
    return kinds


def held(state):
    """Bytes on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))


def digest(state):
    """A hash of every number."""
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(state)]
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


def in_trees(state):
    """The state with the moments of each parameter by themselves, however they are kept."""
    moments = state.opt_state[1][0].mu
    if all(kind in ("vectors", "matrices", "large") for net in moments.values() for kind in net):
        return state.replace(opt_state=unbundled(state.opt_state, state.trainable))
    return state


def lies(state, abstract):
    """Whether all arrays lie where they should."""
    places = jax.tree.map(lambda x, y: x.sharding == y.sharding, state, abstract)
    return all(jax.tree.leaves(places))


def equal(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def on_meshes(folder, seed, stage, meshes):
    """Prints losses, bytes and what becomes of a checkpoint, as JSON."""
    losses, sizes, restored, runs, cut, moved = {}, {}, {}, {}, {}, {}
    for mesh in meshes:
        runs[mesh] = run(config_on(stage, *mesh), mesh[0] * mesh[1], seed)
        _, state, steps, programs, _ = runs[mesh]
        sizes[str(mesh)] = held(state)
        weights = jax.tree.leaves((state.trainable, state.frozen))
        cut[str(mesh)] = sum(any(x.sharding.spec) for x in weights)
        state, losses[str(mesh)] = steps(state, STEPS)
        moved[str(mesh)] = arrays_moved(programs[0])
    checkpointer = Checkpointer(Path(folder))
    checkpointer.save(STEPS, state, {}, {"config": {}})
    checkpointer.wait()
    for mesh in meshes[:-1]:
        abstract, _, steps, _, tx = runs[mesh]
        again = checkpointer.restore_latest(abstract, other_layout(abstract, tx)).state
        same = equal(in_trees(again), state) and lies(again, abstract)
        restored[str(mesh)] = {"equal": same, "next_loss": steps(again, 1)[1]}
    checkpointer.close()
    checkpointer = Checkpointer(Path(folder) / "older")
    checkpointer.save(
        STEPS, state.replace(opt_state=jax.jit(bundled)(state.opt_state)), {}, {"config": {}}
    )
    checkpointer.wait()
    abstract, *_, tx = runs[meshes[-1]]
    again = checkpointer.restore_latest(abstract, other_layout(abstract, tx)).state
    from_bundles = equal(again, state) and lies(again, abstract)
    checkpointer.close()
    saved = digest(state)
    whole = local_copy(state.trainable)
    _, next_loss = runs[meshes[-1]][2](state, 1)
    devices = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(whole)}
    result = {"losses": losses, "bytes": sizes, "restored": restored, "next_loss": next_loss}
    result |= {"digest": saved, "cut": cut, "moved": moved, "from_bundles": from_bundles}
    print(json.dumps(result | {"local": [*devices, equal(whole, state.trainable)]}))


if __name__ == "__main__":
    folder, seed, stage, meshes = sys.argv[1:]
    on_meshes(folder, int(seed), int(stage), [tuple(mesh) for mesh in json.loads(meshes)])
