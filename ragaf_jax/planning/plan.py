"""Memory and FLOPs of a configuration from shapes alone, without allocation.

Bytes are those of one device of `config.mesh`.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from clu.parameter_overview import count_parameters
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from tqdm import tqdm

from ragaf_jax.caches import KINDS
from ragaf_jax.errors import UserError
from ragaf_jax.losses.objective import objective_of
from ragaf_jax.nets.blocks import REMAT
from ragaf_jax.nets.build import build_model
from ragaf_jax.nets.kl_autoencoder import KlAutoencoder
from ragaf_jax.partition import partition
from ragaf_jax.planning.compiled import Account, account, placed
from ragaf_jax.planning.shapes import batch_shapes, by_bucket
from ragaf_jax.runtime.compilation import compiler_options
from ragaf_jax.runtime.flops import matmul_flops
from ragaf_jax.runtime.sharding import AXES, cuts, make_mesh, replicated, state_shardings
from ragaf_jax.runtime.targets import Target
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.adopt import with_fields
from ragaf_jax.training.optim import optimizer
from ragaf_jax.training.setup import abstract_state
from ragaf_jax.training.step import train_step

GIB = 2**30

# Fields of `Setting`, in its order.
_FIELDS = ("model.remat", "train.accumulation", "data.cache")


class Setting(NamedTuple):
    """The values of `model.remat`, `train.accumulation` and `data.cache`.

    The search may change them.
    """

    remat: str
    accumulation: int
    cache: str


class Plan(NamedTuple):
    """The needs of one setting.

    Attributes:
      setting: the fields that were tried.
      trainable, frozen: numbers of parameters.
      flops: of the products in a step, per denoised example.
      device_bytes: the memory that a process may use, or None.
      account: of a step on one device. Its arguments are parameters, average, optimiser and batch.
        Its peak is exact only for the backend that compiled it; other kernels need other buffers.
        On the CPU attention is tiled and stores no scores, as cuDNN's, but XLA computes much of
        bfloat16 in float32.
      bucket: the size of the images as "WIDTHxHEIGHT", px; "" without buckets.
    """

    setting: Setting
    trainable: int
    frozen: int
    flops: float
    device_bytes: int | None
    account: Account
    bucket: str = ""


def flags_of(setting: Setting, prefix: str = "--config.") -> str:
    """The flags of a setting."""
    return " ".join(f"{prefix}{name}={x}" for name, x in zip(_FIELDS, setting, strict=True))


def configured(config: ConfigDict, setting: Setting) -> ConfigDict:
    """`config` with these fields."""
    return with_fields(config, dict(zip(_FIELDS, setting, strict=True)))


def step_and_shapes(config: ConfigDict, cut: bool = False) -> tuple[Any, tuple[Any, Any, Any]]:
    """The training step, and the shapes of its key, state and batch; `cut` as of `optimizer`."""
    model, tx = build_model(config), optimizer(config.train, cut)
    objective = objective_of(config, Tokenizer.train([""]))  # only its sizes matter
    batch = batch_shapes(config, model)
    if batch.text.states is not None:
        encoded = {"states": batch.text.states, "pooled": batch.text.pooled}
        empty = {
            name: np.zeros((1, *x.shape[1:]), np.float32)
            for name, x in encoded.items()
            if x is not None
        }
        text = objective.empty_text._replace(**empty)
        objective = dataclasses.replace(objective, empty_text=text)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = abstract_state(config, model, tx)
    step = functools.partial(train_step, model, tx, config.train.ema_decay, objective)
    return step, (key, state, batch)


def flops_of(config: ConfigDict) -> float:
    """FLOPs of a step per denoised example of the largest bucket; traced, not compiled."""
    step, shapes = step_and_shapes(config)
    return matmul_flops(step, *shapes) / config.train.batch_size


def compiled_plan(
    config: ConfigDict, setting: Setting, flops: float | None = None, target: Target | None = None
) -> Plan:
    """Compiles a step with `setting`: minutes for Stable Diffusion on two CPU cores.

    `config` has the sizes of its networks and at most one bucket, as of `by_bucket`. `flops`, if
    known, are those per denoised example. Without a target, this machine's devices are used.
    """
    config = configured(config, setting)
    mesh = make_mesh(config, None if target is None else target.devices)
    step, (key, state, batch) = step_and_shapes(config, cuts(mesh))
    shares = NamedSharding(mesh, PartitionSpec(AXES))
    in_state = state_shardings(mesh, state, config.mesh.frozen)
    places = replicated(mesh), in_state, jax.tree.map(lambda _: shares, batch)
    device = mesh.devices.flat[0]
    options: dict[str, Any] = compiler_options(config, (device.platform, device.device_kind))
    options = options if target is None else target.compiler_options | options
    jitted = jax.jit(
        step, out_shardings=(places[1], places[0]), donate_argnums=1, compiler_options=options
    )
    arguments = jax.tree.map(placed, (key, state, batch), places)
    return Plan(
        setting,
        count_parameters(state.trainable),
        count_parameters(state.frozen),
        flops_of(config) if flops is None else flops,
        device_bytes() if target is None else target.usable_bytes,
        account(jitted, arguments, mesh, target),
        *config.data.buckets,
    )


def device_bytes() -> int | None:
    """The memory of the first device that this process may use; None if unknown."""
    statistics = jax.local_devices()[0].memory_stats()
    return statistics.get("bytes_limit") if statistics else None


def own_setting(config: ConfigDict) -> Setting:
    """The setting of `config`."""
    return Setting(*(config[name] for name in _FIELDS))


def cacheable(config: ConfigDict) -> tuple[str, ...]:
    """The kinds of caches that a run can use: those of untrained networks on fixed inputs."""
    model = build_model(config)
    kinds: tuple[str, ...] = KINDS if isinstance(model.autoencoder, KlAutoencoder) else ("text",)
    params = model.shapes()
    trainable, _ = partition(params, config.train.trainable, config.train.frozen)
    trained = "text_encoder" in trainable or "text_encoder" in params.get("lora", {})
    if trained or config.data.tags.shuffle or config.data.tags.dropout:
        kinds = tuple(kind for kind in kinds if kind != "text")
    return kinds


def settings(
    config: ConfigDict, caches: Sequence[str], target: Target | None = None
) -> list[Setting]:
    """All settings with the same update and one of these `config.data.cache`."""
    # The numbers of microbatches that divide both kinds of examples on every device.
    devices = make_mesh(config, None if target is None else target.devices).size
    sizes = [config.train[name] // devices for name in ("batch_size", "read_examples")]
    counts = [n for n in range(1, sizes[0] + 1) if not any(size % n for size in sizes)]
    return [Setting(*each) for each in itertools.product(REMAT, counts, caches)]


def search(
    config: ConfigDict,
    candidates: Sequence[Setting],
    budget: float,
    known: Sequence[Plan] = (),
    target: Target | None = None,
) -> list[Plan]:
    """Compiles one setting after the other until a step keeps within `budget` bytes of one device.

    They are ordered by FLOPs, then by the number of microbatches, then `config`'s own first. Of a
    setting the buckets are compiled, the largest first, until one exceeds the budget. If the state
    alone exceeds it, the search ends at once.

    Returns:
      The plans of `known`, then the new ones.
    """
    found = {(plan.setting, plan.bucket): plan for plan in known}
    buckets = by_bucket(config)
    own, flops = own_setting(config), dict[Setting, float]()
    for setting in candidates:
        alike = setting._replace(accumulation=1)  # accumulation does not change the products
        flops[setting] = flops.get(alike) or flops_of(configured(buckets[0], alike))
    ordered = sorted(candidates, key=lambda x: (flops[x], x.accumulation, x != own))
    bar = tqdm(ordered, desc="compile", unit=" setting", leave=False, file=sys.stderr)
    for setting in bar:
        bar.set_postfix(setting._asdict())
        for i, part in enumerate(buckets):
            key = setting, "".join(part.data.buckets)
            if key not in found:
                known_flops = None if i else flops[setting]
                found[key] = compiled_plan(part, setting, known_flops, target)
            needs = found[key].account
            if needs.peak_bytes > budget:
                break
        if needs.peak_bytes <= budget or needs.argument_bytes > budget:
            break
    return list(found.values())


def plan(
    config: ConfigDict, budget_gib: float | None = None, target: Target | None = None
) -> list[Plan]:
    """The plan of `config` and, with a budget, those of other settings that were tried.

    Args:
      config: with the sizes of its networks, as `with_known_sizes` returns it.
      budget_gib: memory of a device; None: the device's own, or no search if that is unknown. For
        a target's own memory, the search starts only if `config` itself does not fit.
      target: as in `compiled_plan`.

    Returns:
      The plans of `config` itself, one for each bucket, then those of `search`.

    Raises:
      UserError: as `build_model` and `objective_of`, or a budget of 0 or less.
    """
    if budget_gib is not None and not budget_gib > 0:
        raise UserError(f"The memory budget is {budget_gib} GiB; give more than 0.")
    own = own_setting(config)
    found = [compiled_plan(part, own, None, target) for part in by_bucket(config)]
    budget = budget_bytes(found, budget_gib)
    needs = largest(found)[own].account
    if budget is None or needs.argument_bytes > budget:
        return found
    if target is not None and budget_gib is None and needs.peak_bytes <= budget:
        return found
    caches = dict.fromkeys((config.data.cache, ",".join(cacheable(config)), ""))
    return search(config, settings(config, tuple(caches), target), budget, found, target)


def largest(plans: Sequence[Plan]) -> dict[Setting, Plan]:
    """The plan of each setting with the highest peak over its buckets."""
    found: dict[Setting, Plan] = {}
    for each in plans:
        other = found.setdefault(each.setting, each)
        if each.account.peak_bytes > other.account.peak_bytes:
            found[each.setting] = each
    return found


def cheapest(plans: Sequence[Plan], budget_gib: float | None = None) -> Plan | None:
    """The setting with the fewest FLOPs whose buckets are all within the budget.

    Returns:
      Its plan with the highest peak; None if no setting fits.
    """
    budget = budget_bytes(plans, budget_gib)
    needs = largest(plans).values()
    fitting = [x for x in needs if budget is not None and x.account.peak_bytes <= budget]
    flops = {x.setting: x.flops for x in reversed(plans)}  # of the first, the largest bucket
    return min(fitting, key=lambda x: (flops[x.setting], x.setting.accumulation), default=None)


def budget_bytes(plans: Sequence[Plan], budget_gib: float | None) -> float | None:
    """The budget in bytes, else the memory of the device; None if unknown."""
    known = plans[0].device_bytes if budget_gib is None else budget_gib * GIB
    return None if known is None else float(known)
