"""The mesh of devices, and the shardings of state and batches.

Batches are sharded over both axes of the mesh. Parameters, their average and the optimiser's state
are sharded over "fsdp" and replicated over "data"; the step gathers each weight before its use
(ZeRO stage 3, Rajbhandari et al. 2020, §5.3; "fully sharded data parallel").
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from ragaf_jax.errors import UserError

AXES = ("data", "fsdp")

# Values of `config.mesh.frozen`: the layout of frozen parameters along "fsdp".
FROZEN = ("sharded", "replicated")

T = TypeVar("T")
Args = ParamSpec("Args")

# Smaller arrays are replicated: gathering them would cost more than it saves.
_LEAST = 256


def make_mesh(config: ConfigDict, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh` over all devices; those of one process are adjacent.

    Args:
      config: `mesh`, and of `train` batch_size, read_examples and accumulation.
      devices: instead of all.

    Raises:
      UserError: the axes do not match the devices, or the devices cannot share the batch equally.
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
                f"config.train.{name} is {train[name]}, which {count} devices with "
                f"{train.accumulation} microbatches (config.train.accumulation) cannot share "
                f"equally; choose a multiple of {count * train.accumulation}."
            )
    grid = np.array(devices).reshape(sizes["data"], sizes["fsdp"])
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2)


def leaf_spec(shape: tuple[int, ...], fsdp: int) -> P:
    """The sharding of an array over "fsdp": along its longest axis that `fsdp` divides, if any.

    Of equal axes the last one is used, the output features of a kernel.
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
    """The shapes with their shardings; arguments as of `state_shardings`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(mesh, shapes, frozen),
    )


def put_batch(mesh: Mesh, batch: T) -> T:
    """Starts the transfer of a batch, or of other arrays of examples, to the devices of a mesh.

    Args:
      mesh: of all processes.
      batch: this process's examples, on the host; those of process p follow those of p − 1.
    """
    sharding = NamedSharding(mesh, P(AXES))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def on_mesh(mesh: Mesh, function: Callable[Args, T]) -> Callable[Args, T]:
    """`function`, with `mesh` set while it is traced and called.

    Compiled networks need this on several devices: attention shards its examples over the set mesh,
    because XLA cannot partition the kernels.
    """

    @functools.wraps(function)
    def call(*args: Args.args, **kwargs: Args.kwargs) -> T:
        with jax.set_mesh(mesh):
            return function(*args, **kwargs)

    return call


def filled(batch: T, devices: int) -> T:
    """The examples, padded by repetition to a multiple of `devices`."""
    count = len(jax.tree.leaves(batch)[0])
    indices = np.arange(-(-count // devices) * devices) % count
    return jax.tree.map(lambda x: x[indices], batch)


def local_copy(tree: Any) -> Any:
    """A state's whole arrays on one device of this process; with a single device, no copy.

    All processes must call it together.
    """
    sharding = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    if sharding is None or len(sharding.device_set) == 1:
        return tree
    whole = jax.device_put(tree, replicated(sharding.mesh))
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)


def cuts(mesh: Mesh | AbstractMesh) -> bool:
    """Whether a mesh shards the state over "fsdp"."""
    return mesh.shape.get("fsdp", 1) > 1


def gathered(params: T, dtype: jax.typing.DTypeLike) -> T:
    """Inside a step: the whole parameters on every device of the current mesh.

    A step gathers each weight once. Otherwise XLA may leave weights sharded and move activations
    hundreds of times per step.

    Args:
      params: sharded by `state_shardings`.
      dtype: of the computation. Weights that networks round to it are gathered in it: bfloat16
        halves the bytes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not cuts(mesh):
        return params

    def gather(path: Any, leaf: jax.Array) -> jax.Array:
        narrow = leaf
        if is_rounded(path) and leaf.dtype != dtype:
            # Without this constraint XLA would gather before rounding.
            spec = leaf_spec(leaf.shape, mesh.shape["fsdp"])
            narrow = jax.lax.with_sharding_constraint(leaf.astype(dtype), spec)
        return jax.lax.with_sharding_constraint(narrow, P()).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(gather, params)


def is_rounded(path: tuple[Any, ...]) -> bool:
    """Whether a network rounds this parameter to the compute dtype before use.

    RAGAF, which is small, uses some kernels in float32.
    """
    network, name = path[0].key, path[-1].key
    return network in ("unet", "control", "text_encoder") and name in ("kernel", "embedding")


def scattered(gradients: T) -> T:
    """Inside a step: gradients sharded like their parameters, so that XLA reduce-scatters them."""
    mesh = jax.sharding.get_abstract_mesh()
    if not cuts(mesh):
        return gradients
    fsdp = mesh.shape["fsdp"]
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, leaf_spec(x.shape, fsdp)), gradients
    )


def spread(examples: T) -> T:
    """Inside a step: arrays [b, …] sharded over both axes of the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return examples
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P(AXES)), examples)
