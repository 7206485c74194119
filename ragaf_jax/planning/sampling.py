"""Plans of sampling on devices that are not in this machine.

Each part is a function of `sampling.stage_sampler`: `begin` (text, regions, noise), `advance` (one
denoising step, with guidance), `decode`, and in Stage 2 with RAGAF `trace`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from ragaf_jax.diffusion.samplers import SAMPLERS
from ragaf_jax.nets.build import build_model
from ragaf_jax.planning.compiled import Account, account
from ragaf_jax.planning.plan import GIB
from ragaf_jax.planning.roofline import bound
from ragaf_jax.planning.shapes import batch_shapes, with_known_sizes
from ragaf_jax.planning.table import aligned
from ragaf_jax.planning.target_table import bound_cells, contents, notes_on
from ragaf_jax.runtime.flops import matmul_flops
from ragaf_jax.runtime.sharding import AXES, replicated
from ragaf_jax.runtime.targets import Target, open_target
from ragaf_jax.sampling.controls.settings import ControlSettings, branch_scales
from ragaf_jax.sampling.sampling_config import (
    TextConditioning,
    sampling_config_of,
    scales_of,
)
from ragaf_jax.sampling.stage_sampler import key_shapes, make_stage_sampler
from ragaf_jax.tokenizer import Tokenizer
from ragaf_jax.training.adopt import with_fields


class PartPlan(NamedTuple):
    """The needs of one part.

    Attributes:
      name: "begin", "advance", "decode" or "trace".
      flops: of its products, over all devices.
      account: of one device.
    """

    name: str
    flops: int
    account: Account


def part_plans(config: ConfigDict, target: Target, per_device: int) -> list[PartPlan]:
    """Compiles the parts of `config.stage` for `per_device` images on each device of a target."""
    model = build_model(config)
    # Only the sizes of a vocabulary matter.
    sampler = make_stage_sampler(model, sampling_config_of(config, Tokenizer.train([""])))
    mesh = Mesh(np.array(target.devices)[:, None], AXES, axis_types=(AxisType.Auto,) * 2)
    count = per_device * len(target.devices)
    shares, whole = NamedSharding(mesh, PartitionSpec(AXES)), replicated(mesh)

    def each(tree: Any, place: NamedSharding) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                jnp.shape(x), jnp.result_type(x), sharding=place, weak_type=isinstance(x, float)
            ),
            tree,
        )

    params = each(model.shapes(), whole)
    requests = {"train.batch_size": count, "train.read_examples": 0}
    square = {"data.cache": "", "data.buckets": ()}
    batch = each(batch_shapes(with_fields(config, requests | square), model), shares)
    keys = each(key_shapes(count), shares)
    steps = config.sample.steps
    branches = (branch_scales(ControlSettings(), model.control.residuals, steps),)
    scales = scales_of(config.sample.to_dict(), model.unet.config)._replace(branches=branches)
    scales, grid = each((scales, sampler.sampling.timestep_grid(steps)), whole)
    prompt = batch.text._replace(ids=batch.text.tokens)
    region_text_ids = jax.ShapeDtypeStruct((count, model.max_regions), jnp.int32, sharding=shares)
    text = TextConditioning(prompt, prompt, region_text_ids, region_text_ids)

    def compiled(name: str, part: Any, *arguments: Any) -> PartPlan:
        jitted = jax.jit(part, compiler_options=target.compiler_options)
        return PartPlan(
            name, matmul_flops(part, *arguments), account(jitted, arguments, mesh, target)
        )

    first = compiled("begin", sampler.begin, params, batch, keys, scales, grid, None, text)
    denoising = first.account.results
    if denoising is None:  # refused: the next parts need more memory
        return [first]
    until = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole, weak_type=True)
    x = denoising.state.x
    state = denoising.state._replace(x0=jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding))
    denoising = denoising._replace(state=state)
    step = params, denoising, keys, scales, grid, until, state
    plans = [
        first,
        compiled("advance", sampler.advance, *step),
        compiled("decode", sampler.decode, params, x),
    ]
    if model.ragaf is not None:
        plans.append(compiled("trace", sampler.trace, params, denoising, keys))
    return plans


def print_sampling_plans(
    config: ConfigDict, names: Sequence[str], per_device: int = 1, budget_gib: float | None = None
) -> None:
    """`--mode=plan --target=… --plan_for=sample`: sampling by `config.stage`, for each target."""
    config, notice = with_known_sizes(config)
    targets = [open_target(name) for name in names]
    if notice:
        print(notice)
    plans = [part_plans(config, target, per_device) for target in targets]
    print(sampling_table(config, targets, plans, per_device, budget_gib))


def sampling_table(
    config: ConfigDict,
    targets: Sequence[Target],
    plans: Sequence[Sequence[PartPlan]],
    per_device: int,
    budget_gib: float | None = None,
) -> str:
    """A table with a row per part of each target, and the least time for its images."""
    header = "target,part,arguments GiB,peak GiB,may use GiB,fits,TFLOP,GB moved,least ms,bound by"
    rows = [[*header.split(","), "compiled in s"]]
    details, steps = [], config.sample.steps
    for target, parts in zip(targets, plans, strict=True):
        budget = target.usable_bytes if budget_gib is None else budget_gib * GIB
        seconds = 0.0
        for name, flops, found in parts:
            flops_here = flops / len(target.devices)
            least = bound(flops_here, found.moved_bytes, target, config.model.dtype)
            rows.append(
                [
                    target.name,
                    name,
                    f"{found.argument_bytes / GIB:.2f}",
                    f"{found.peak_bytes / GIB:.2f}",
                    f"{budget / GIB:.2f}",
                    "yes" if found.peak_bytes <= budget else "no",
                    f"{flops_here / 1e12:.4g}",
                    *bound_cells(found.moved_bytes, least),
                    f"{found.seconds:.0f}",
                ]
            )
            once = math.nan if least is None else least.seconds
            seconds += (steps if name == "advance" else 1) * once
        last = parts[min(1, len(parts) - 1)].account
        details += [f"{target.name}: {len(target.devices)} × {target.kind}"]
        details += [f"  {line}" for line in contents(last)]
        if any(part.account.moved_bytes is None for part in parts):
            details.append(
                "  The compiler refuses a part: it needs more memory than the device has."
            )
        else:
            images = per_device * len(target.devices)
            details.append(
                f"  {images} images in {steps} steps: {1e3 * seconds:.4g} ms at least, "
                f"{images / seconds:.4g} images/s"
            )
    head = (
        f"Sampling of Stage {config.stage}, {per_device} images per device, compiled for other "
        "devices. Memory, TFLOP and bytes are those of one device; advance is one step."
    )
    notes = notes_on(targets)
    if config.sample.sampler in ("heun", "dpm_solver_pp_sde"):
        title = SAMPLERS[config.sample.sampler].title
        notes.append(f"{title} evaluates the networks twice per step; advance counts one.")
    notes.append(
        "Region prompts by attention need more than advance: cross-attention has a text for each, "
        "at least 4, and a second evaluation samples the other regions."
    )
    return "\n".join([head, "", *aligned(rows), "", *details, "", *notes])
