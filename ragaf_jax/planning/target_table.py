"""Plans for devices that are not in this machine, as a table with the program's contents."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from ragaf_jax.errors import UserError
from ragaf_jax.planning.compiled import Account
from ragaf_jax.planning.plan import (
    GIB,
    Plan,
    budget_bytes,
    cheapest,
    flags_of,
    largest,
    own_setting,
    plan,
)
from ragaf_jax.planning.roofline import Bound, bound
from ragaf_jax.planning.shapes import with_known_sizes
from ragaf_jax.planning.table import SIZES_NOTE, aligned
from ragaf_jax.runtime.gpu_memory import share
from ragaf_jax.runtime.sharding import make_mesh
from ragaf_jax.runtime.targets import Target, open_target

BOUND_NOTE = (
    "least ms: the least time at the devices' peak FLOP/s and memory bandwidth; bound by: the "
    "slower of both. Links between devices are not counted. images/s is the rate at that time."
)
GPU_NOTE = (
    "XLA chooses a GPU's algorithms for products and convolutions by timing them on the device: "
    "these programs have its first choices, so peak and bytes may differ slightly."
)


def open_targets(names: Sequence[str], config: ConfigDict) -> list[Target]:
    """The targets, after a check that each can share `config`'s batch.

    Raises:
      UserError: as `open_target` and `make_mesh`.
    """
    targets = [open_target(name) for name in names]
    for target in targets:
        try:
            make_mesh(config, target.devices)
        except UserError as error:
            raise UserError(f"--target={target.name}: {error}") from None
    return targets


def print_target_plans(
    config: ConfigDict, names: Sequence[str], budget_gib: float | None = None
) -> None:
    """`--mode=plan --target=…`: the training step, compiled for each target."""
    config, notice = with_known_sizes(config)
    targets = open_targets(names, config)
    if notice:
        print(notice)
    plans = [plan(config, budget_gib, target) for target in targets]
    print(target_table(config, targets, plans, budget_gib))


def target_table(
    config: ConfigDict,
    targets: Sequence[Target],
    plans: Sequence[Sequence[Plan]],
    budget_gib: float | None = None,
) -> str:
    """A table with a row per target and bucket, for a setting that fits if any, and details.

    Args:
      config: with the sizes of its networks.
      targets, plans: of each target, its plans as `plan` returns them.
      budget_gib: memory of a device; None: what a process may use there.
    """
    sized = any(each.bucket for tried in plans for each in tried)
    header = "remat,accumulation,cache,state GiB,peak GiB,may use GiB,fits,TFLOP,GB moved"
    columns = [*header.split(","), "least ms", "bound by", "images/s", "compiled in s"]
    rows = [["target", *["size"] * sized, *columns]]
    details = []
    for target, tried in zip(targets, plans, strict=True):
        chosen, needed = cheapest(tried, budget_gib), largest(tried)
        shown = chosen or min(needed.values(), key=lambda x: x.account.peak_bytes)
        needs = shown.account
        budget = budget_bytes(tried, budget_gib)
        for each in (each for each in tried if each.setting == shown.setting):
            own = each.account
            flops = each.flops * config.train.batch_size / len(target.devices)
            least = bound(flops, own.moved_bytes, target, config.model.dtype)
            seconds = sum(x.account.seconds for x in tried if x.bucket == each.bucket)
            rows.append(
                [
                    target.name,
                    *[each.bucket] * sized,
                    each.setting.remat,
                    str(each.setting.accumulation),
                    each.setting.cache or "none",
                    f"{own.argument_bytes / GIB:.2f}",
                    f"{own.peak_bytes / GIB:.2f}",
                    f"{(budget or 0) / GIB:.2f}",
                    "yes" if own.peak_bytes <= (budget or 0) else "no",
                    f"{flops / 1e12:.4g}",
                    *bound_cells(own.moved_bytes, least),
                    "–" if least is None else f"{config.train.batch_size / least.seconds:.4g}",
                    f"{seconds:.0f}",
                ]
            )
        size = f", {shown.bucket} px" if sized else ""
        details += [f"{target.name}: {_mesh(config, target)}{size}"]
        if needs.moved_bytes is None:
            details.append("  The compiler refuses it: it needs more memory than the device has.")
        else:
            details += [f"  {line}" for line in contents(needs)]
        if needs.analysed_bytes is not None:
            moved = f"{needs.analysed_bytes / 1e9:.4g} GB"
            details.append(f"  bytes by XLA's own analysis, including on-chip memory: {moved}")
        if chosen is None:
            details.append("  No setting fits: train fewer parameters or a smaller batch.")
        elif chosen.setting != own_setting(config):
            flags = flags_of(chosen.setting)
            details.append(f"  The cheapest of {len(needed)} settings that fits: {flags}")
    head = (
        f"{plans[0][0].trainable / 1e6:.2f} M trainable parameters, "
        f"{plans[0][0].frozen / 1e6:.2f} M frozen; a step of {config.train.batch_size} images, "
        "compiled for other devices. Memory, TFLOP and bytes are those of one device."
    )
    notes = [*[SIZES_NOTE] * sized, *notes_on(targets)]
    return "\n".join([head, "", *aligned(rows), "", *details, "", *notes])


def bound_cells(moved: float | None, least: Bound | None) -> list[str]:
    """Bytes moved, least time and its bound; dashes for a program that the compiler refused."""
    if moved is None or least is None:
        return ["–"] * 3
    return [f"{moved / 1e9:.4g}", f"{1e3 * least.seconds:.4g}", least.by]


def contents(found: Account) -> list[str]:
    """A program's collectives with their bytes, and its attention kernels, as lines."""
    lines = [
        f"{each.times} {kind}, {each.moved_bytes / 1e9:.4g} GB"
        for kind, each in found.collectives.items()
    ]
    kernels = [f"{count} {name}" for name, count in found.attention.items()]
    return [
        f"collectives: {'; '.join(sorted(lines)) or 'none'}",
        f"attention: {', '.join(sorted(kernels)) or 'no kernels'}; the rest by XLA, in tiles",
    ]


def notes_on(targets: Sequence[Target]) -> list[str]:
    """Notes on the bound, on "may use" and on algorithms for these targets."""
    notes = [BOUND_NOTE]
    if any(target.platform == "cuda" for target in targets):
        notes.append(
            f"may use: {share():.0%} of a GPU's memory, as main.py and ragaf_jax.sample set it; "
            "XLA_CLIENT_MEM_FRACTION=0.95 raises it for any command, including a plan."
        )
        notes.append(GPU_NOTE)
    if any(target.platform == "tpu" for target in targets):
        notes.append("may use: a TPU chip's memory less its runtime's share, by libtpu.")
    return notes


def _mesh(config: ConfigDict, target: Target) -> str:
    axes = make_mesh(config, target.devices).shape
    sizes = ", ".join(f"{axis}={size}" for axis, size in axes.items())
    return f"{len(target.devices)} × {target.kind}, mesh {sizes}"
