"""Stable Diffusion's training steps, compiled for GPUs and TPUs that are not in the machine.

    python -m benchmarks.targets --json=benchmarks/results/targets.json
    python -m benchmarks.targets --only=h200      # the rows of one target

Needs the extras plan-cuda and plan-tpu. A row takes two minutes for an H200, nine for an RTX 4080
and fifteen to twenty-five for a TPU on two cores; rows in the file are not compiled again.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from benchmarks.command import end_with_sentence
from benchmarks.comparison.problem import Job, config_of
from benchmarks.machine import versions
from benchmarks.report import Row, table, write_json
from ragaf_jax.errors import UserError
from ragaf_jax.planning.plan import GIB, compiled_plan, own_setting
from ragaf_jax.planning.roofline import bound
from ragaf_jax.runtime.targets import open_target


class Case(NamedTuple):
    """A step at 512 px in bfloat16 from cached latents and text.

    `batch` is per device; `fsdp` devices share each parameter, and the others have copies.
    """

    target: str
    stage: int
    batch: int
    remat: str
    fsdp: int = 1


CASES = (
    Case("h200", 1, 4, "none"),
    Case("h200", 1, 8, "pointwise"),
    Case("h200", 2, 4, "none"),
    Case("h200", 2, 8, "pointwise"),
    Case("rtx4080", 1, 4, "none"),
    Case("rtx4090", 1, 8, "none"),
    Case("h200x8", 1, 4, "none", fsdp=8),
    Case("v5e-4", 1, 4, "none"),
    Case("v5e-4", 2, 4, "none"),
    Case("v5e-256", 1, 4, "none", fsdp=16),
)


def measured(case: Case) -> Row:
    """Compiles one case."""
    target = open_target(case.target)
    count = len(target.devices)
    job = Job(
        "ours", "step", "sd15", 512, case.batch * count, "bfloat16", stage=case.stage,
        remat=case.remat,
    )  # fmt: skip
    config = config_of(job)
    config.mesh.data, config.mesh.fsdp = -1, case.fsdp
    plan = compiled_plan(config, own_setting(config), target=target)
    flops, needs = plan.flops * case.batch, plan.account
    least = bound(flops, needs.moved_bytes, target, "bfloat16")
    return {
        **case._asdict(),
        "state GiB": round(needs.argument_bytes / GIB, 2),
        "peak GiB": round(needs.peak_bytes / GIB, 2),
        "may use GiB": round(target.usable_bytes / GIB, 2),
        "TFLOP": round(flops / 1e12, 2),
        "GB moved": None if needs.moved_bytes is None else round(needs.moved_bytes / 1e9, 1),
        "GB by XLA": None if needs.analysed_bytes is None else round(needs.analysed_bytes / 1e9, 1),
        "least ms": None if least is None else round(1e3 * least.seconds, 1),
        "bound by": None if least is None else least.by,
        "collectives": {kind: each._asdict() for kind, each in needs.collectives.items()},
        "attention": dict(needs.attention),
        "compiled in, s": round(needs.seconds),
    }


def kept_rows(path: Path) -> dict[Case, Row]:
    """The rows of an earlier output file.

    Raises:
      UserError: it is not of this benchmark.
    """
    try:
        rows = json.loads(path.read_text())["rows"]
        return {Case(*(row[name] for name in Case._fields)): row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(
            f"--json={path} has no rows of this benchmark; choose another file."
        ) from problem


def main() -> None:
    """Compiles the missing rows and prints all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file of the rows")
    names = list(dict.fromkeys(case.target for case in CASES))
    parser.add_argument("--only", choices=names, help="a target; default: all")
    args = parser.parse_args()
    rows = kept_rows(args.json) if args.json and args.json.exists() else {}
    for case in CASES:
        if case not in rows and args.only in (None, case.target):
            print(" ".join(map(str, case)), flush=True)
            rows[case] = measured(case)
            if args.json:
                write_json(args.json, {**versions("jax", "flax"), "rows": list(rows.values())})
    if rows:
        print(table(list(rows.values())))


if __name__ == "__main__":
    end_with_sentence(main)
