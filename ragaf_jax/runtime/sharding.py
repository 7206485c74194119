"""The mesh of devices, and the shardings of state and batches.

Batches are shared out over both axes of the mesh. Parameters, their average and the optimiser's
numbers are cut along the axis "fsdp" and copied along "data"; the step gathers a weight where it is
used (ZeRO stage 3, Rajbhandari et al. 2020, §5.3; "fully sharded data parallel").
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import ml_collections
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ragaf_jax.errors import UserError

AXES = ("data", "fsdp")

# `config.mesh.frozen`: how frozen parameters lie along "fsdp".
FROZEN = ("sharded", "replicated")

T = TypeVar("T")
Args = ParamSpec("Args")

# An array of fewer numbers is copied to all devices: to gather it takes longer than it saves.
_LEAST = 256


def make_mesh(config: ml_collections.ConfigDict, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh` over all devices, in which those of one process lie side by side.

    Args:
      config: `mesh`, and of `train` batch_size, read_examples and accumulation.
      devices: instead of all.

    Raises:
      UserError: the axes do not take up all devices, or the batch cannot be shared out over them.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: device.process_index)
    count = len(devices)
    sizes = {axis: config.mesh[axis] for axis in AXES}
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    sizes = {axis: count // known if size == -1 else size for axis, size in sizes.items()}
    if sizes["data"] * sizes["fsdp"] != count:
        raise UserError(
            f"config.mesh is data={config.mesh.data}, fsdp={config.mesh.fsdp} and there are {count}"
            f" devices; give two numbers whose product is {count}, or -1 for one of them."
        )
    train = config.train
    for name in ("batch_size", "read_examples"):
        if train[name] % (count * train.accumulation):
            raise UserError(
                f"config.train.{name} is {train[name]} and cannot be shared out evenly over {count}"
                f" devices in {train.accumulation} parts (config.train.accumulation); choose a "
                f"multiple of {count * train.accumulation}."
            )
    grid = np.array(devices).reshape(sizes["data"], sizes["fsdp"])
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2)


def leaf_spec(shape: tuple[int, ...], fsdp: int) -> P:
    """How an array is cut along "fsdp": its longest side that divides evenly, if it has one.

    Of equal sides it is the last, the output features of a kernel.
    """
    fitting = [(size, axis) for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not fitting or np.prod(shape) < _LEAST:
        return P()
    return P(*(None,) * max(fitting)[1], "fsdp")


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def state_shardings(mesh: Mesh | AbstractMesh, state: Any, frozen: str = "sharded") -> Any:
    """The sharding of every leaf of a state (or of parameters), arrays or shapes.

    Args:
      mesh: of all processes.
      state: with "replicated", a `TrainState`.
      frozen: `config.mesh.frozen`, one of `FROZEN`.
    """
    fsdp = mesh.shape["fsdp"]
    shardings = jax.tree.map(lambda leaf: NamedSharding(mesh, leaf_spec(leaf.shape, fsdp)), state)
    if frozen == "replicated":
        return shardings.replace(frozen=jax.tree.map(lambda _: replicated(mesh), state.frozen))
    return shardings


def with_shardings(mesh: Mesh, shapes: Any, frozen: str = "sharded") -> Any:
    """The shapes, each with its sharding; arguments as of `state_shardings`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(mesh, shapes, frozen),
    )


def put_batch(mesh: Mesh, batch: T) -> T:
    """Starts the transfer of a batch, or of other arrays of examples, to the devices that share it.

    Args:
      mesh: of all processes.
      batch: on the host, this process's examples; those of process p follow those of p − 1.
    """
    sharding = NamedSharding(mesh, P(AXES))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def on_mesh(mesh: Mesh, function: Callable[Args, T]) -> Callable[Args, T]:
    """`function`, with `mesh` set while it is traced and called.

    Compiled functions with networks need this on several devices: attention divides its examples by
    the mesh that is set, and XLA cannot partition the kernels.
    """

    @functools.wraps(function)
    def call(*args: Args.args, **kwargs: Args.kwargs) -> T:
        with jax.set_mesh(mesh):
            return function(*args, **kwargs)

    return call


def filled(batch: T, devices: int) -> T:
    """Examples, some of them once more, so that all devices have equally many."""
    count = len(jax.tree.leaves(batch)[0])
    rows = np.arange(-(-count // devices) * devices) % count
    return jax.tree.map(lambda x: x[rows], batch)


def local_copy(tree: Any) -> Any:
    """The whole of a state's arrays on one device of this process, for what that does alone.

    All processes must call it together. Where one device is all there are, the arrays themselves.
    """
    sharding = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    if sharding is None or len(sharding.device_set) == 1:
        return tree
    whole = jax.device_put(tree, replicated(sharding.mesh))
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)


def cuts(mesh: Mesh | AbstractMesh) -> bool:
    """Whether a mesh cuts the state along "fsdp"; inside a step, `get_abstract_mesh` has its."""
    return mesh.shape.get("fsdp", 1) > 1


def gathered(params: T, dtype: jax.typing.DTypeLike) -> T:
    """Inside a step: the parameters whole on every device of the mesh that is set.

    A step gathers each weight once. Without this XLA may leave weights where they are and pass
    activations around instead, hundreds of times a step.

    Args:
      params: as `state_shardings` cuts them.
      dtype: of the computation, in which what networks round to it is gathered: in bfloat16 that
        is half the bytes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not cuts(mesh):
        return params

    def gather(path: Any, leaf: jax.Array) -> jax.Array:
        narrow = leaf
        if is_rounded(path) and leaf.dtype != dtype:
            # Constrained, or XLA would gather first and round then.
            spec = leaf_spec(leaf.shape, mesh.shape["fsdp"])
            narrow = jax.lax.with_sharding_constraint(leaf.astype(dtype), spec)
        return jax.lax.with_sharding_constraint(narrow, P()).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(gather, params)


def is_rounded(path: tuple[Any, ...]) -> bool:
    """Whether its network rounds a parameter to the dtype of the computation before it is used.

    RAGAF, which is small, has kernels that it uses in float32.
    """
    network, name = path[0].key, path[-1].key
    return network in ("unet", "control", "text_encoder") and name in ("kernel", "embedding")


def scattered(gradients: T) -> T:
    """Inside a step: gradients of parameters, cut as `state_shardings` cuts these.

    XLA then sums them over devices by reduce-scatter.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not cuts(mesh):
        return gradients
    fsdp = mesh.shape["fsdp"]
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, leaf_spec(x.shape, fsdp)), gradients
    )


def spread(examples: T) -> T:
    """Inside a step: arrays [b, …] shared out over both axes of the mesh that is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return examples
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P(AXES)), examples)
