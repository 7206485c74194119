"""Plans for this machine's devices as a table, with the flags to set."""

from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from ragaf_jax.planning.plan import GIB, Plan, budget_bytes, cheapest, flags_of, plan
from ragaf_jax.planning.shapes import with_known_sizes

SIZES_NOTE = (
    "Each size of config.data.buckets is a program of its own, and memory must hold the highest "
    "peak. Other settings are compiled from the largest size on, until one does not fit."
)


def table(plans: Sequence[Plan], budget_gib: float | None = None) -> str:
    """The plans as a table, one row per setting and bucket, with the flags that fit the budget."""
    budget, chosen = budget_bytes(plans, budget_gib), cheapest(plans, budget_gib)
    sized = any(each.bucket for each in plans)
    header = "remat,accumulation,cache,TFLOPs/image,state GiB,peak GiB,fits"
    rows = [[*["size"] * sized, *header.split(",")]]
    for each in plans:
        fits = "" if budget is None else "yes" if each.account.peak_bytes <= budget else "no"
        rows.append(
            [
                *[each.bucket] * sized,
                each.setting.remat,
                str(each.setting.accumulation),
                each.setting.cache or "none",
                f"{each.flops / 1e12:.4g}",
                f"{each.account.argument_bytes / GIB:.2f}",
                f"{each.account.peak_bytes / GIB:.2f}",
                fits,
            ]
        )
    device = plans[0].device_bytes
    memory = "an unknown memory" if device is None else f"{device / GIB:.2f} GiB"
    head = (
        f"{plans[0].trainable / 1e6:.2f} M trainable parameters, "
        f"{plans[0].frozen / 1e6:.2f} M frozen; peak memory as compiled for "
        f"{jax.default_backend()}, whose device has {memory}."
    )
    if sized:
        head += f"\n{SIZES_NOTE}"
    if budget is None:
        end = "No budget was given, so no other setting was tried."
    elif chosen is None:
        end = f"No setting fits {budget / GIB:.2f} GiB: train fewer parameters or a smaller batch."
    else:
        end = f"The cheapest setting that fits {budget / GIB:.2f} GiB: {flags_of(chosen.setting)}"
    return "\n".join([head, "", *aligned(rows), "", end])


def aligned(rows: list[list[str]]) -> list[str]:
    """A table of cells, header first, as lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(n) for cell, n in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(row).rstrip() for row in padded]


def print_plan(config: ConfigDict, budget_gib: float | None = None) -> None:
    """`--mode=plan`: prints the table of the plans of `config`."""
    config, notice = with_known_sizes(config)
    if notice:
        print(notice)
    print(table(plan(config, budget_gib), budget_gib))
